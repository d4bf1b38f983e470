//! Rejects: packets that tell a sender why its packet was not forwarded. A reject is built from a packet
//! read from the TUN and written back to the TUN.
//!
//! A TCP segment without an allowed peer is answered with a reset, so that the client sees "connection
//! refused" at once. Everything else is answered with an ICMP error. This module decides whether a packet
//! may be answered; `reset` and `icmp` write the answer.
//!
//! The source of a reject is the destination of the rejected packet. The kernel routed that packet to the
//! TUN, so the reject passes its reverse path filter. A reject from the interface's own address would be
//! dropped as a martian (`fib_validate_source` in `net/ipv4/fib_frontend.c`).

mod icmp;
mod reset;

use std::net::IpAddr;

use super::{Flags, Ipv4, Ipv6, Tcp, Udp, ip, protocol, u16_at};

/// Length of the longest reject in bytes: an ICMPv6 error must fit the minimum IPv6 MTU (RFC 4443,
/// section 2.4).
pub const MAX_REJECT: usize = 1280;

/// Smallest MTU reported over IPv4, in bytes: every host must accept packets of this length (RFC 1122,
/// section 3.3.2). Linux uses at least 552 (`ip_rt_min_pmtu`).
pub const MIN_MTU_V4: usize = 576;

/// Minimum IPv6 MTU in bytes (RFC 8200, section 5), the smallest one reported over IPv6.
pub const MIN_MTU_V6: usize = 1280;

/// Reason why a packet is not forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No peer's allowed IPs contain the destination. Answered with a reset or "administratively
    /// prohibited" (ICMP 3/13, ICMPv6 1/1).
    NotAllowed,
    /// Like [`NotAllowed`](Self::NotAllowed), but reported as a missing route. Answered with a reset, "net
    /// unreachable" (ICMP 3/0) or "no route to destination" (ICMPv6 1/0).
    NoRoute,
    /// The peer has no known endpoint. Answered with "host unreachable" (ICMP 3/1, ICMPv6 1/3), for TCP
    /// too: the condition may be temporary, so connections are not reset. Linux's WireGuard does the same
    /// (`wg_xmit` in `drivers/net/wireguard/device.c`).
    Unreachable,
    /// The packet is longer than this MTU in bytes. Answered with "fragmentation needed" (ICMP 3/4, RFC
    /// 1191) or "packet too big" (ICMPv6 2/0).
    TooBig(u16),
}

/// Kind of a reject, for the `kind` metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A TCP reset.
    Reset,
    /// An ICMP "destination unreachable".
    Icmp,
    /// An ICMPv6 "destination unreachable".
    Icmpv6,
    /// An ICMP "fragmentation needed" or ICMPv6 "packet too big".
    TooBig,
}

/// Writes the reject for `packet`, trimmed to its IP length, to the start of `out`. Returns its kind and
/// its length in bytes.
///
/// Returns `None` if the packet must not be answered (RFC 1122, section 3.2.2; RFC 4443, section 2.4): a
/// TCP reset, an ICMP error, a fragment other than the first, a packet whose source or destination is not
/// a single host, or one with a truncated transport header. Also returns `None` for
/// [`Cause::TooBig`] if the packet may be fragmented.
pub fn reject(packet: &[u8], cause: Cause, out: &mut [u8; MAX_REJECT]) -> Option<(Answer, usize)> {
    let transport = answerable(packet)?;
    let is_final = matches!(cause, Cause::NotAllowed | Cause::NoRoute);
    if is_final && transport.protocol == protocol::TCP && !transport.fragment {
        return Some((Answer::Reset, reset::write(packet, transport.offset, out)?));
    }
    if packet[0] >> 4 == 6 {
        let answer = if matches!(cause, Cause::TooBig(_)) { Answer::TooBig } else { Answer::Icmpv6 };
        return Some((answer, icmp::write_v6(packet, cause, out)?));
    }
    let answer = match cause {
        Cause::TooBig(_) if !must_not_be_fragmented(packet) => return None,
        Cause::TooBig(_) => Answer::TooBig,
        _ => Answer::Icmp,
    };
    Some((answer, icmp::write_v4(packet, cause, out)?))
}

/// Returns whether routers must not fragment this packet: IPv4 with "don't fragment" set, and all IPv6.
pub fn must_not_be_fragmented(packet: &[u8]) -> bool {
    Ipv4::new_checked(packet).is_none_or(|header| header.fragment_field() & Ipv4::DONT_FRAGMENT != 0)
}

/// Returns the packet's transport, or `None` if the packet must not be answered.
fn answerable(packet: &[u8]) -> Option<ip::Transport> {
    if !is_one_host(ip::source(packet)?) || !is_one_host(ip::destination(packet)?) {
        return None;
    }
    let transport = ip::transport(packet)?;
    if is_later_fragment(packet, transport) {
        return None;
    }
    let payload = packet.get(transport.offset..)?;
    let answerable = match transport.protocol {
        protocol::TCP => !Tcp::new_checked(payload)?.flags().any(Flags::RST),
        protocol::UDP => Udp::new_checked(payload).is_some(),
        protocol::ICMP => icmp::is_question_v4(*payload.first()?),
        protocol::ICMPV6 => icmp::is_question_v6(*payload.first()?),
        _ => true,
    };
    answerable.then_some(transport)
}

/// Returns whether the address identifies a single host that can be sent to.
fn is_one_host(address: IpAddr) -> bool {
    match address {
        // 224.0.0.0/4 is multicast, 240.0.0.0/4 includes the broadcast address, and 0.0.0.0/8 is for hosts
        // without an address yet.
        IpAddr::V4(v4) => v4.octets()[0] != 0 && v4.octets()[0] < 224 && !v4.is_loopback(),
        IpAddr::V6(v6) => !v6.is_multicast() && !v6.is_unspecified() && !v6.is_loopback(),
    }
}

fn is_later_fragment(packet: &[u8], transport: ip::Transport) -> bool {
    const OFFSET_V4: u16 = 0x1fff;
    const OFFSET_V6: u16 = 0xfff8;
    const FRAGMENT_HEADER: usize = 8;
    match Ipv4::new_checked(packet) {
        Some(header) => header.fragment_field() & OFFSET_V4 != 0,
        None if transport.fragment => u16_at(packet, transport.offset - FRAGMENT_HEADER + 2) & OFFSET_V6 != 0,
        None => false,
    }
}

/// Writes an IPv4 header without options to `out`, from the destination of `packet` to its source. `len`
/// is the total length in bytes.
fn ipv4_header(packet: &[u8], protocol: u8, len: usize, out: &mut [u8]) -> Option<()> {
    const TTL: u8 = 64;
    let (source, destination) = packet[Ipv4::ADDRESSES].split_at(4);
    let header = out.first_chunk_mut::<{ Ipv4::MIN_HEADER }>()?;
    header.fill(0);
    header[0] = 0x45;
    header[6] = (Ipv4::DONT_FRAGMENT >> 8) as u8;
    (header[8], header[9]) = (TTL, protocol);
    header[12..16].copy_from_slice(destination);
    header[16..20].copy_from_slice(source);
    let mut view = Ipv4::new_checked(&mut header[..])?;
    let constant = view.constant_sum();
    view.stamp(len as u16, 0, constant);
    Some(())
}

/// Writes an IPv6 header to `out`, from the destination of `packet` to its source. `len` is the length
/// of the packet in bytes, this header included.
fn ipv6_header(packet: &[u8], protocol: u8, len: usize, out: &mut [u8]) -> Option<()> {
    const HOP_LIMIT: u8 = 64;
    let (source, destination) = packet[Ipv6::ADDRESSES].split_at(16);
    let header = out.first_chunk_mut::<{ Ipv6::HEADER }>()?;
    header.fill(0);
    header[0] = 0x60;
    (header[6], header[7]) = (protocol, HOP_LIMIT);
    header[8..24].copy_from_slice(destination);
    header[24..40].copy_from_slice(source);
    Ipv6::new_checked(&mut header[..])?.set_payload_len((len - Ipv6::HEADER) as u16);
    Some(())
}

#[cfg(test)]
mod tests;
