//! Tests of coalescing. Every superpacket produced here is also assembled, parsed and segmented again,
//! which must restore the original packets.

use crate::offload::coalesce::*;
use crate::offload::testing::Build;
use crate::offload::{
    Limits, SCRATCH, Superpacket, SuperpacketKind, VIRTIO_HEADER_LEN, VirtioHeader, assemble, assemble_tunnel,
};
use crate::packet::Flags;
use crate::units::MAX_PACKET;

mod encapsulated;
mod random;
mod tunnelled;

/// Collects all output and checks that each superpacket segments into its original packets.
#[derive(Default)]
struct Written {
    /// The packets of each write.
    writes: Vec<Vec<Vec<u8>>>,
    headers: Vec<Vec<u8>>,
    kinds: Vec<SuperpacketKind>,
    closes: Vec<CloseReason>,
}

impl Sink for Written {
    fn packet(&mut self, packet: &[u8]) {
        self.writes.push(vec![packet.to_vec()]);
        self.headers.push(Vec::new());
        self.kinds.push(SuperpacketKind::None);
    }

    fn superpacket(&mut self, superpacket: &Coalesced<'_, '_>) {
        let packets: Vec<_> = superpacket.packets().map(<[u8]>::to_vec).collect();
        assert_eq!(packets.len(), superpacket.segments());
        let mut cut = cut_again(superpacket);
        for (i, (cut, packet)) in cut.iter_mut().zip(&packets).enumerate() {
            let tunnel = superpacket.kind() == SuperpacketKind::UdpTunnel;
            if !tunnel && packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 {
                // With "don't fragment" the identification is meaningless and need not be preserved.
                cut[4..6].copy_from_slice(&packet[4..6]);
                cut[10..12].copy_from_slice(&packet[10..12]);
            }
            let checksum = if packet[0] >> 4 == 4 { 26..28 } else { 46..48 };
            if matches!(superpacket.kind(), SuperpacketKind::Uso4 | SuperpacketKind::Uso6)
                && packet[checksum.clone()] == [0; 2]
            {
                // A superpacket gives its segments the checksum that they lack.
                cut[checksum].fill(0);
            }
            assert_eq!(cut, packet, "segment {i}");
        }
        assert_eq!(cut.len(), packets.len());
        self.writes.push(packets);
        self.headers.push(superpacket.header().to_vec());
        self.kinds.push(superpacket.kind());
    }

    fn closed(&mut self, reason: CloseReason) {
        self.closes.push(reason);
    }
}

fn cut_again(superpacket: &Coalesced<'_, '_>) -> Vec<Vec<u8>> {
    let mut frame = vec![0; VirtioHeader::LONG + MAX_PACKET];
    let (header, payloads, gso_size) = (superpacket.header(), superpacket.payloads(), superpacket.gso_size());
    let (header, start, len) = if superpacket.kind() == SuperpacketKind::UdpTunnel {
        let len = assemble_tunnel(&mut frame, header, superpacket.inner(), payloads, gso_size).unwrap();
        (VirtioHeader::decode_long(frame.first_chunk().unwrap()), VirtioHeader::LONG, len)
    } else {
        let len = assemble(&mut frame, header, payloads, gso_size).unwrap();
        (VirtioHeader::decode(*frame.first_chunk().unwrap()), VIRTIO_HEADER_LEN, len)
    };
    assert_eq!(len, start + superpacket.bytes());
    let whole = Superpacket::parse(header, &mut frame[start..len]).unwrap();
    assert_eq!(whole.kind(), superpacket.kind());
    let mut out = vec![0; SCRATCH];
    let cut = |i| {
        let len = whole.write_segment(i, &mut out);
        out[..len].to_vec()
    };
    (0..whole.segments()).map(cut).collect()
}

fn coalesce_within(limits: Limits, packets: &[Vec<u8>]) -> Written {
    let mut collector = Written::default();
    let mut window = Window::new(limits);
    for packet in packets {
        if window.is_full() {
            window.flush(&mut collector);
        }
        window.push(packet);
    }
    window.flush(&mut collector);
    assert!(window.is_empty());
    collector
}

fn coalesce(packets: &[Vec<u8>]) -> Written {
    coalesce_within(Limits::SAFE, packets)
}

/// Returns the number of packets in each write.
fn sizes(packets: &[Vec<u8>]) -> Vec<usize> {
    coalesce(packets).writes.iter().map(Vec::len).collect()
}

/// Returns packet `n` of a TCP flow with 100 payload bytes per packet, modified by `change`.
fn tcp_with(n: u32, change: impl Fn(&mut Build)) -> Vec<u8> {
    let sequence = 1u32.wrapping_add(n * 100);
    let mut build = Build { id: 100 + n as u16, sequence, ..Build::default() }.payload(100);
    change(&mut build);
    build.tcp()
}

fn tcp(n: u32) -> Vec<u8> {
    tcp_with(n, |_| {})
}

/// Returns packet `n` of a UDP flow with 100 payload bytes per packet, modified by `change`.
fn udp_with(n: u16, change: impl Fn(&mut Build)) -> Vec<u8> {
    let mut build = Build { id: 100 + n, ..Build::default() }.payload(100);
    change(&mut build);
    build.udp()
}

fn udp(n: u16) -> Vec<u8> {
    udp_with(n, |_| {})
}

#[test]
fn adjacent_segments_become_one_superpacket() {
    assert_eq!(sizes(&[tcp(0), tcp(1), tcp(2)]), [3]);
    assert_eq!(sizes(&[udp(0), udp(1), udp(2)]), [3]);
    let v6 = |b: &mut Build| b.v6 = true;
    assert_eq!(sizes(&[tcp_with(0, v6), tcp_with(1, v6)]), [2]);
    assert_eq!(sizes(&[udp_with(0, v6), udp_with(1, v6)]), [2]);
    assert_eq!(coalesce(&[tcp(0), tcp(1)]).closes, [CloseReason::BatchEnd]);
}

#[test]
fn many_flows_are_told_apart_and_leave_in_order_of_their_first_packet() {
    let flow = |n: u32, flow: u16| tcp_with(n, |b| b.ports.0 = flow);
    let packets: Vec<_> = (0..4).flat_map(|n| (0..30).map(move |f| flow(n, f))).collect();
    let collector = coalesce(&packets);
    assert_eq!(collector.writes.len(), 30);
    for (f, write) in collector.writes.iter().enumerate() {
        assert_eq!(write[0], flow(0, f as u16));
        assert_eq!(write.len(), 4);
    }
    assert_eq!(sizes(&[tcp(0), udp(0), tcp(1), udp(1)]), [2, 2], "same ports, other protocol");
}

#[test]
fn sequence_numbers_and_identifications_wrap() {
    let wrap = |n: u32| {
        let sequence = (u32::MAX - 149).wrapping_add(n * 100);
        tcp_with(n, |b| (b.sequence, b.id) = (sequence, 0xffff_u16.wrapping_add(n as u16)))
    };
    assert_eq!(sizes(&[wrap(0), wrap(1), wrap(2)]), [3]);
}

#[test]
fn a_gap_an_overlap_or_a_retransmission_starts_a_new_chain_and_never_overtakes() {
    for packets in [
        [tcp(0), tcp(1), tcp(3), tcp(4)],
        [tcp(0), tcp(1), tcp(0), tcp(1)],
        [tcp(0), tcp(1), tcp_with(1, |b| b.sequence += 50), tcp_with(2, |b| b.sequence += 50)],
    ] {
        let collector = coalesce(&packets);
        assert_eq!(collector.writes.concat(), packets);
        assert_eq!(collector.closes[0], CloseReason::Sequence);
        assert_eq!(collector.writes[0].len(), 2);
    }
}

#[test]
fn psh_closes_the_chain_and_is_carried_over() {
    let push = |b: &mut Build| b.flags = Flags::ACK.with(Flags::PSH);
    let collector = coalesce(&[tcp(0), tcp_with(1, push), tcp(2), tcp(3)]);
    assert_eq!(collector.writes.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
    assert_eq!(collector.closes, [CloseReason::Push, CloseReason::BatchEnd]);
    assert_eq!(collector.headers[0][33], Flags::ACK.with(Flags::PSH).0);
    assert_eq!(collector.headers[1][33], Flags::ACK.0);
    assert_eq!(sizes(&[tcp_with(0, push), tcp(1)]), [1, 1], "PSH on the first");
}

#[test]
fn a_shorter_segment_closes_the_chain_and_a_longer_one_starts_another() {
    let short = tcp_with(1, |b| b.payload.truncate(99));
    let after = tcp_with(2, |b| b.sequence -= 1);
    let collector = coalesce(&[tcp(0), short, after]);
    assert_eq!(collector.writes.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(collector.closes[0], CloseReason::Short);

    let long = tcp_with(1, |b| b.payload.push(1));
    let collector = coalesce(&[tcp(0), long]);
    assert_eq!(collector.writes.len(), 2);
    assert_eq!(collector.closes[0], CloseReason::Long);

    assert_eq!(sizes(&[udp(0), udp_with(1, |b| b.payload.truncate(1)), udp(2)]), [2, 1]);
    assert_eq!(
        sizes(&[udp(0), udp_with(1, |b| b.payload.push(1)), udp_with(2, |b| b.payload.push(1))]),
        [1, 2]
    );
}

#[test]
fn a_superpacket_has_64_segments_at_most_and_udp_128_where_the_kernel_takes_it() {
    let segments: Vec<_> = (0..150).map(tcp).collect();
    let collector = coalesce(&segments);
    assert_eq!(collector.writes.iter().map(Vec::len).collect::<Vec<_>>(), [64, 64, 22]);
    assert_eq!(collector.closes, [CloseReason::Segments, CloseReason::Segments, CloseReason::BatchEnd]);
    let datagrams: Vec<_> = (0..150).map(udp).collect();
    assert_eq!(sizes(&datagrams), [64, 64, 22]);
    let newer = Limits::for_kernel("6.9", true, true);
    let writes = coalesce_within(newer, &datagrams).writes;
    assert_eq!(writes.iter().map(Vec::len).collect::<Vec<_>>(), [128, 22]);
}

#[test]
fn a_superpacket_has_65_535_bytes_at_most() {
    // 40 + 45 * 1455 = 65,515 bytes: one more segment would exceed the limit. Then exactly 65,535 bytes.
    let segment = |n: u32| Build { id: n as u16, sequence: n * 1455, ..Build::default() }.payload(1455).tcp();
    let segments: Vec<_> = (0..46).map(segment).collect();
    let collector = coalesce(&segments);
    assert_eq!(collector.writes.iter().map(Vec::len).collect::<Vec<_>>(), [45, 1]);
    assert_eq!(collector.closes[0], CloseReason::Bytes);
    let tail = |len| Build { id: 45, sequence: 45 * 1455, ..Build::default() }.payload(len).tcp();
    assert_eq!(sizes(&[&segments[..45], &[tail(20)]].concat()), [46]);
    assert_eq!(sizes(&[&segments[..45], &[tail(21)]].concat()), [45, 1]);
}

#[test]
fn without_offloads_nothing_is_merged() {
    let packets = [tcp(0), tcp(1), udp(0), udp(1)];
    let collector = coalesce_within(Limits::NONE, &packets);
    assert_eq!(collector.writes.concat(), packets);
    assert_eq!(collector.writes.len(), 4);
    assert_eq!(collector.closes, []);
}

#[test]
fn a_pure_ack_goes_as_it_is_after_what_came_before_it() {
    let ack = tcp_with(2, |b| b.payload.clear());
    let packets = [tcp(0), tcp(1), ack, tcp(2), tcp(3)];
    let collector = coalesce(&packets);
    assert_eq!(collector.writes.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 2]);
    assert_eq!(collector.writes.concat(), packets);
    assert_eq!(collector.closes[0], CloseReason::NoPayload);
}

#[test]
fn an_empty_datagram_mid_flow_keeps_its_place() {
    let packets = [udp(0), udp(1), udp_with(2, |b| b.payload.clear()), udp(3), udp(4)];
    let collector = coalesce(&packets);
    assert_eq!(collector.writes.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 2]);
    assert_eq!(collector.writes.concat(), packets);
}

#[test]
fn syn_fin_rst_urg_and_cwr_close_their_own_flow_in_position_and_no_other() {
    let other = |n| tcp_with(n, |b| b.ports.0 = 7);
    for flag in [Flags::SYN, Flags::FIN, Flags::RST, Flags::URG, Flags::CWR] {
        let special = tcp_with(2, |b| b.flags = Flags::ACK.with(flag));
        let packets = [tcp(0), other(0), tcp(1), special.clone(), tcp(3), other(1), tcp(4)];
        let collector = coalesce(&packets);
        let own = [vec![tcp(0), tcp(1)], vec![special], vec![tcp(3), tcp(4)]];
        assert_eq!(collector.writes.len(), 4, "{flag:?}");
        assert_eq!(collector.writes[1], [other(0), other(1)]);
        assert_eq!([&collector.writes[..1], &collector.writes[2..]].concat(), own);
        assert!(collector.closes.contains(&CloseReason::Flags));
    }
    let no_ack = tcp_with(1, |b| b.flags = Flags(0));
    assert_eq!(sizes(&[tcp(0), no_ack, tcp(2)]), [1, 1, 1]);
}

#[test]
fn ece_is_merged_with_ece_only() {
    let ece = |b: &mut Build| b.flags = Flags::ACK.with(Flags::ECE);
    assert_eq!(sizes(&[tcp(0), tcp(1), tcp_with(2, ece), tcp_with(3, ece), tcp(4)]), [2, 2, 1]);
}

#[test]
fn packets_whose_headers_differ_are_not_merged() {
    type Change<'a> = &'a dyn Fn(&mut Build);
    let timestamps =
        |value: u8| move |b: &mut Build| b.tcp_options = vec![1, 1, 8, 10, 0, 0, 0, value, 0, 0, 0, 9];
    let differ: [(&str, Change<'_>); 8] = [
        ("dscp", &|b| b.tos = 0x20),
        ("ecn", &|b| b.tos = 3),
        ("ttl", &|b| b.ttl = 63),
        ("flow label", &|b| b.flow_label = 8),
        ("window", &|b| b.window += 1),
        ("acknowledgement", &|b| b.acknowledgement += 1),
        ("options", &timestamps(1)),
        ("don't fragment", &|b| b.dont_fragment = true),
    ];
    for (what, change) in differ {
        for (v6, is_udp) in [(false, false), (true, false), (false, true), (true, true)] {
            let expected = match what {
                "flow label" if !v6 => vec![3], // IPv4 has no flow label
                "don't fragment" if v6 => vec![3],
                "window" | "acknowledgement" | "options" if is_udp => vec![3],
                _ => vec![1, 2],
            };
            let packet = |n: u16, changed| {
                let change = |b: &mut Build| {
                    b.v6 = v6;
                    if changed {
                        change(b);
                    }
                };
                if is_udp { udp_with(n, change) } else { tcp_with(n.into(), change) }
            };
            let packets = [packet(0, false), packet(1, true), packet(2, true)];
            assert_eq!(sizes(&packets), expected, "{what}, v6: {v6}, UDP: {is_udp}");
            assert_eq!(coalesce(&packets).writes.concat(), packets);
        }
    }
    assert_eq!(sizes(&[tcp_with(0, timestamps(1)), tcp_with(1, timestamps(2))]), [1, 1]);
    assert_eq!(sizes(&[tcp_with(0, timestamps(1)), tcp_with(1, timestamps(1))]), [2]);
}

#[test]
fn identifications_must_count_up_unless_fragmenting_is_forbidden() {
    let id = |n: u32, id: u16, dont_fragment| tcp_with(n, |b| (b.id, b.dont_fragment) = (id, dont_fragment));
    assert_eq!(sizes(&[id(0, 5, false), id(1, 5, false)]), [1, 1]);
    assert_eq!(sizes(&[id(0, 5, false), id(1, 7, false)]), [1, 1]);
    assert_eq!(sizes(&[id(0, 5, true), id(1, 5, true), id(2, 900, true)]), [3]);
    let id = |n: u16, id: u16, dont_fragment| udp_with(n, |b| (b.id, b.dont_fragment) = (id, dont_fragment));
    assert_eq!(sizes(&[id(0, 5, false), id(1, 5, false), id(2, 7, false)]), [1, 1, 1]);
    assert_eq!(sizes(&[id(0, 5, true), id(1, 5, true), id(2, 900, true)]), [3]);
}

#[test]
fn a_packet_that_cannot_be_parsed_closes_every_chain() {
    let mut broken = tcp(9);
    broken[32] = 0x40;
    let cut = tcp(9)[..30].to_vec();
    for unparsable in [broken, cut, Vec::new(), vec![0; 50]] {
        let packets = [tcp(0), udp(0), unparsable, tcp(1), udp(1)];
        let collector = coalesce(&packets);
        assert_eq!(collector.writes.concat(), packets);
        assert_eq!(collector.writes.len(), 5);
        assert_eq!(collector.closes[..2], [CloseReason::Unparsable; 2]);
    }
}

#[test]
fn fragments_go_as_they_are_and_keep_their_place_between_their_addresses() {
    let mut first = udp(1);
    first[6] = 0x20;
    let mut later = udp(2);
    later[7] = 10;
    let packets = [udp(0), tcp(0), first, later, udp(3), tcp(1)];
    let collector = coalesce(&packets);
    assert_eq!(collector.writes.concat(), packets);
    assert_eq!(collector.writes.len(), 6);
}

#[test]
fn ip_options_and_extension_headers_go_as_they_are_and_close_their_flow() {
    let options = |n| tcp_with(n, |b| b.ip_options = vec![1; 4]);
    let packets = [tcp(0), options(1), options(2), tcp(3), tcp(4)];
    let collector = coalesce(&packets);
    assert_eq!(collector.writes.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1, 2]);
    assert_eq!(collector.closes[0], CloseReason::Ineligible);

    let plain = |n| tcp_with(n, |b| b.v6 = true);
    let extended = |n| tcp_with(n, |b| (b.v6, b.ip_options) = (true, vec![6, 0, 1, 4, 0, 0, 0, 0]));
    assert_eq!(sizes(&[plain(0), extended(1), extended(2), plain(3), plain(4)]), [1, 1, 1, 2]);
}

#[test]
fn other_protocols_pass_between_and_close_nothing() {
    let mut icmp = udp(7);
    icmp[9] = 1;
    assert_eq!(sizes(&[tcp(0), icmp, tcp(1)]), [2, 1]);
}

#[test]
fn a_wrong_checksum_is_never_repaired_by_merging() {
    let corrupt = |mut packet: Vec<u8>| {
        *packet.last_mut().unwrap() ^= 1;
        packet
    };
    for place in 0..3 {
        for build in [|n: u16| tcp(n.into()), udp] {
            let mut packets = [build(0), build(1), build(2)];
            packets[place] = corrupt(packets[place].clone());
            let collector = coalesce(&packets);
            assert_eq!(collector.writes.concat(), packets);
            let with = collector.writes.iter().find(|write| write.contains(&packets[place])).unwrap();
            assert_eq!(with.len(), 1, "the corrupt packet is not merged");
        }
    }
    let mut header = tcp(1);
    header[10] ^= 1;
    assert_eq!(sizes(&[tcp(0), header, tcp(2)]), [1, 1, 1], "an IPv4 header checksum");
}

#[test]
fn udp_without_a_checksum_is_not_merged() {
    let without = |n| {
        let mut packet = udp(n);
        packet[26..28].fill(0);
        packet
    };
    let packets = [udp(0), udp(1), without(2), without(3), udp(4), udp(5)];
    let collector = coalesce(&packets);
    assert_eq!(collector.writes.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1, 1, 2]);
    assert_eq!(collector.writes.concat(), packets);
}

#[test]
fn padding_is_trimmed_before_anything_looks_at_it() {
    let padded = |packet: Vec<u8>| [&packet[..], &[0; 12]].concat();
    assert_eq!(coalesce(&[padded(udp(0)), padded(udp(1))]).writes, [[udp(0), udp(1)]]);
    let collector = coalesce(&[padded(tcp(0)), padded(tcp(1)), padded(tcp_with(2, |b| b.payload.clear()))]);
    assert_eq!(collector.writes, [vec![tcp(0), tcp(1)], vec![tcp_with(2, |b| b.payload.clear())]]);
}

#[test]
fn a_chain_of_one_is_byte_identical_to_what_came() {
    let mut corrupt = tcp(0);
    corrupt[37] ^= 0xff;
    for packet in [tcp(0), udp(0), corrupt, tcp_with(0, |b| b.v6 = true)] {
        assert_eq!(coalesce(std::slice::from_ref(&packet)).writes, [[packet]]);
    }
}
