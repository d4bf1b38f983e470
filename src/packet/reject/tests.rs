//! Tests of rejects: an independent parser reads each reject and verifies its checksums.

use etherparse::{
    IcmpEchoHeader, Icmpv4Type, Icmpv6Type, IpNumber, Ipv4Header, Ipv6Header, NetSlice, PacketBuilder,
    SlicedPacket, TcpHeader, TransportSlice, icmpv4, icmpv6,
};
use proptest::prelude::*;

use crate::packet::reject::*;

const A4: [u8; 4] = [10, 1, 0, 1];
const B4: [u8; 4] = [10, 2, 0, 9];
const A6: [u8; 16] = [0xfd, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const B6: [u8; 16] = [0xfd, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];

fn tcp(v6: bool, header: TcpHeader, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let builder = if v6 { PacketBuilder::ipv6(A6, B6, 9) } else { PacketBuilder::ipv4(A4, B4, 9) };
    builder.tcp_header(header).write(&mut out, payload).unwrap();
    out
}

fn udp(v6: bool, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let builder = if v6 { PacketBuilder::ipv6(A6, B6, 9) } else { PacketBuilder::ipv4(A4, B4, 9) };
    builder.udp(4000, 53).write(&mut out, payload).unwrap();
    out
}

fn answer(packet: &[u8], cause: Cause) -> Option<(Answer, Vec<u8>)> {
    let mut out = [0xee; MAX_REJECT];
    let (answer, len) = reject(packet, cause, &mut out)?;
    assert!(out[len..].iter().all(|byte| *byte == 0xee), "nothing is written after the reject");
    Some((answer, out[..len].to_vec()))
}

/// Asserts that the IP header is complete and correct, with source and destination swapped.
fn check_ip(reject: &[u8], protocol: IpNumber) {
    match SlicedPacket::from_ip(reject).unwrap().net.unwrap() {
        NetSlice::Ipv4(ip) => {
            let header: Ipv4Header = ip.header().to_header();
            assert_eq!((header.source, header.destination), (B4, A4));
            assert_eq!(usize::from(header.total_len), reject.len());
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert_eq!((header.time_to_live, header.protocol), (64, protocol));
            assert!(header.dont_fragment && !header.more_fragments);
            assert_eq!((header.identification, header.dscp.value(), header.ecn.value()), (0, 0, 0));
        }
        NetSlice::Ipv6(ip) => {
            let header: Ipv6Header = ip.header().to_header();
            assert_eq!((header.source, header.destination), (B6, A6));
            assert_eq!(usize::from(header.payload_length) + 40, reject.len());
            assert_eq!((header.hop_limit, header.next_header), (64, protocol));
            assert_eq!((header.traffic_class, header.flow_label.value()), (0, 0));
        }
        NetSlice::Arp(_) => panic!("no IP packet"),
    }
}

fn parsed_reset(reject: &[u8]) -> TcpHeader {
    check_ip(reject, IpNumber::TCP);
    let sliced = SlicedPacket::from_ip(reject).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("no TCP") };
    let header = tcp.to_header();
    let checksum = if reject[0] >> 4 == 4 {
        header.calc_checksum_ipv4_raw(B4, A4, &[])
    } else {
        header.calc_checksum_ipv6_raw(B6, A6, &[])
    };
    assert_eq!(header.checksum, checksum.unwrap());
    assert_eq!((header.source_port, header.destination_port), (80, 4000));
    assert_eq!((header.window_size, header.urgent_pointer, header.header_len()), (0, 0, 20));
    assert!(tcp.payload().is_empty());
    assert!(header.rst);
    for (name, flag) in [
        ("syn", header.syn),
        ("fin", header.fin),
        ("psh", header.psh),
        ("urg", header.urg),
        ("ece", header.ece),
        ("cwr", header.cwr),
        ("ns", header.ns),
    ] {
        assert!(!flag, "{name}");
    }
    header
}

proptest! {
    #[test]
    fn a_tcp_segment_that_may_not_pass_is_reset_as_rfc_9293_says(
        v6: bool, syn: bool, fin: bool, ack: bool,
        sequence: u32, acknowledgement: u32,
        options in 0_usize..=10,
        payload in 0_usize..3000,
    ) {
        let mut header = TcpHeader::new(4000, 80, sequence, 777);
        (header.syn, header.fin, header.ack) = (syn, fin, ack);
        (header.psh, header.ece) = (true, true);
        header.acknowledgment_number = acknowledgement;
        header.set_options_raw(&vec![1; options * 4]).unwrap();
        let (answer, reject) = answer(&tcp(v6, header, &vec![5; payload]), Cause::NotAllowed).unwrap();
        prop_assert_eq!(answer, Answer::Reset);
        let reset = parsed_reset(&reject);
        if ack {
            prop_assert_eq!((reset.sequence_number, reset.ack, reset.acknowledgment_number), (acknowledgement, false, 0));
        } else {
            let next = sequence.wrapping_add(payload as u32 + u32::from(syn) + u32::from(fin));
            prop_assert_eq!((reset.sequence_number, reset.ack, reset.acknowledgment_number), (0, true, next));
        }
    }

    #[test]
    fn any_bytes_are_answered_or_not_but_never_panic(
        mut packet in prop::collection::vec(any::<u8>(), 20..200),
        first in prop::sample::select(vec![0x45_u8, 0x4f, 0x60]),
        protocol in prop::sample::select(vec![0_u8, 1, 6, 17, 44, 58, 60]),
        cause in prop::sample::select(vec![Cause::NotAllowed, Cause::NoRoute, Cause::Unreachable, Cause::TooBig(1280)]),
    ) {
        packet[0] = first;
        packet[if first == 0x60 { 6 } else { 9 }] = protocol;
        let _ = answer(&packet, cause);
    }
}

fn icmp4(reject: &[u8], about: &[u8]) -> icmpv4::DestUnreachableHeader {
    check_ip(reject, IpNumber::ICMP);
    let sliced = SlicedPacket::from_ip(reject).unwrap();
    let Some(TransportSlice::Icmpv4(icmp)) = sliced.transport else { panic!("no ICMP") };
    let header = icmp.header();
    assert_eq!(header.checksum, header.icmp_type.calc_checksum(icmp.payload()));
    assert_eq!(icmp.payload(), &about[..about.len().min(548)], "quotes as much as fits 576 bytes");
    match icmp.icmp_type() {
        Icmpv4Type::DestinationUnreachable(header) => header,
        other => panic!("{other:?}"),
    }
}

fn icmp6(reject: &[u8], about: &[u8]) -> Icmpv6Type {
    check_ip(reject, IpNumber::IPV6_ICMP);
    let sliced = SlicedPacket::from_ip(reject).unwrap();
    let Some(TransportSlice::Icmpv6(icmp)) = sliced.transport else { panic!("no ICMPv6") };
    let header = icmp.header();
    assert_eq!(header.checksum, header.icmp_type.calc_checksum(B6, A6, icmp.payload()).unwrap());
    assert_eq!(icmp.payload(), &about[..about.len().min(1232)], "quotes as much as fits 1,280 bytes");
    icmp.icmp_type()
}

#[test]
fn what_is_not_tcp_is_prohibited() {
    for payload in [0, 8, 1199, 1500, 60_000] {
        let packet = udp(false, &vec![3; payload]);
        let (kind, reject) = answer(&packet, Cause::NotAllowed).unwrap();
        assert_eq!(kind, Answer::Icmp);
        assert_eq!(icmp4(&reject, &packet), icmpv4::DestUnreachableHeader::FilterProhibited);
        assert_eq!(reject.len(), (28 + packet.len()).min(576));

        let packet = udp(true, &vec![3; payload]);
        let (kind, reject) = answer(&packet, Cause::NotAllowed).unwrap();
        assert_eq!(kind, Answer::Icmpv6);
        let prohibited = Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Prohibited);
        assert_eq!(icmp6(&reject, &packet), prohibited);
    }
}

#[test]
fn where_a_missing_route_is_to_be_seen_the_network_is_unreachable() {
    let packet = udp(false, b"question");
    let (kind, reject) = answer(&packet, Cause::NoRoute).unwrap();
    assert_eq!((kind, icmp4(&reject, &packet)), (Answer::Icmp, icmpv4::DestUnreachableHeader::Network));
    let packet = udp(true, b"question");
    let (kind, reject) = answer(&packet, Cause::NoRoute).unwrap();
    let no_route = Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::NoRoute);
    assert_eq!((kind, icmp6(&reject, &packet)), (Answer::Icmpv6, no_route));
    for v6 in [false, true] {
        let segment = tcp(v6, TcpHeader::new(4000, 80, 1, 1), b"hello");
        assert_eq!(answer(&segment, Cause::NoRoute), answer(&segment, Cause::NotAllowed));
    }
}

#[test]
fn a_peer_that_nobody_has_found_is_unreachable_and_no_connection_is_reset() {
    let header = TcpHeader::new(4000, 80, 1, 1);
    let packet = tcp(false, header.clone(), b"hello");
    let (kind, reject) = answer(&packet, Cause::Unreachable).unwrap();
    assert_eq!((kind, icmp4(&reject, &packet)), (Answer::Icmp, icmpv4::DestUnreachableHeader::Host));
    let packet = tcp(true, header, b"hello");
    let (kind, reject) = answer(&packet, Cause::Unreachable).unwrap();
    let address = Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Address);
    assert_eq!((kind, icmp6(&reject, &packet)), (Answer::Icmpv6, address));
}

#[test]
fn a_packet_that_is_too_big_is_told_what_fits() {
    let header = TcpHeader::new(4000, 80, 1, 1);
    let packet = tcp(false, header.clone(), &[0; 1400]);
    let (kind, reject) = answer(&packet, Cause::TooBig(1208)).unwrap();
    let needed = |next_hop_mtu| icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu };
    assert_eq!((kind, icmp4(&reject, &packet)), (Answer::TooBig, needed(1208)));
    let (_, reject) = answer(&packet, Cause::TooBig(100)).unwrap();
    assert_eq!(icmp4(&reject, &packet), needed(576), "not below the IPv4 minimum");

    let packet = tcp(true, header, &[0; 1400]);
    let (kind, reject) = answer(&packet, Cause::TooBig(1388)).unwrap();
    assert_eq!((kind, icmp6(&reject, &packet)), (Answer::TooBig, Icmpv6Type::PacketTooBig { mtu: 1388 }));
    let (_, reject) = answer(&packet, Cause::TooBig(1208)).unwrap();
    assert_eq!(icmp6(&reject, &packet), Icmpv6Type::PacketTooBig { mtu: 1280 }, "not below the IPv6 minimum");
}

#[test]
fn a_packet_that_may_be_fragmented_is_never_too_big() {
    let mut packet = udp(false, &[0; 1400]);
    packet[6] = 0;
    assert!(!must_not_be_fragmented(&packet));
    assert_eq!(answer(&packet, Cause::TooBig(1208)), None);
    assert!(answer(&packet, Cause::NotAllowed).is_some());
    assert!(must_not_be_fragmented(&udp(true, &[])));
}

#[test]
fn ip_options_are_quoted_whole_and_not_sent_back() {
    let mut packet = udp(false, &[9; 100]);
    packet[0] = 0x47;
    packet.splice(20..20, [1; 8]);
    let (_, reject) = answer(&packet, Cause::NotAllowed).unwrap();
    check_ip(&reject, IpNumber::ICMP);
    assert_eq!(reject[28..], packet[..], "the options, and as much as fits 576 bytes");
}

#[test]
fn resets_and_icmp_errors_are_met_with_silence() {
    let mut header = TcpHeader::new(4000, 80, 1, 1);
    header.rst = true;
    for v6 in [false, true] {
        assert_eq!(answer(&tcp(v6, header.clone(), &[]), Cause::NotAllowed), None);
        assert_eq!(answer(&tcp(v6, header.clone(), &[]), Cause::Unreachable), None);
        let (_, error) = answer(&udp(v6, b"question"), Cause::NotAllowed).unwrap();
        for cause in [Cause::NotAllowed, Cause::Unreachable, Cause::TooBig(1280)] {
            assert_eq!(answer(&error, cause), None);
        }
    }
    let echo = IcmpEchoHeader { id: 1, seq: 1 };
    let mut ping = Vec::new();
    PacketBuilder::ipv4(A4, B4, 9).icmpv4_echo_request(echo.id, echo.seq).write(&mut ping, b"ping").unwrap();
    assert_eq!(answer(&ping, Cause::NotAllowed).unwrap().0, Answer::Icmp);
    let mut ping = Vec::new();
    PacketBuilder::ipv6(A6, B6, 9).icmpv6_echo_request(echo.id, echo.seq).write(&mut ping, b"ping").unwrap();
    assert_eq!(answer(&ping, Cause::NotAllowed).unwrap().0, Answer::Icmpv6);
}

#[test]
fn only_the_first_fragment_is_answered_and_never_with_a_reset() {
    let whole = tcp(false, TcpHeader::new(4000, 80, 1, 1), &[0; 64]);
    let mut first = whole.clone();
    first[6..8].copy_from_slice(&0x2000_u16.to_be_bytes());
    assert_eq!(answer(&first, Cause::NotAllowed).unwrap().0, Answer::Icmp);
    let mut later = whole;
    later[6..8].copy_from_slice(&0x0001_u16.to_be_bytes());
    assert_eq!(answer(&later, Cause::NotAllowed), None);

    let fragment = |offset: u8| {
        let mut packet = udp(true, &[7; 64]);
        packet[6] = 44;
        packet.splice(40..40, [17, 0, 0, offset, 0, 0, 0, 1]);
        packet[5] += 8;
        packet
    };
    assert_eq!(
        answer(&fragment(1), Cause::NotAllowed).unwrap().0,
        Answer::Icmpv6,
        "more fragments, offset 0"
    );
    assert_eq!(answer(&fragment(9), Cause::NotAllowed), None);
}

#[test]
fn what_is_not_between_two_hosts_is_met_with_silence() {
    for address in [[224, 0, 0, 1], [239, 1, 2, 3], [255; 4], [240, 0, 0, 1], [0; 4], [127, 0, 0, 1]] {
        for place in [12, 16] {
            let mut packet = udp(false, b"to many");
            packet[place..place + 4].copy_from_slice(&address);
            assert_eq!(answer(&packet, Cause::NotAllowed), None, "{address:?}");
        }
    }
    let mut all_nodes = [0; 16];
    (all_nodes[0], all_nodes[1], all_nodes[15]) = (0xff, 2, 1);
    let mut loopback = [0; 16];
    loopback[15] = 1;
    for address in [all_nodes, loopback, [0; 16]] {
        for place in [8, 24] {
            let mut packet = udp(true, b"to many");
            packet[place..place + 16].copy_from_slice(&address);
            assert_eq!(answer(&packet, Cause::NotAllowed), None, "{address:?}");
        }
    }
}

#[test]
fn a_transport_header_that_is_cut_short_is_met_with_silence() {
    for v6 in [false, true] {
        let header = if v6 { 40 } else { 20 };
        for (packet, least) in [(tcp(v6, TcpHeader::new(4000, 80, 1, 1), &[]), 20), (udp(v6, &[]), 8)] {
            for len in header..header + least {
                assert_eq!(answer(&packet[..len], Cause::NotAllowed), None);
            }
        }
    }
}
