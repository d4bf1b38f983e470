//! Input from the workload: arbitrary packets and superpackets on the TUN, and streams of packets to coalesce.

use std::collections::BTreeMap;

use etherparse::{IpHeaders, Ipv4Header, PacketBuilder, PacketBuilderStep, SlicedPacket, TransportSlice};
use laneway::offload::{
    CAPACITY, CloseReason, Coalesced, Limits, Sink, Superpacket, SuperpacketKind, VIRTIO_HEADER_LEN,
    VirtioHeader, Window, assemble, assemble_tunnel,
};
use laneway::packet::flow::lane_of;
use laneway::packet::{Tcp, Udp, ip, protocol};

use super::Taker;

/// Checks that the header views are consistent, and agree with etherparse on the packets it accepts.
pub fn views(bytes: &[u8]) {
    let _ = lane_of(bytes, 3);
    let Some(packet) = ip::trimmed(bytes) else { return };
    assert_eq!(ip::trimmed(packet), Some(packet), "trimming twice trims once");
    let addresses = (ip::source(packet).unwrap(), ip::destination(packet).unwrap());
    let transport = ip::transport(packet);
    if let Some(transport) = transport {
        let payload = &packet[transport.offset..];
        match transport.protocol {
            protocol::TCP => {
                if let Some(tcp) = Tcp::new_checked(payload) {
                    assert!(tcp.header_len() <= payload.len());
                    assert_eq!(tcp.options().len(), tcp.header_len() - 20);
                }
            }
            protocol::UDP => {
                let _ = Udp::new_checked(payload).map(|udp| (udp.len(), udp.checksum()));
            }
            _ => {}
        }
    }
    let Ok(other) = SlicedPacket::from_ip(packet) else { return };
    match other.net {
        Some(etherparse::NetSlice::Ipv4(v4)) => {
            let header = v4.header();
            assert_eq!(addresses, (header.source_addr().into(), header.destination_addr().into()));
        }
        Some(etherparse::NetSlice::Ipv6(v6)) => {
            let header = v6.header();
            assert_eq!(addresses, (header.source_addr().into(), header.destination_addr().into()));
        }
        _ => panic!("another parser finds no IP header"),
    }
    if let Some(TransportSlice::Tcp(tcp)) = other.transport {
        let ours = transport.filter(|transport| transport.protocol == protocol::TCP && !transport.fragment);
        let ours = ours.and_then(|transport| Tcp::new_checked(&packet[transport.offset..]));
        if let Some(ours) = ours {
            assert_eq!((ours.sequence(), ours.options()), (tcp.sequence_number(), tcp.options()));
        }
    }
}

/// Parses a virtio header and a packet, as a process with a raw socket can make the kernel produce them: rejected,
/// or cut into whole packets that contain the payload once.
pub fn superpacket(bytes: &[u8]) {
    const TUNNEL: u8 = VirtioHeader::GSO_UDP_TUNNEL_IPV4 | VirtioHeader::GSO_UDP_TUNNEL_IPV6;
    let Some((header, packet)) = bytes.split_first_chunk::<VIRTIO_HEADER_LEN>() else { return };
    let mut header = VirtioHeader::decode(*header);
    let mut packet = packet;
    if header.gso_type & TUNNEL != 0 {
        let Some((long, behind)) = bytes.split_first_chunk() else { return };
        (header, packet) = (VirtioHeader::decode_long(long), behind);
    }
    let mut packet = packet[..packet.len().min(65_535)].to_vec();
    let Ok(whole) = Superpacket::parse(header, &mut packet) else { return };
    let segments = segments(&whole);
    if segments.len() == 1 {
        assert!(segments[0].len() <= whole.packet().len());
        return;
    }
    // In a tunnel, each segment is an inner packet in an outer one.
    let inner = if whole.kind() == SuperpacketKind::UdpTunnel { header.inner_network.into() } else { 0 };
    let payload = |segment: &Vec<u8>| payload(&segment[inner..]).to_vec();
    let headers = whole.stride() - payload(&segments[0]).len();
    let joined: Vec<u8> = segments.iter().flat_map(payload).collect();
    assert_eq!(joined, whole.packet()[headers..], "the payload comes out once");
    for segment in &segments {
        assert_eq!(ip::packet_len(segment), Some(segment.len()));
        assert_eq!(ip::packet_len(&segment[inner..]), Some(segment.len() - inner));
        assert_eq!(ip::destination(segment), Some(whole.destination()));
    }
}

/// Coalesces a batch of packets and cuts it again, with and without superpackets inside tunnels: each flow is
/// unchanged and in order. The identification of packets that may not be fragmented may change outside of tunnels.
pub fn coalesce(bytes: &[u8]) {
    let packets = stream(bytes);
    for limits in [Limits::SAFE, Limits::SAFE.with_tunnels()] {
        let mut sink = Cutter { scratch: vec![0; VirtioHeader::LONG + 65_535], out: Vec::new() };
        for batch in packets.chunks(CAPACITY) {
            let mut window = Window::new(limits);
            for packet in batch {
                window.push(packet);
            }
            window.flush(&mut sink);
        }
        assert_eq!(sink.out.len(), packets.len(), "packets were lost or doubled");
        assert_eq!(by_flow(&sink.out), by_flow(&packets));
    }
}

/// Returns all segments of a superpacket.
fn segments(whole: &Superpacket<'_>) -> Vec<Vec<u8>> {
    let cut = |index| {
        let mut segment = vec![0; whole.segment_len(index)];
        assert_eq!(whole.write_segment(index, &mut segment), segment.len());
        segment
    };
    (0..whole.segments()).map(cut).collect()
}

/// Returns what follows the transport header.
fn payload(packet: &[u8]) -> &[u8] {
    let transport = ip::transport(packet).expect("a packet that was segmented");
    let behind = &packet[transport.offset..];
    match transport.protocol {
        protocol::TCP => &behind[Tcp::new_checked(behind).expect("a TCP header").header_len()..],
        _ => &behind[Udp::HEADER..],
    }
}

/// Cuts superpackets as the kernel would.
struct Cutter {
    scratch: Vec<u8>,
    out: Vec<Vec<u8>>,
}

impl Sink for Cutter {
    fn packet(&mut self, packet: &[u8]) {
        self.out.push(packet.to_vec());
    }

    fn superpacket(&mut self, whole: &Coalesced<'_, '_>) {
        const VALID: &str = "a chain within the limits is a superpacket";
        let (header, payloads, gso_size) = (whole.header(), whole.payloads(), whole.gso_size());
        let tunnel = whole.kind() == SuperpacketKind::UdpTunnel;
        let (header, packet) = if tunnel {
            let len =
                assemble_tunnel(&mut self.scratch, header, whole.inner(), payloads, gso_size).expect(VALID);
            let (header, packet) = self.scratch[..len].split_first_chunk_mut().unwrap();
            (VirtioHeader::decode_long(header), packet)
        } else {
            let len = assemble(&mut self.scratch, header, payloads, gso_size).expect(VALID);
            let (header, packet) = self.scratch[..len].split_first_chunk_mut().unwrap();
            (VirtioHeader::decode(*header), packet)
        };
        let cut = Superpacket::parse(header, packet).expect("we take what we write");
        assert_eq!(cut.segments(), whole.segments());
        if tunnel {
            assert!(segments(&cut).iter().eq(whole.packets()), "nothing of an encapsulated packet changes");
        }
        self.out.extend(segments(&cut));
    }

    fn closed(&mut self, _: CloseReason) {}
}

/// Groups packets by flow (addresses, protocol and ports; an empty key without them), in order.
fn by_flow(packets: &[Vec<u8>]) -> BTreeMap<Vec<u8>, Vec<Vec<u8>>> {
    let mut flows = BTreeMap::<_, Vec<_>>::new();
    for packet in packets {
        flows.entry(flow(packet).unwrap_or_default()).or_default().push(comparable(packet));
    }
    flows
}

fn flow(packet: &[u8]) -> Option<Vec<u8>> {
    let packet = ip::trimmed(packet)?;
    let transport = ip::transport(packet)?;
    let ports = packet.get(transport.offset..transport.offset + 4).filter(|_| !transport.fragment);
    Some([ip::addresses(packet)?, &[transport.protocol], ports.unwrap_or_default()].concat())
}

/// Returns the packet without padding. If it may not be fragmented, identification and header checksum are
/// zeroed: the identification has no meaning then (RFC 6864, section 4.1).
fn comparable(packet: &[u8]) -> Vec<u8> {
    let Some(trimmed) = ip::trimmed(packet) else { return packet.to_vec() };
    let mut packet = trimmed.to_vec();
    if packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 {
        packet[4..6].fill(0);
        packet[10..12].fill(0);
    }
    packet
}

/// Generates a stream of packets. Each takes a few bytes of input that say how it differs from the one before, so
/// that most can be coalesced; some packets are raw input.
fn stream(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut take = Taker(bytes);
    let mut packets = Vec::new();
    let mut next = [1_u32; 4];
    while !take.0.is_empty() && packets.len() < 2 * CAPACITY {
        let (shape, change) = (take.byte(), take.byte());
        if shape == 0xff {
            let len = take.u16() % 2048;
            packets.push(take.bytes(len.into()).to_vec());
            continue;
        }
        let flow = usize::from(shape & 3);
        let len = [1368, 1000, 100, 0][usize::from(shape >> 2 & 3)] + usize::from(shape >> 7);
        let payload: Vec<u8> = (0..len).map(|at| (at as u8) ^ change).collect();
        let ttl = if change & 0x1e == 0x1e { 63 } else { 64 };
        let ports = (1000 + flow as u16, 2000);
        let mut packet = Vec::new();
        let v6 = shape & 0x10 != 0;
        let builder = if v6 {
            PacketBuilder::ipv6([1; 16], [2; 16], ttl)
        } else {
            ipv4([10, 0, 0, 1], [10, 0, 0, 2], ttl, packets.len() as u16)
        };
        if shape & 0x20 != 0 && change & 0x40 != 0 {
            let inner = encapsulated(shape, change, next[flow], packets.len() as u16, &payload);
            let port = if change & 0x80 != 0 { 6081 } else { 4789 };
            builder.udp(ports.0, port).write(&mut packet, &inner).unwrap();
        } else if shape & 0x20 != 0 {
            builder.udp(ports.0, ports.1).write(&mut packet, &payload).unwrap();
        } else {
            let mut tcp = builder.tcp(ports.0, ports.1, next[flow], 512);
            if change & 0x20 != 0 {
                tcp = tcp.psh();
            }
            if change & 0xc1 == 0x41 {
                tcp = tcp.fin();
            }
            if change & 0xc1 == 0x81 {
                tcp = tcp.syn();
            }
            tcp.ack(7).write(&mut packet, &payload).unwrap();
        }
        next[flow] = next[flow].wrapping_add(len as u32);
        if shape & 0x40 != 0 {
            // A corrupt byte, perhaps in a header or checksum.
            let at = usize::from(take.u16()) % packet.len();
            packet[at] ^= take.byte();
        }
        packets.push(packet);
    }
    packets
}

/// Generates a TCP segment inside VXLAN or Geneve.
fn encapsulated(shape: u8, change: u8, sequence: u32, id: u16, payload: &[u8]) -> Vec<u8> {
    let mut out = if change & 0x80 != 0 {
        vec![1, 0, 0x65, 0x58, 0, 0, 7, 0, 1, 2, 3, 0]
    } else {
        vec![8, 0, 0, 0, 0, 0, 7, 0]
    };
    out.extend([2; 12]);
    let builder = if shape & 4 != 0 {
        out.extend([0x86, 0xdd]);
        PacketBuilder::ipv6([3; 16], [4; 16], 64)
    } else {
        out.extend([0x08, 0x00]);
        ipv4([10, 9, 0, 1], [10, 9, 0, 2], 64, id)
    };
    let mut tcp = builder.tcp(7, 8, sequence, 512);
    if change & 0x20 != 0 {
        tcp = tcp.psh();
    }
    tcp.ack(7).write(&mut out, payload).unwrap();
    out
}

fn ipv4(source: [u8; 4], destination: [u8; 4], ttl: u8, id: u16) -> PacketBuilderStep<IpHeaders> {
    let mut header = Ipv4Header::new(0, ttl, 6.into(), source, destination).unwrap();
    (header.dont_fragment, header.identification) = (true, id);
    PacketBuilder::ip(IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default()))
}
