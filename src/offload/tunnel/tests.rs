//! Tests of tunnels against an independent packet builder: a segment must be byte for byte the outer datagram
//! that the builder writes around the inner segment.

use proptest::prelude::*;

use crate::drops::DropReason;
use crate::offload::segment::tests::{expected, segments};
use crate::offload::testing::Build;
use crate::offload::virtio::VirtioHeader;

/// VXLAN (RFC 7348, section 5) and an Ethernet header.
fn vxlan(v6: bool) -> Vec<u8> {
    [&[8, 0, 0, 0, 0, 0, 7, 0, 2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1][..], ether_type(v6)].concat()
}

/// VXLAN around a frame with a VLAN tag.
fn tagged(v6: bool) -> Vec<u8> {
    let mut header = vxlan(v6);
    header.splice(20..20, [0x81, 0x00, 0x00, 0x09]);
    header
}

/// Geneve with 12 bytes of options (RFC 8926, section 3.4) and an Ethernet header.
fn geneve(v6: bool) -> Vec<u8> {
    let fixed = [3, 0, 0x65, 0x58, 0, 0, 7, 0];
    let options = [1, 2, 3, 2, 0xde, 0xad, 0xbe, 0xef, 5, 6, 7, 8];
    [&fixed[..], &options, &vxlan(v6)[8..]].concat()
}

/// An encapsulation of IP with a header of odd length.
fn odd(_: bool) -> Vec<u8> {
    (0..7).collect()
}

/// IP directly behind UDP, as in foo-over-UDP.
fn nothing(_: bool) -> Vec<u8> {
    Vec::new()
}

const ENCAPSULATIONS: [fn(bool) -> Vec<u8>; 5] = [vxlan, tagged, geneve, odd, nothing];

fn ether_type(v6: bool) -> &'static [u8] {
    if v6 { &[0x86, 0xdd] } else { &[0x08, 0x00] }
}

/// A superpacket in a tunnel.
#[derive(Clone, Debug)]
struct Case {
    outer: Build,
    inner: Build,
    encapsulation: fn(bool) -> Vec<u8>,
    udp: bool,
    checksum: bool,
    gso_size: u16,
}

impl Case {
    fn new(outer6: bool, inner6: bool) -> Case {
        let outer = Build { v6: outer6, id: 0xffff, ports: (50_000, 4789), ..Build::default() };
        let inner = Build { v6: inner6, sequence: u32::MAX - 500, ..Build::default() }.payload(3001);
        Case { outer, inner, encapsulation: vxlan, udp: false, checksum: true, gso_size: 1000 }
    }

    /// Every combination of versions, inner protocols, encapsulations and outer checksum.
    fn all() -> Vec<Case> {
        let mut cases = Vec::new();
        for number in 0..16 {
            let bit = |bit: usize| number >> bit & 1 == 1;
            for encapsulation in ENCAPSULATIONS {
                let case = Case::new(bit(0), bit(1));
                cases.push(Case { encapsulation, udp: bit(2), checksum: bit(3), ..case });
            }
        }
        cases
    }

    fn write(&self) -> fn(&Build) -> Vec<u8> {
        if self.udp { Build::udp } else { Build::tcp }
    }

    /// Returns the outer datagram around one inner packet.
    fn wrapped(&self, number: u16, inner: &[u8]) -> Vec<u8> {
        let payload = [(self.encapsulation)(self.inner.v6), inner.to_vec()].concat();
        let mut packet =
            Build { id: self.outer.id.wrapping_add(number), payload, ..self.outer.clone() }.udp();
        if !self.checksum {
            let at = self.outer.transport() + 6;
            packet[at..at + 2].fill(0);
        }
        packet
    }

    fn packet(&self) -> Vec<u8> {
        self.wrapped(0, &self.write()(&self.inner))
    }

    fn header(&self) -> VirtioHeader {
        let inner = if self.udp { self.inner.uso(self.gso_size) } else { self.inner.tso(self.gso_size) };
        let outer_transport = self.outer.transport() as u16;
        let inner_network = outer_transport + 8 + (self.encapsulation)(self.inner.v6).len() as u16;
        VirtioHeader {
            gso_type: inner.gso_type
                | if self.outer.v6 {
                    VirtioHeader::GSO_UDP_TUNNEL_IPV6
                } else {
                    VirtioHeader::GSO_UDP_TUNNEL_IPV4
                },
            flags: inner.flags | if self.checksum { VirtioHeader::UDP_TUNNEL_CSUM } else { 0 },
            csum_start: inner_network + inner.csum_start,
            outer_transport,
            inner_network,
            ..inner
        }
    }

    fn check(&self) {
        let inner = expected(&self.inner, self.gso_size.into(), self.write());
        let wrapped: Vec<_> = inner.iter().zip(0..).map(|(inner, i)| self.wrapped(i, inner)).collect();
        assert_eq!(segments(self.header(), self.packet()).unwrap(), wrapped, "{self:?}");
    }

    fn refused(&self, change: impl Fn(&mut VirtioHeader)) -> DropReason {
        let mut header = self.header();
        change(&mut header);
        segments(header, self.packet()).unwrap_err()
    }
}

#[test]
fn each_inner_segment_is_in_an_outer_datagram_of_its_own() {
    for case in Case::all() {
        case.check();
        // An inner packet that is one segment, and outer and inner options.
        Case { inner: case.inner.clone().payload(999), ..case.clone() }.check();
        let mut optional = case;
        if !optional.outer.v6 {
            optional.outer.ip_options = vec![1; 8];
        }
        if !optional.inner.v6 {
            optional.inner.ip_options = vec![1; 12];
        }
        optional.inner.tcp_options = vec![1; 12];
        optional.check();
    }
}

#[test]
fn an_outer_checksum_of_zero_is_sent_as_ones() {
    let mut case = Case::new(false, false);
    (case.udp, case.gso_size) = (true, 100);
    case.inner = Build::default().payload(100);
    case.outer.id = 0;
    // The last bytes of the VXLAN header are reserved, and balance the sum.
    let mut packet = case.packet();
    let sum = u16::from_be_bytes([packet[26], packet[27]]);
    packet[30..32].copy_from_slice(&sum.to_be_bytes());
    let segments = segments(case.header(), packet).unwrap();
    assert_eq!(segments[0][26..28], [0xff, 0xff]);
}

#[test]
fn offsets_that_lead_elsewhere_are_refused() {
    for case in Case::all() {
        let found = case.header();
        assert_eq!(case.refused(|h| h.outer_transport += 1), DropReason::TunnelOffsets);
        assert_eq!(case.refused(|h| h.outer_transport = 0), DropReason::TunnelOffsets);
        assert_eq!(case.refused(|h| h.outer_transport = u16::MAX), DropReason::TunnelOffsets);
        assert_eq!(case.refused(|h| h.inner_network = 0), DropReason::TunnelOffsets);
        assert_eq!(case.refused(|h| h.inner_network = h.outer_transport + 7), DropReason::TunnelOffsets);
        assert_eq!(case.refused(|h| h.inner_network = u16::MAX), DropReason::TunnelOffsets);
        assert_eq!(case.refused(|h| h.csum_start -= 2), DropReason::ChecksumStart);
        assert_eq!(case.refused(|h| h.csum_offset += 2), DropReason::ChecksumStart);
        assert_eq!(case.refused(|h| h.gso_size = 0), DropReason::GsoSize);
        for off in 1..40 {
            let at = found.inner_network + off;
            segments(VirtioHeader { inner_network: at, ..found }, case.packet()).unwrap_err();
        }
    }
}

#[test]
fn types_that_do_not_match_the_headers_are_refused() {
    for case in Case::all() {
        const BOTH: u8 = VirtioHeader::GSO_UDP_TUNNEL_IPV4 | VirtioHeader::GSO_UDP_TUNNEL_IPV6;
        assert_eq!(case.refused(|h| h.gso_type ^= BOTH), DropReason::GsoMismatch, "the other IP version");
        assert_eq!(case.refused(|h| h.gso_type |= BOTH), DropReason::GsoType);
        assert_eq!(case.refused(|h| h.gso_type &= BOTH), DropReason::GsoType, "nothing inside");
        let other = if case.udp { VirtioHeader::GSO_TCPV4 } else { VirtioHeader::GSO_UDP_L4 };
        assert_eq!(case.refused(|h| h.gso_type = h.gso_type & BOTH | other), DropReason::GsoMismatch);
    }
}

#[test]
fn bytes_behind_the_inner_packet_are_refused() {
    for case in Case::all() {
        let mut inner = case.write()(&case.inner);
        inner.extend([0; 4]);
        let refused = segments(case.header(), case.wrapped(0, &inner)).unwrap_err();
        assert_eq!(refused, DropReason::IpLength);
    }
}

#[test]
fn a_tunnel_in_an_outer_packet_that_is_not_udp_is_refused() {
    let case = Case::new(false, false);
    let mut packet = case.packet();
    packet[9] = 47;
    assert_eq!(segments(case.header(), packet).unwrap_err(), DropReason::GsoMismatch);
    let mut packet = case.packet();
    packet[6] |= 0x20; // More fragments.
    assert_eq!(segments(case.header(), packet).unwrap_err(), DropReason::GsoMismatch);
}

proptest! {
    #[test]
    fn any_sizes_are_segmented(
        outer6: bool, inner6: bool, udp: bool, checksum: bool, encapsulation in 0..ENCAPSULATIONS.len(),
        len in 1..20_000usize, gso_size in 1..1500u16, id: u16,
    ) {
        let len = len.min(usize::from(gso_size) * 64);
        let mut case = Case::new(outer6, inner6);
        case.outer.id = id;
        case.inner = Build { id, ..case.inner }.payload(len);
        Case { udp, checksum, encapsulation: ENCAPSULATIONS[encapsulation], gso_size, ..case }.check();
    }
}
