//! ICMP errors (RFC 792, RFC 1191) and ICMPv6 errors (RFC 4443, section 3).

use super::{Cause, MAX_REJECT, MIN_MTU_V4, MIN_MTU_V6, ipv4_header, ipv6_header};
use crate::packet::checksum::{Sum, pseudo_header};
use crate::packet::{Ipv4, Ipv6, ip, protocol, put_u16, put_u32};

/// Length of the ICMP header in bytes: type, code, checksum, and four bytes that depend on the type.
const HEADER: usize = 8;

/// Offset of the checksum field, in bytes from the start of the ICMP header.
const CHECKSUM: usize = 2;

/// Length of the longest ICMP error over IPv4 in bytes: it quotes as much of the rejected packet as fits
/// (RFC 1812, section 4.3.2.3). The sender needs the ports, and for a packet of an overlay also the header of
/// the encapsulation (`vxlan_err_lookup` in `drivers/net/vxlan/vxlan_core.c`).
const LONGEST_V4: usize = 576;

/// Returns whether this ICMP type is a query or a reply rather than an error: echo, router discovery,
/// timestamp, information, address mask.
pub(super) fn is_question_v4(kind: u8) -> bool {
    matches!(kind, 0 | 8..=10 | 13..=18)
}

/// Returns whether this ICMPv6 type is not an error. Errors have types below 128, and a redirect (137) is
/// treated as one (RFC 4443, section 2.4).
pub(super) fn is_question_v6(kind: u8) -> bool {
    kind >= 128 && kind != 137
}

/// Writes an ICMP error about `packet`, quoting as much of it as fits [`LONGEST_V4`] bytes. Returns the
/// length in bytes of the IP packet written.
pub(super) fn write_v4(packet: &[u8], cause: Cause, out: &mut [u8; MAX_REJECT]) -> Option<usize> {
    const UNREACHABLE: u8 = 3;
    let code = match cause {
        Cause::NoRoute => 0,
        Cause::Unreachable => 1,
        Cause::TooBig(_) => 4,
        Cause::NotAllowed => 13,
    };
    let quoted = &packet[..packet.len().min(LONGEST_V4 - Ipv4::MIN_HEADER - HEADER)];
    let len = Ipv4::MIN_HEADER + HEADER + quoted.len();
    ipv4_header(packet, protocol::ICMP, len, out)?;
    let message = &mut out[Ipv4::MIN_HEADER..len];
    message[..HEADER].fill(0);
    (message[0], message[1]) = (UNREACHABLE, code);
    if let Cause::TooBig(mtu) = cause {
        put_u16(message, 6, mtu.max(MIN_MTU_V4 as u16));
    }
    message[HEADER..].copy_from_slice(quoted);
    let sum = Sum::of(message);
    put_u16(message, CHECKSUM, sum.checksum());
    Some(len)
}

/// Writes an ICMPv6 error about `packet`, quoting as much of it as fits [`MAX_REJECT`] bytes. Returns the
/// length in bytes of the IP packet written.
pub(super) fn write_v6(packet: &[u8], cause: Cause, out: &mut [u8; MAX_REJECT]) -> Option<usize> {
    const UNREACHABLE: u8 = 1;
    const PACKET_TOO_BIG: u8 = 2;
    let (kind, code, mtu) = match cause {
        Cause::NoRoute => (UNREACHABLE, 0, 0),
        Cause::NotAllowed => (UNREACHABLE, 1, 0),
        Cause::Unreachable => (UNREACHABLE, 3, 0),
        Cause::TooBig(mtu) => (PACKET_TOO_BIG, 0, mtu.max(MIN_MTU_V6 as u16)),
    };
    let len = MAX_REJECT.min(Ipv6::HEADER + HEADER + packet.len());
    ipv6_header(packet, protocol::ICMPV6, len, out)?;
    let message = &mut out[Ipv6::HEADER..len];
    message[..HEADER].fill(0);
    (message[0], message[1]) = (kind, code);
    put_u32(message, 4, mtu.into());
    let quoted = len - Ipv6::HEADER - HEADER;
    message[HEADER..].copy_from_slice(&packet[..quoted]);
    let message_len = message.len() as u16;
    let sum = pseudo_header(ip::addresses(&out[..len])?, protocol::ICMPV6).with_u16(message_len);
    let sum = sum + Sum::of(&out[Ipv6::HEADER..len]);
    put_u16(&mut out[Ipv6::HEADER..len], CHECKSUM, sum.checksum());
    Some(len)
}
