//! Rejects: the packet that tells a sender why its own went no further. Built from the bytes that were
//! read from the TUN; goes back to the TUN through the queue's reject scratch.
//!
//! A TCP segment that nobody may carry is answered with a reset, so that the client sees "connection
//! refused" at once. Everything else is answered with an ICMP error. `reset` and `icmp` write them;
//! here is decided who gets an answer at all.
//!
//! Every reject comes from the address that the rejected packet was for. The kernel sent that packet
//! to the TUN, so a packet from there passes its reverse path filter; from the interface's own
//! address it would be a martian (`fib_validate_source` in Linux's `net/ipv4/fib_frontend.c`).

mod icmp;
mod reset;

use std::net::IpAddr;

use super::{Flags, Ipv4, Ipv6, Tcp, Udp, ip, protocol, u16_at};

/// The longest reject in bytes: an ICMPv6 error fits the smallest IPv6 MTU (RFC 4443, section 2.4).
pub const MAX_REJECT: usize = 1280;

/// The smallest MTU that a too-big message tells over IPv4, in bytes: what every host takes (RFC 1122,
/// section 3.3.2). Linux takes no less than 552 (`ip_rt_min_pmtu`).
pub const MIN_MTU_V4: usize = 576;

/// The smallest MTU of IPv6, in bytes (RFC 8200, section 5).
pub const MIN_MTU_V6: usize = 1280;

/// Why a packet goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// No peer may be sent packets for this destination: a reset, or "administratively prohibited"
    /// (ICMP 3/13, ICMPv6 1/1).
    NotAllowed,
    /// The same where the sender is to see a missing route: a reset, or "net unreachable" (ICMP 3/0), "no
    /// route to destination" (ICMPv6 1/0).
    NoRoute,
    /// Nobody knows yet where the peer is: "host unreachable" (ICMP 3/1, ICMPv6 1/3), for TCP too. It
    /// may pass, so connections are not reset. Linux's WireGuard says the same (`wg_xmit` in
    /// `drivers/net/wireguard/device.c`).
    Unreachable,
    /// Longer than this many bytes: "fragmentation needed" (ICMP 3/4, RFC 1191) or "packet too big"
    /// (ICMPv6 2/0).
    TooBig(u16),
}

/// What was built: the value of the `kind` label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A TCP reset.
    Reset,
    /// An ICMP "destination unreachable".
    Icmp,
    /// An ICMPv6 "destination unreachable".
    Icmpv6,
    /// "Fragmentation needed" or "packet too big".
    TooBig,
}

/// Writes the reject of `packet` (whole, trimmed to its IP length) to the start of `out`: what it is,
/// and its length in bytes. `None` if the packet must not be answered (RFC 1122, section 3.2.2; RFC
/// 4443, section 2.4): a reset, an ICMP error, a later fragment, one from or to more than one host, one
/// cut short; and one that is too big but may be fragmented.
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

/// Whether routers must not fragment this packet: IPv4 with the flag set, and all IPv6.
pub fn must_not_be_fragmented(packet: &[u8]) -> bool {
    Ipv4::new_checked(packet).is_none_or(|header| header.fragment_field() & Ipv4::DONT_FRAGMENT != 0)
}

/// The packet's transport, if the sender may be answered.
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

/// Whether this is an address of one host that can be sent to.
fn is_one_host(address: IpAddr) -> bool {
    match address {
        // 240.0.0.0/4 holds the broadcast address, 0.0.0.0/8 what has no address yet.
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

/// Writes an IPv4 header without options that answers `packet`: from its destination to its source.
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

/// Writes an IPv6 header that answers `packet`: from its destination to its source.
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
