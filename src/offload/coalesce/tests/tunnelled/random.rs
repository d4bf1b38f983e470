//! Properties that hold for random datagrams of overlays.

use proptest::prelude::*;

use super::*;
use crate::packet::flow::flow_hash;

/// Generates datagrams of a few outer and inner flows, often with something that prevents merging.
fn any_datagram() -> impl Strategy<Value = Vec<u8>> {
    let overlay = (any::<[bool; 4]>(), 0..3usize, 0..3usize, any::<bool>());
    let packet = (0..10u32, prop_oneof![8 => Just(SEGMENT), 1 => 0..140usize], 0..16u8);
    let damage = prop_oneof![6 => Just(None), 1 => (0..250usize, any::<u8>()).prop_map(Some)];
    (overlay, packet, damage).prop_map(|((bits, kind, tags, checksum), (number, len, trouble), damage)| {
        let [outer6, inner6, flow, df] = bits;
        let mut overlay = Overlay { checksum, vlan_tags: tags / 2, ..Overlay::new(outer6, inner6) };
        if kind > 0 {
            overlay = overlay.with_geneve(8 * (kind - 1));
        }
        overlay.outer.ports.0 += u16::from(flow);
        (overlay.outer.dont_fragment, overlay.inner.dont_fragment) = (df, df);
        let mut packet = overlay.with(number, |build| {
            *build = build.clone().payload(len);
            match trouble {
                0 => build.flags = Flags::ACK.with(Flags::PSH),
                1 => build.flags = Flags::ACK.with(Flags::FIN),
                2 => build.ports.0 += 1,
                3 => build.ttl = 1,
                4 => build.id = 7,
                5 => build.tcp_options = vec![1; 4],
                _ => {}
            }
        });
        if let Some((at, bits)) = damage {
            let at = at % packet.len();
            packet[at] ^= bits;
        }
        packet
    })
}

proptest! {
    #[test]
    fn datagrams_of_a_flow_leave_unchanged_in_the_order_they_came(
        packets in proptest::collection::vec(any_datagram(), 0..200),
        fill: bool,
    ) {
        let trim = |packet: &Vec<u8>| crate::packet::ip::trimmed(packet).unwrap_or(packet).to_vec();
        let trimmed: Vec<_> = packets.iter().map(trim).collect();
        let out = coalesce_within(Limits { fill_checksums: fill, ..LIMITS }, &packets).writes.concat();
        let by_flow = |packets: &[Vec<u8>]| {
            let mut flows = std::collections::BTreeMap::<u32, Vec<Vec<u8>>>::new();
            for packet in packets {
                flows.entry(flow_hash(packet)).or_default().push(packet.clone());
            }
            flows
        };
        prop_assert_eq!(by_flow(&out), by_flow(&trimmed));
    }

    #[test]
    fn cutting_a_superpacket_in_a_tunnel_and_merging_its_segments_gives_it_back(
        overlay in 0..40usize, ids: (u16, u16), len in 1..20_000usize, gso_size in 400..1500u16, push: bool,
    ) {
        let mut overlay = Overlay::all().swap_remove(overlay);
        (overlay.outer.id, overlay.inner.id) = ids;
        let flags = if push { Flags::ACK.with(Flags::PSH) } else { Flags::ACK };
        let inner = Build { flags, ..overlay.inner.clone() }.payload(len);
        let mut whole = overlay.around(0, &inner.tcp());
        let network = overlay.network() as u16;
        let short = inner.tso(gso_size);
        let tunnel = if overlay.outer.v6 { VirtioHeader::GSO_UDP_TUNNEL_IPV6 } else { VirtioHeader::GSO_UDP_TUNNEL_IPV4 };
        let header = VirtioHeader {
            flags: short.flags | if overlay.checksum { VirtioHeader::UDP_TUNNEL_CSUM } else { 0 },
            gso_type: short.gso_type | tunnel,
            csum_start: short.csum_start + network,
            outer_transport: overlay.outer.transport() as u16,
            inner_network: network,
            ..short
        };
        let superpacket = Superpacket::parse(header, &mut whole).unwrap();
        let cut = |i| {
            let mut out = vec![0; superpacket.segment_len(i)];
            superpacket.write_segment(i, &mut out);
            out
        };
        let segments: Vec<_> = (0..superpacket.segments()).map(cut).collect();
        let written = coalesce_within(LIMITS, &segments);
        prop_assert_eq!(written.writes.len(), 1);
        prop_assert_eq!(&written.writes[0], &segments);
        let kind = if segments.len() > 1 { SuperpacketKind::UdpTunnel } else { SuperpacketKind::None };
        prop_assert_eq!(written.kinds, [kind]);
    }
}
