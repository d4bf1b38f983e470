//! Cost per packet of the inside without the kernel: cutting superpackets, coalescing segments, and the checksums
//! of both.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use etherparse::{PacketBuilder, TcpHeader};
use laneway::offload::{
    CloseReason, Coalesced, Limits, SCRATCH, Sink, Superpacket, SuperpacketKind, VIRTIO_HEADER_LEN,
    VirtioHeader, Window, assemble, assemble_tunnel,
};
use laneway::packet::checksum::Sum;

/// Payload bytes of a segment at an MTU of 1,420 bytes, TCP with timestamps.
const SEGMENT: usize = 1420 - 52;
/// Segments per UDP GSO send.
const SEGMENTS: usize = 45;

fn tcp(sequence: u32, id: u16, payload: &[u8]) -> Vec<u8> {
    let mut tcp = TcpHeader::new(1000, 2000, sequence, 512);
    tcp.ack = true;
    tcp.set_options_raw(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]).expect("twelve bytes of options");
    let mut ip =
        etherparse::Ipv4Header::new(0, 64, 6.into(), [10, 1, 0, 1], [10, 2, 0, 1]).expect("an IP header");
    ip.identification = id;
    let ip = etherparse::IpHeaders::Ipv4(ip, etherparse::Ipv4Extensions::default());
    let mut out = Vec::new();
    PacketBuilder::ip(ip).tcp_header(tcp).write(&mut out, payload).expect("a packet");
    out
}

/// Returns a VXLAN datagram around a packet, without a checksum.
fn vxlan(id: u16, inner: &[u8]) -> Vec<u8> {
    let mut payload = vec![8, 0, 0, 0, 0, 0, 7, 0];
    payload.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
    payload.extend(inner);
    let mut ip =
        etherparse::Ipv4Header::new(0, 64, 17.into(), [10, 3, 0, 1], [10, 4, 0, 1]).expect("an IP header");
    ip.identification = id;
    let ip = etherparse::IpHeaders::Ipv4(ip, etherparse::Ipv4Extensions::default());
    let mut out = Vec::new();
    PacketBuilder::ip(ip).udp(40_000, 4789).write(&mut out, &payload).expect("a packet");
    out[26..28].fill(0);
    out
}

/// Assembles superpackets as the writer does before its system call.
struct Assembler(Vec<u8>);

impl Sink for Assembler {
    fn packet(&mut self, packet: &[u8]) {
        self.0[VIRTIO_HEADER_LEN..][..packet.len()].copy_from_slice(packet);
    }

    fn superpacket(&mut self, whole: &Coalesced<'_, '_>) {
        let (header, payloads, gso_size) = (whole.header(), whole.payloads(), whole.gso_size());
        let len = if whole.kind() == SuperpacketKind::UdpTunnel {
            assemble_tunnel(&mut self.0, header, whole.inner(), payloads, gso_size)
        } else {
            assemble(&mut self.0, header, payloads, gso_size)
        };
        black_box(len.expect("a superpacket"));
    }

    fn closed(&mut self, reason: CloseReason) {
        black_box(reason);
    }
}

fn benchmarks(criterion: &mut Criterion) {
    let payload: Vec<u8> = (0..SEGMENT * SEGMENTS).map(|i| i as u8).collect();

    let mut group = criterion.benchmark_group("checksum");
    group.throughput(Throughput::Bytes(SEGMENT as u64));
    group.bench_function("sum", |b| b.iter(|| Sum::of(black_box(&payload[..SEGMENT])).fold()));
    let mut copy = vec![0; SEGMENT];
    group.bench_function("copy and sum", |b| {
        b.iter(|| Sum::copying(black_box(&mut copy), black_box(&payload[..SEGMENT])).fold());
    });
    group.bench_function("copy, then sum", |b| {
        b.iter(|| {
            black_box(&mut copy).copy_from_slice(black_box(&payload[..SEGMENT]));
            Sum::of(black_box(&copy)).fold()
        });
    });
    group.finish();

    let mut group = criterion.benchmark_group("offload");
    group.throughput(Throughput::Bytes((SEGMENT * SEGMENTS) as u64));
    let mut whole = tcp(1, 1, &payload);
    let header = VirtioHeader {
        flags: VirtioHeader::NEEDS_CSUM,
        gso_type: VirtioHeader::GSO_TCPV4,
        gso_size: SEGMENT as u16,
        csum_start: 20,
        csum_offset: 16,
        ..VirtioHeader::default()
    };
    let mut slab = vec![0; 65_536];
    group.bench_function("segment", |b| {
        b.iter(|| {
            let whole = Superpacket::parse(header, black_box(&mut whole)).expect("a good superpacket");
            (0..whole.segments()).fold(0, |at, i| at + whole.write_segment(i, &mut slab[at..]))
        });
    });

    let segments: Vec<_> = (0..SEGMENTS)
        .map(|i| tcp((i * SEGMENT) as u32, i as u16, &payload[i * SEGMENT..][..SEGMENT]))
        .collect();
    let mut assembler = Assembler(vec![0; VirtioHeader::LONG + SCRATCH]);
    group.bench_function("coalesce one flow", |b| {
        b.iter(|| {
            let mut window = Window::new(Limits::SAFE);
            for segment in black_box(&segments) {
                window.push(segment);
            }
            window.flush(&mut assembler);
        });
    });
    let datagrams: Vec<_> = (0..).zip(&segments).map(|(id, segment)| vxlan(id, segment)).collect();
    for (name, limits) in [
        ("coalesce one flow in VXLAN, as UDP", Limits::SAFE),
        ("coalesce one flow in VXLAN, in a tunnel", Limits::SAFE.with_tunnels()),
    ] {
        let limits = Limits { fill_checksums: true, ..limits };
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut window = Window::new(limits);
                for datagram in black_box(&datagrams) {
                    window.push(datagram);
                }
                window.flush(&mut assembler);
            });
        });
    }
    let flows: Vec<_> = (0..SEGMENTS)
        .map(|i| {
            let mut packet = segments[0].clone();
            packet[20..22].copy_from_slice(&(i as u16).to_be_bytes());
            packet
        })
        .collect();
    group.bench_function("coalesce nothing, a flow per packet", |b| {
        b.iter(|| {
            let mut window = Window::new(Limits::SAFE);
            for packet in black_box(&flows) {
                window.push(packet);
            }
            window.flush(&mut assembler);
        });
    });
    group.finish();
}

criterion_group!(benches, benchmarks);
criterion_main!(benches);
