//! TCP inside VXLAN and Geneve, for superpackets inside a UDP tunnel.
//!
//! Segmentation copies all headers from the first packet, and restores lengths, identifications, sequence
//! numbers, PSH and checksums of both header sets. Here all other bytes are compared, and what is restored
//! is checked, so segments equal the original datagrams even if the encapsulation is misunderstood.

use super::candidate::{Candidate, PlainIp, mergeable, plain_ip, same_ip, same_tcp};
use super::chain::MAX_HEADER;
use crate::offload::superpacket::SuperpacketKind;
use crate::packet::checksum::{Sum, pseudo_header};
use crate::packet::{Flags, Ipv4, Ipv6, Tcp, Udp, ip, protocol};

/// UDP port of Geneve (RFC 8926).
const GENEVE: u16 = 6081;

/// UDP ports of VXLAN: that of RFC 7348, and that of Linux and Flannel.
const VXLAN: [u16; 2] = [4789, 8472];

/// Length in bytes of a VXLAN header, and of a Geneve header without options.
const FIXED: usize = 8;

/// The negative zero of one's complement arithmetic. In an IPv4 or TCP checksum it is as correct as zero, which
/// segmentation would write instead.
const NEGATIVE_ZERO: [u8; 2] = [0xff; 2];

/// Returns whether a UDP port is that of an encapsulation whose datagrams mostly carry no checksum, since their
/// inner packets have their own.
#[inline]
pub(super) fn is_known(port: u16) -> bool {
    port == GENEVE || VXLAN.contains(&port)
}

/// Returns the `datagram` to a UDP `port` as a candidate for a superpacket inside a tunnel, or `None` if it does
/// not carry an Ethernet frame with a TCP segment that can be merged.
pub(super) fn candidate(
    packet: &[u8],
    datagram: &Candidate,
    port: u16,
    outer: &PlainIp,
) -> Option<Candidate> {
    let frame = datagram.header_len + encapsulation_len(port, &packet[datagram.header_len..])?;
    let (ethernet_len, version) = ethernet(packet.get(frame..)?)?;
    let inner = frame + ethernet_len;
    let within = packet.get(inner..)?;
    if within.first()? >> 4 != version || ip::packet_len(within) != Some(within.len()) {
        return None;
    }
    let found = ip::transport(within).filter(|found| found.protocol == protocol::TCP && !found.fragment)?;
    let plain = plain_ip(within, found.offset)?;
    let segment = &within[found.offset..];
    let tcp = Tcp::new_checked(segment).filter(mergeable)?;
    let header_len = inner + found.offset + tcp.header_len();
    let changeable = segment[Tcp::CHECKSUM..][..2] == NEGATIVE_ZERO
        || has_negative_zero(packet)
        || has_negative_zero(within);
    (header_len <= MAX_HEADER && header_len < packet.len() && !changeable).then(|| Candidate {
        kind: SuperpacketKind::UdpTunnel,
        transport: inner + found.offset,
        header_len,
        payload_len: packet.len() - header_len,
        sequence: tcp.sequence(),
        push: tcp.flags().any(Flags::PSH),
        id: outer.id,
        inner: inner as u16,
        inner_id: plain.id,
        ..*datagram
    })
}

/// Returns the length in bytes of a VXLAN or Geneve header that an Ethernet frame follows.
fn encapsulation_len(port: u16, payload: &[u8]) -> Option<usize> {
    let header = payload.first_chunk::<FIXED>()?;
    if port == GENEVE {
        // Version 0, no control message, and Ethernet (RFC 8926, section 3.4).
        let [first, flags, kind @ ..] = header;
        let ethernet = first >> 6 == 0 && flags & 0x80 == 0 && kind[..2] == [0x65, 0x58];
        return ethernet.then(|| FIXED + 4 * usize::from(first & 0x3f));
    }
    // Only the flag of a valid network identifier: the others change the format (VXLAN-GPE) or the header's
    // meaning (group policies, remote checksum offload).
    (VXLAN.contains(&port) && header[..2] == [8, 0]).then_some(FIXED)
}

/// Returns the length in bytes of an Ethernet header with up to two VLAN tags, and the IP version of what follows.
fn ethernet(frame: &[u8]) -> Option<(usize, u8)> {
    const ADDRESSES: usize = 12;
    for tags in 0..=2 {
        let at = ADDRESSES + 4 * tags;
        match frame.get(at..at + 2)? {
            [0x08, 0x00] => return Some((at + 2, 4)),
            [0x86, 0xdd] => return Some((at + 2, 6)),
            [0x81, 0x00] | [0x88, 0xa8] => {}
            _ => return None,
        }
    }
    None
}

/// Returns whether a packet has an IPv4 header whose checksum is written as negative zero.
fn has_negative_zero(packet: &[u8]) -> bool {
    packet[0] >> 4 == 4 && packet[10..12] == NEGATIVE_ZERO
}

/// Returns the length in bytes of an IP header without options or extension headers.
pub(super) fn ip_len(packet: &[u8]) -> usize {
    if packet[0] >> 4 == 4 { Ipv4::MIN_HEADER } else { Ipv6::HEADER }
}

/// Returns whether what is behind the outer IP headers of two candidates of one flow differs only in fields that
/// segmentation restores.
pub(super) fn same_header(head: &[u8], packet: &[u8], candidate: &Candidate) -> bool {
    let (inner, transport) = (usize::from(candidate.inner), candidate.transport);
    let between = ip_len(packet) + Udp::HEADER..inner;
    let (head_ip, packet_ip) = (&head[inner..], &packet[inner..]);
    head[between.clone()] == packet[between]
        && same_ip(head_ip, packet_ip)
        && ip::addresses(head_ip) == ip::addresses(packet_ip)
        && head[transport..][..4] == packet[transport..][..4]
        && same_tcp(&head[transport..], &packet[transport..])
}

/// Returns whether the inner TCP checksum and the outer UDP checksum, if there is one, are correct.
pub(super) fn checksums_are_right(packet: &[u8], candidate: &Candidate) -> bool {
    let segment = &packet[candidate.transport..];
    let sum = Sum::of(segment);
    let Some(addresses) = ip::addresses(&packet[usize::from(candidate.inner)..]) else { return false };
    // The lengths are at most that of the outer IP packet, which fits 16 bits.
    let inner = (pseudo_header(addresses, protocol::TCP) + sum).with_u16(segment.len() as u16);
    if inner.checksum() != 0 {
        return false;
    }
    let udp = ip_len(packet);
    if packet[udp + Udp::CHECKSUM..][..2] == [0; 2] {
        return true;
    }
    let Some(addresses) = ip::addresses(packet) else { return false };
    // All headers up to the inner TCP have even lengths, so the sum of its segment continues theirs.
    let headers = Sum::of(&packet[udp..candidate.transport]);
    let outer = pseudo_header(addresses, protocol::UDP) + headers + sum;
    outer.with_u16((packet.len() - udp) as u16).checksum() == 0
}
