//! Tests of segmentation against an independent packet builder: segment i of a superpacket must be
//! byte for byte what the builder writes for that slice of the payload.

use proptest::prelude::*;

use crate::drops::DropReason;
use crate::offload::segment::*;
use crate::offload::testing::Build;
use crate::offload::virtio::VirtioHeader;

/// Parses a TUN read and returns all its segments.
fn segments(header: VirtioHeader, mut packet: Vec<u8>) -> Result<Vec<Vec<u8>>, DropReason> {
    let superpacket = Superpacket::parse(header, &mut packet)?;
    let mut out = vec![0xee; 70_000];
    Ok((0..superpacket.segments())
        .map(|i| {
            let len = superpacket.write_segment(i, &mut out);
            assert_eq!(len, superpacket.segment_len(i));
            assert!(len <= superpacket.stride());
            out[..len].to_vec()
        })
        .collect())
}

/// Returns the packets that a sender without offloads would send instead of `whole`.
fn expected(whole: &Build, gso_size: usize, write: fn(&Build) -> Vec<u8>) -> Vec<Vec<u8>> {
    let count = whole.payload.len().div_ceil(gso_size).max(1);
    (0..count)
        .map(|i| {
            let end = whole.payload.len().min((i + 1) * gso_size);
            let mut flags = whole.flags;
            if i != 0 {
                flags = flags.without(Flags::CWR);
            }
            if i + 1 != count {
                flags = flags.without(Flags::FIN.with(Flags::PSH));
            }
            write(&Build {
                id: whole.id.wrapping_add(i as u16),
                sequence: whole.sequence.wrapping_add((i * gso_size) as u32),
                flags,
                payload: whole.payload[i * gso_size..end].to_vec(),
                ..whole.clone()
            })
        })
        .collect()
}

fn assert_tso(whole: &Build, gso_size: u16) {
    let got = segments(whole.tso(gso_size), whole.tcp()).unwrap();
    assert_eq!(got, expected(whole, gso_size.into(), Build::tcp));
}

fn assert_uso(whole: &Build, gso_size: u16) {
    let got = segments(whole.uso(gso_size), whole.udp()).unwrap();
    assert_eq!(got, expected(whole, gso_size.into(), Build::udp));
}

fn both_versions() -> [Build; 2] {
    [Build::default(), Build::v6()]
}

#[test]
fn tcp_is_cut_evenly_and_with_an_odd_tail() {
    for whole in both_versions() {
        assert_tso(&whole.clone().payload(3 * 1000), 1000);
        assert_tso(&whole.clone().payload(3 * 1000 + 1), 1000);
        assert_tso(&whole.payload(3 * 1001 + 7), 1001);
    }
}

#[test]
fn udp_is_cut_evenly_and_with_an_odd_tail() {
    for whole in both_versions() {
        assert_uso(&whole.clone().payload(3 * 1200), 1200);
        assert_uso(&whole.clone().payload(3 * 1200 + 1), 1200);
        assert_uso(&whole.payload(3 * 1201 + 7), 1201);
    }
}

#[test]
fn segments_smaller_than_their_header_are_right() {
    for whole in both_versions() {
        assert_tso(&whole.clone().payload(50), 1);
        assert_uso(&whole.payload(50), 3);
    }
}

#[test]
fn the_longest_superpacket_is_cut() {
    for whole in both_versions() {
        assert_tso(&whole.clone().payload(65_535 - 60), 1380);
        assert_uso(&whole.payload(65_535 - 60), 1380);
    }
}

#[test]
fn cwr_is_on_the_first_only_ece_on_all_fin_and_psh_on_the_last_only() {
    let flags = Flags(0xff).without(Flags::SYN.with(Flags::RST));
    let whole = Build { flags, ..Build::default() }.payload(400);
    assert_tso(&whole, 100);
    let mut header = whole.tso(100);
    header.gso_type |= VirtioHeader::GSO_ECN;
    let flags: Vec<_> = segments(header, whole.tcp()).unwrap().iter().map(|s| Flags(s[33])).collect();
    let rest = Flags::ACK.with(Flags::URG).with(Flags::ECE);
    let last = rest.with(Flags::FIN).with(Flags::PSH);
    assert_eq!(flags, [rest.with(Flags::CWR), rest, rest, last]);
}

#[test]
fn identification_and_sequence_wrap() {
    let whole = Build { id: 0xfffe, sequence: u32::MAX - 150, ..Build::default() };
    assert_tso(&whole.clone().payload(500), 100);
    assert_uso(&whole.payload(500), 100);
}

#[test]
fn identification_counts_up_whatever_dont_fragment_says() {
    let whole = Build { dont_fragment: true, ..Build::default() }.payload(500);
    assert_tso(&whole, 100);
    assert_uso(&whole, 100);
}

#[test]
fn congestion_marks_ttl_and_flow_label_are_copied() {
    for whole in both_versions() {
        let whole = Build { tos: 0xb8 | 3, ttl: 3, flow_label: 0xabcde, ..whole }.payload(500);
        assert_tso(&whole, 100);
        assert_uso(&whole, 100);
    }
}

#[test]
fn sixty_byte_headers_are_good_packets() {
    let whole = Build { ip_options: vec![1; 40], tcp_options: vec![1; 40], ..Build::default() };
    assert_tso(&whole.clone().payload(500), 100);
    assert_uso(&whole.payload(500), 100);
}

#[test]
fn the_payload_length_counts_extension_headers() {
    // The builder cannot set the next header field of the destination options.
    for (udp, next) in [(false, 6), (true, 17)] {
        let whole = Build { ip_options: vec![next, 0, 1, 4, 0, 0, 0, 0], ..Build::v6() }.payload(500);
        if udp {
            assert_uso(&whole, 100);
        } else {
            assert_tso(&whole, 100);
        }
    }
}

#[test]
fn headers_alone_are_one_segment() {
    for whole in both_versions() {
        assert_tso(&whole, 100);
        assert_uso(&whole, 100);
    }
}

#[test]
fn the_smallest_udp_superpacket_is_cut() {
    let whole = Build::default().payload(12);
    assert_eq!(whole.udp().len(), 40);
    assert_uso(&whole, 6);
}

#[test]
fn the_header_length_hint_may_lie() {
    let whole = Build::default().payload(1000);
    for hdr_len in [0, 1, u16::MAX] {
        let header = VirtioHeader { hdr_len, ..whole.tso(300) };
        assert_eq!(segments(header, whole.tcp()).unwrap(), expected(&whole, 300, Build::tcp));
    }
}

#[test]
fn a_superpacket_without_needs_csum_is_cut_by_its_own_headers() {
    let whole = Build::default().payload(1000);
    let header = VirtioHeader { flags: 0, csum_start: 0, csum_offset: 0, ..whole.tso(300) };
    assert_eq!(segments(header, whole.tcp()).unwrap(), expected(&whole, 300, Build::tcp));
}

#[test]
fn a_udp_checksum_of_zero_is_sent_as_ones_and_tcps_zero_is_kept() {
    // The last two bytes are chosen so that the checksum is zero.
    let balance = |mut whole: Build, write: fn(&Build) -> Vec<u8>, at: usize| {
        let packet = write(&whole);
        let sum = u16::from_be_bytes([packet[at], packet[at + 1]]);
        let end = whole.payload.len() - 2;
        assert_eq!(whole.payload[end..], [0, 0]);
        whole.payload[end..].copy_from_slice(&sum.to_be_bytes());
        whole
    };
    let zeros = Build { payload: vec![0; 100], ..Build::default() };
    let udp = balance(zeros.clone(), Build::udp, 26);
    assert_eq!(segments(udp.uso(100), udp.udp()).unwrap()[0][26..28], [0xff, 0xff]);
    let tcp = balance(zeros, Build::tcp, 36);
    assert_eq!(segments(tcp.tso(100), tcp.tcp()).unwrap()[0][36..38], [0, 0]);
}

#[test]
fn an_unfinished_checksum_is_finished_from_its_seed() {
    for whole in both_versions() {
        let whole = whole.payload(101);
        for (packet, header) in [(whole.tcp(), whole.tso(0)), (whole.udp(), whole.uso(0))] {
            let mut unfinished = packet.clone();
            let start = whole.transport();
            let field = start + usize::from(header.csum_offset);
            let protocol = if header.csum_offset == 6 { 17 } else { 6 };
            let addresses = crate::packet::ip::addresses(&packet).unwrap();
            let seed = crate::packet::checksum::pseudo_header(addresses, protocol)
                .with_u16((packet.len() - start) as u16)
                .fold();
            unfinished[field..field + 2].copy_from_slice(&seed.to_be_bytes());
            // Bytes after the packet must not be summed.
            unfinished.extend([0xff; 3]);
            let header = VirtioHeader { gso_type: VirtioHeader::GSO_NONE, ..header };
            assert_eq!(segments(header, unfinished).unwrap(), [packet]);
        }
    }
}

#[test]
fn a_plain_packet_is_its_only_segment() {
    let packet = Build::default().payload(33).udp();
    assert_eq!(segments(VirtioHeader::default(), packet.clone()).unwrap(), [packet]);
}

#[test]
fn each_refusal_has_its_reason() {
    let whole = Build::default().payload(1000);
    let tso = whole.tso(300);
    let refused = |header: VirtioHeader, packet: Vec<u8>| segments(header, packet).unwrap_err();
    let tcp = |change: fn(&mut VirtioHeader)| {
        let mut header = tso;
        change(&mut header);
        refused(header, whole.tcp())
    };
    assert_eq!(tcp(|h| h.gso_type = VirtioHeader::GSO_UDP), DropReason::GsoType);
    assert_eq!(tcp(|h| h.gso_type = 2), DropReason::GsoType);
    assert_eq!(tcp(|h| h.gso_type = 0x11), DropReason::GsoType);
    // In a tunnel over IPv6, says the type.
    assert_eq!(tcp(|h| h.gso_type = 0x41), DropReason::GsoMismatch);
    assert_eq!(tcp(|h| h.flags |= VirtioHeader::RSC_INFO), DropReason::GsoType);
    assert_eq!(tcp(|h| h.gso_type = VirtioHeader::GSO_TCPV6), DropReason::GsoMismatch);
    assert_eq!(tcp(|h| h.gso_type = VirtioHeader::GSO_UDP_L4), DropReason::GsoMismatch);
    assert_eq!(tcp(|h| h.gso_type = VirtioHeader::GSO_ECN), DropReason::GsoEcn);
    assert_eq!(tcp(|h| h.gso_type = VirtioHeader::GSO_ECN | VirtioHeader::GSO_UDP_L4), DropReason::GsoEcn);
    assert_eq!(tcp(|h| h.gso_size = 0), DropReason::GsoSize);
    assert_eq!(tcp(|h| h.csum_start = 19), DropReason::ChecksumStart);
    assert_eq!(tcp(|h| h.csum_start = u16::MAX), DropReason::ChecksumStart);
    assert_eq!(tcp(|h| h.csum_offset = 6), DropReason::ChecksumStart);
    assert_eq!(tcp(|h| h.csum_offset = u16::MAX), DropReason::ChecksumStart);

    let v6 = Build::v6().payload(1000);
    let tcp6 = |change: fn(&mut VirtioHeader)| {
        let mut header = v6.tso(300);
        change(&mut header);
        refused(header, v6.tcp())
    };
    assert_eq!(tcp6(|h| h.gso_type = VirtioHeader::GSO_TCPV4), DropReason::GsoMismatch);
    assert_eq!(tcp6(|h| h.csum_start = 39), DropReason::ChecksumStart);
    assert_eq!(refused(tso, whole.udp()), DropReason::GsoMismatch, "TSO of UDP");
    assert_eq!(refused(whole.uso(300), whole.tcp()), DropReason::GsoMismatch, "USO of TCP");

    let plain = |csum_start, csum_offset| {
        let flags = VirtioHeader::NEEDS_CSUM;
        refused(VirtioHeader { flags, csum_start, csum_offset, ..VirtioHeader::default() }, whole.tcp())
    };
    assert_eq!(plain(19, 16), DropReason::ChecksumStart);
    assert_eq!(plain(20, 1020), DropReason::ChecksumStart);
    assert_eq!(plain(u16::MAX, u16::MAX), DropReason::ChecksumStart);

    let packet = |change: fn(&mut Vec<u8>)| {
        let mut packet = whole.tcp();
        change(&mut packet);
        refused(tso, packet)
    };
    assert_eq!(packet(Vec::clear), DropReason::ShortRead);
    assert_eq!(packet(|p| p.truncate(19)), DropReason::ShortRead);
    assert_eq!(packet(|p| p[0] = 0x55), DropReason::NotIp);
    assert_eq!(packet(|p| p[0] = 0x44), DropReason::IpLength);
    assert_eq!(packet(|p| p.truncate(999)), DropReason::IpLength);
    assert_eq!(packet(|p| p[32] = 0x40), DropReason::TransportHeader);
    assert_eq!(packet(|p| p[6] = 0x20), DropReason::GsoMismatch, "a fragment");
    let cut = |p: &mut Vec<u8>| p[2..4].copy_from_slice(&39u16.to_be_bytes());
    assert_eq!(packet(cut), DropReason::TransportHeader);
}

proptest! {
    #[test]
    fn no_bytes_and_no_header_make_it_panic(
        header in any::<[u8; 10]>(),
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let _ = segments(VirtioHeader::decode(header), bytes);
    }

    #[test]
    fn no_damage_to_a_good_superpacket_makes_it_panic(
        v6: bool,
        tcp: bool,
        gso_size: u16,
        damage in proptest::collection::vec((0..70usize, any::<u8>()), 0..6),
    ) {
        let whole = Build { v6, ..Build::default() }.payload(200);
        let (header, mut packet) =
            if tcp { (whole.tso(gso_size), whole.tcp()) } else { (whole.uso(gso_size), whole.udp()) };
        let mut header = header.encode();
        for (at, byte) in damage {
            match header.get_mut(at) {
                Some(place) => *place = byte,
                None => packet[at - 10] = byte,
            }
        }
        let _ = segments(VirtioHeader::decode(header), packet);
    }

    #[test]
    fn any_superpacket_is_cut_as_its_sender_would_have(
        v6: bool, id: u16, sequence: u32, flags: u8, payload in 0..5000usize, gso_size in 1..2000u16,
        options in 0..=10usize,
    ) {
        let whole = Build { v6, id, sequence, flags: Flags(flags), ..Build::default() };
        let whole = Build { tcp_options: vec![1; options * 4], ..whole }.payload(payload);
        assert_tso(&whole, gso_size);
        assert_uso(&whole, gso_size);
    }
}
