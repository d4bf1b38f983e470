//! The traffic class of IP packets: IPv4's type of service, IPv6's traffic class. Its upper six bits are
//! the DSCP (RFC 2474), its lower two the ECN field (RFC 3168).
//!
//! A tunnel copies the ECN field to the outer header and combines it with the inner one at the other end
//! (RFC 6040, "normal mode"), so that a congested router on the path can tell the sender without a loss.

use super::{Ipv4, Ipv6};

/// The ECN field of a traffic class.
pub const ECN: u8 = 0b11;
/// The sender does not react to congestion marks.
pub const NOT_ECT: u8 = 0b00;
/// ECN-capable transport, ECT(1): used by L4S (RFC 9331).
pub const ECT_1: u8 = 0b01;
/// ECN-capable transport, ECT(0).
pub const ECT_0: u8 = 0b10;
/// Congestion experienced.
pub const CE: u8 = 0b11;

/// The DSCP of outer headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dscp {
    /// This value, from 0 to 63, whatever the inner packet has.
    Fixed(u8),
    /// The inner packet's DSCP (RFC 2983, "uniform model").
    Inherit,
}

impl Default for Dscp {
    /// Returns DSCP 0, as in the kernel's WireGuard, which reveals nothing about the inner packet.
    fn default() -> Self {
        Dscp::Fixed(0)
    }
}

impl Dscp {
    /// Returns the traffic class of the outer header for a packet of traffic class `inner`. The ECN field
    /// is copied, CE included (RFC 6040, section 4.1).
    #[inline]
    pub fn outer(self, inner: u8) -> u8 {
        match self {
            Dscp::Fixed(dscp) => dscp << 2 | inner & ECN,
            Dscp::Inherit => inner,
        }
    }
}

/// Returns the traffic class of the IP packet that `packet` starts with; 0 if it has no complete header.
#[inline]
pub fn traffic_class(packet: &[u8]) -> u8 {
    match packet {
        [first, second, ..] if first >> 4 == 4 => *second,
        [first, second, ..] => first << 4 | second >> 4,
        _ => 0,
    }
}

/// Combines the ECN field `outer` of the outer header with that of the received `packet` (RFC 6040,
/// section 4.2): CE and ECT(1) move to an ECN-capable packet. Corrects the IPv4 header checksum. Returns
/// false if the packet must be dropped: it met congestion, and its sender would not understand a mark.
///
/// The rules are those of the kernel's `INET_ECN_decapsulate` (`include/net/inet_ecn.h`, Linux 5.11), which
/// most of its tunnels obey. Its WireGuard ignores the verdict and lets the packet pass unmarked.
#[inline]
#[must_use]
pub fn decapsulate(packet: &mut [u8], outer: u8) -> bool {
    // Nearly all packets: nothing to combine.
    matches!(outer, NOT_ECT | ECT_0) || combine(packet, outer)
}

#[cold]
fn combine(packet: &mut [u8], outer: u8) -> bool {
    match (traffic_class(packet) & ECN, outer) {
        (NOT_ECT, CE) => return false,
        (ECT_0 | ECT_1, CE) => set_ecn(packet, CE),
        (ECT_0, ECT_1) => set_ecn(packet, ECT_1),
        _ => {}
    }
    true
}

fn set_ecn(packet: &mut [u8], ecn: u8) {
    if let Some(mut header) = Ipv4::new_checked(&mut *packet) {
        header.set_ecn(ecn);
    } else if let Some(mut header) = Ipv6::new_checked(packet) {
        header.set_ecn(ecn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::checksum::Sum;
    use etherparse::{Ipv4Header, Ipv6Header};
    use proptest::prelude::*;

    fn v4(class: u8) -> Vec<u8> {
        let mut header =
            Ipv4Header::new(8, 64, etherparse::IpNumber::UDP, [10, 0, 0, 1], [10, 0, 0, 2]).unwrap();
        header.dscp = (class >> 2).try_into().unwrap();
        header.ecn = (class & ECN).try_into().unwrap();
        header.header_checksum = header.calc_header_checksum();
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend([0; 8]);
        bytes
    }

    fn v6(class: u8) -> Vec<u8> {
        let header = Ipv6Header { traffic_class: class, payload_length: 8, ..Ipv6Header::default() };
        let mut bytes = header.to_bytes().to_vec();
        bytes.extend([0; 8]);
        bytes
    }

    fn is_intact(packet: &[u8]) -> bool {
        packet[0] >> 4 == 6 || Sum::of(&packet[..20]).checksum() == 0
    }

    /// The table of RFC 6040, figure 4: by inner and outer field, the field that goes on, or a drop.
    const FIGURE_4: [(u8, [Option<u8>; 4]); 4] = [
        (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
        (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
        (ECT_0, [Some(ECT_0), Some(ECT_1), Some(ECT_0), Some(CE)]),
        (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
    ];

    #[test]
    fn the_fields_combine_as_rfc_6040_says() {
        for dscp in [0, 46 << 2, 63 << 2] {
            for (inner, row) in FIGURE_4 {
                for (outer, expected) in row.into_iter().enumerate() {
                    for mut packet in [v4(dscp | inner), v6(dscp | inner)] {
                        let came = decapsulate(&mut packet, outer as u8).then(|| traffic_class(&packet));
                        assert_eq!(came, expected.map(|ecn| dscp | ecn), "{inner} in {outer}");
                        assert!(is_intact(&packet));
                    }
                }
            }
        }
    }

    #[test]
    fn the_outer_class_is_the_inner_ecn_under_the_dscp_that_was_chosen() {
        assert_eq!(Dscp::default().outer(46 << 2 | CE), CE);
        assert_eq!(Dscp::Fixed(10).outer(46 << 2 | ECT_1), 10 << 2 | ECT_1);
        assert_eq!(Dscp::Inherit.outer(46 << 2 | ECT_0), 46 << 2 | ECT_0);
    }

    proptest! {
        #[test]
        fn a_mark_changes_the_ecn_field_and_nothing_else(class: u8, id: u16, wrong in 0_u16..3) {
            let mut packet = v4(class);
            packet[4..6].copy_from_slice(&id.to_be_bytes());
            packet[10..12].fill(0);
            let checksum = Sum::of(&packet[..20]).checksum().wrapping_add(wrong);
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
            let before = packet.clone();
            prop_assert_eq!(decapsulate(&mut packet, CE), class & ECN != NOT_ECT);
            if class & ECN != NOT_ECT {
                prop_assert_eq!(packet[1], before[1] | CE);
            }
            prop_assert_eq!(is_intact(&packet), is_intact(&before));
            packet[1] = before[1];
            packet[10..12].copy_from_slice(&before[10..12]);
            prop_assert_eq!(packet, before);
        }

        #[test]
        fn no_bytes_are_trusted(mut bytes in proptest::collection::vec(any::<u8>(), 0..60), outer in 0_u8..4) {
            let _ = traffic_class(&bytes);
            let _ = decapsulate(&mut bytes, outer);
        }
    }
}
