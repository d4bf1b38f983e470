//! Properties that hold for random packets.

use proptest::prelude::*;

use super::*;
use crate::packet::flow::flow_hash;

/// Generates packets of a few flows, often with properties that prevent merging.
fn any_packet() -> impl Strategy<Value = Vec<u8>> {
    let shape = (0..3u16, any::<bool>(), any::<bool>(), 0..12u32, 0..16u8);
    (shape, 0..6u8, prop_oneof![8 => Just(100usize), 1 => 0..140usize]).prop_map(
        |((port, v6, is_udp, n, trouble), damage, len)| {
            let mut build =
                Build { v6, id: n as u16, sequence: n * 100, ports: (port, 9), ..Build::default() }
                    .payload(len);
            match trouble {
                0 => build.flags = Flags::ACK.with(Flags::PSH),
                1 => build.flags = Flags::ACK.with(Flags::FIN),
                2 => build.flags = Flags::SYN,
                3 => build.ttl = 1,
                4 => build.dont_fragment = true,
                5 if !v6 => build.ip_options = vec![1; 8],
                _ => {}
            }
            let mut packet = if is_udp { build.udp() } else { build.tcp() };
            if damage == 0 {
                let at = usize::from(trouble) * packet.len() / 16;
                packet[at] ^= 0x10;
            }
            packet
        },
    )
}

/// Groups packets by flow, preserving their order.
fn by_flow(packets: &[Vec<u8>]) -> std::collections::BTreeMap<u32, Vec<Vec<u8>>> {
    let mut flows = std::collections::BTreeMap::<u32, Vec<Vec<u8>>>::new();
    for packet in packets {
        flows.entry(flow_hash(packet)).or_default().push(packet.clone());
    }
    flows
}

proptest! {
    #[test]
    fn packets_of_a_flow_leave_in_the_order_they_came_and_none_is_lost(
        packets in proptest::collection::vec(any_packet(), 0..400),
    ) {
        // The collector also checks that segmenting each superpacket restores its packets.
        let trimmed: Vec<_> = packets
            .iter()
            .map(|packet| crate::packet::ip::trimmed(packet).unwrap_or(packet).to_vec())
            .collect();
        let out = coalesce(&packets).writes.concat();
        prop_assert_eq!(by_flow(&out), by_flow(&trimmed));
    }

    #[test]
    fn cutting_a_superpacket_and_merging_its_segments_gives_it_back(
        v6: bool, is_udp: bool, id: u16, sequence: u32, len in 1..20_000usize, gso_size in 400..1500u16,
        push: bool,
    ) {
        let flags = if push { Flags::ACK.with(Flags::PSH) } else { Flags::ACK };
        let whole = Build { v6, id, sequence, flags, ..Build::default() }.payload(len);
        let (header, packet) =
            if is_udp { (whole.uso(gso_size), whole.udp()) } else { (whole.tso(gso_size), whole.tcp()) };
        let mut read = packet.clone();
        let superpacket = Superpacket::parse(header, &mut read).unwrap();
        let segments: Vec<_> = (0..superpacket.segments())
            .map(|i| {
                let mut out = vec![0; superpacket.segment_len(i)];
                superpacket.write_segment(i, &mut out);
                out
            })
            .collect();
        let collector = coalesce(&segments);
        prop_assert_eq!(collector.writes.len(), 1);
        prop_assert_eq!(&collector.writes[0], &segments);
        if segments.len() > 1 {
            let at = whole.transport() + 13;
            prop_assert!(is_udp || collector.headers[0][at] == flags.0);
        }
    }

    #[test]
    fn no_bytes_make_it_panic_and_all_come_out(
        packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 0..40),
        first in prop_oneof![Just(0x45u8), Just(0x60u8), any::<u8>()],
    ) {
        let packets: Vec<_> = packets.into_iter().map(|mut p| { if let Some(b) = p.first_mut() { *b = first; } p }).collect();
        let out = coalesce(&packets).writes.concat();
        prop_assert_eq!(out.len(), packets.len());
    }
}
