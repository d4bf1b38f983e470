//! Rules for which packets may be merged, and which packet may follow another in a superpacket.
//!
//! The rules are at least as strict as the kernel's in `inet_gro_receive` (`net/ipv4/af_inet.c`),
//! `ipv6_gro_receive` (`net/ipv6/ip6_offload.c`), `tcp_gro_receive` and `udp_gro_receive_segment`, so
//! that segmenting a superpacket restores the original packets.

use super::close::CloseReason;
use crate::offload::superpacket::SuperpacketKind;
use crate::packet::checksum::{Sum, pseudo_header};
use crate::packet::flow::FlowKey;
use crate::packet::{Flags, Ipv4, Ipv6, Tcp, Udp, ip, protocol};

/// How the window treats a packet.
#[derive(Clone, Copy, Debug)]
pub(super) enum Class {
    /// May start a chain or join one.
    Candidate(Candidate),
    /// Passed on unchanged; closes the chain of its flow, which preserves order within the flow.
    ClosesFlow(FlowKey, CloseReason),
    /// A fragment: closes every chain between its addresses, as it may belong to any of their flows.
    ClosesAddresses(FlowKey),
    /// Neither TCP nor UDP: passed on unchanged, closes no chain.
    Alone,
    /// Not parsable: closes every chain, as it may belong to any flow.
    ClosesAll,
}

/// A packet that may be merged. Offsets and lengths are in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) key: FlowKey,
    pub(super) kind: SuperpacketKind,
    pub(super) transport: usize,
    pub(super) header_len: usize,
    pub(super) payload_len: usize,
    /// TCP sequence number; zero for UDP.
    pub(super) sequence: u32,
    /// Whether TCP's PSH is set; false for UDP.
    pub(super) push: bool,
    /// IPv4 identification of a packet that may be fragmented, which must increase by one from segment to
    /// segment. Otherwise segmentation could give a packet an identification that its sender used for
    /// another one.
    pub(super) id: Option<u16>,
}

/// UDP ports of encapsulations whose datagrams mostly carry no checksum, since their inner packets have
/// their own: Geneve (RFC 8926), VXLAN (RFC 7348), and VXLAN as Linux and Flannel number it.
const ENCAPSULATIONS: [u16; 3] = [6081, 4789, 8472];

/// Classifies a packet that is trimmed to its IP length. See [`Limits`](crate::offload::Limits) for
/// `fill_checksums`.
#[inline]
pub(super) fn classify(packet: &[u8], fill_checksums: bool) -> Class {
    let Some(transport) = ip::transport(packet) else { return Class::ClosesAll };
    let Some(key) = FlowKey::new(packet, Some(transport)) else { return Class::ClosesAll };
    if transport.fragment {
        return Class::ClosesAddresses(key);
    }
    match transport.protocol {
        protocol::TCP => tcp(packet, key, transport.offset),
        protocol::UDP => udp(packet, key, transport.offset, fill_checksums),
        _ => Class::Alone,
    }
}

fn tcp(packet: &[u8], key: FlowKey, transport: usize) -> Class {
    let Some(header) = Tcp::new_checked(&packet[transport..]) else { return Class::ClosesAll };
    let flags = header.flags();
    let header_len = transport + header.header_len();
    let Some(ip) = plain_ip(packet, transport) else {
        return Class::ClosesFlow(key, CloseReason::Ineligible);
    };
    let mergeable = Flags::ACK.with(Flags::PSH).with(Flags::ECE);
    if !flags.any(Flags::ACK) || flags.without(mergeable) != Flags(0) || header.reserved() != 0 {
        return Class::ClosesFlow(key, CloseReason::Flags);
    }
    if packet.len() == header_len {
        return Class::ClosesFlow(key, CloseReason::NoPayload);
    }
    Class::Candidate(Candidate {
        key,
        kind: SuperpacketKind::of(packet[0] >> 4, protocol::TCP),
        transport,
        header_len,
        payload_len: packet.len() - header_len,
        sequence: header.sequence(),
        push: flags.any(Flags::PSH),
        id: ip.id,
    })
}

fn udp(packet: &[u8], key: FlowKey, transport: usize, fill_checksums: bool) -> Class {
    let Some(header) = Udp::new_checked(&packet[transport..]) else { return Class::ClosesAll };
    let header_len = transport + Udp::HEADER;
    let ip = match plain_ip(packet, transport) {
        Some(ip) if header.len() == packet.len() - transport => ip,
        _ => return Class::ClosesFlow(key, CloseReason::Ineligible),
    };
    if header.is_empty() {
        return Class::ClosesFlow(key, CloseReason::NoPayload);
    }
    // A superpacket gives its segments a checksum. That hides no corruption: the inner packet keeps the
    // checksum it has.
    let filled = || fill_checksums && ENCAPSULATIONS.contains(&header.destination_port());
    if header.checksum() == 0 && !filled() {
        return Class::ClosesFlow(key, CloseReason::Checksum);
    }
    Class::Candidate(Candidate {
        key,
        kind: SuperpacketKind::of(packet[0] >> 4, protocol::UDP),
        transport,
        header_len,
        payload_len: packet.len() - header_len,
        sequence: 0,
        push: false,
        id: ip.id,
    })
}

/// Fields of an IP header that a superpacket can have.
struct PlainIp {
    id: Option<u16>,
}

/// Returns `None` if the IP header has options or extension headers, or a flag other than "don't
/// fragment", or a wrong IPv4 header checksum.
fn plain_ip(packet: &[u8], transport: usize) -> Option<PlainIp> {
    if let Some(header) = Ipv4::new_checked(packet) {
        let flags = header.fragment_field();
        let dont_fragment = flags == Ipv4::DONT_FRAGMENT;
        let plain = transport == Ipv4::MIN_HEADER && (dont_fragment || flags == 0);
        // The kernel drops a packet with a wrong header checksum; merging would repair the checksum.
        let intact = plain && Sum::of(&packet[..transport]).checksum() == 0;
        intact.then(|| PlainIp { id: (!dont_fragment).then(|| header.id()) })
    } else {
        (transport == Ipv6::HEADER).then_some(PlainIp { id: None })
    }
}

/// Returns whether the headers of two candidates of one flow differ only in fields that segmentation
/// restores: lengths, identification, sequence number, PSH and checksums.
#[inline]
pub(super) fn same_header(head: &[u8], packet: &[u8], candidate: &Candidate) -> bool {
    let ip = match candidate.kind {
        SuperpacketKind::Tso4 | SuperpacketKind::Uso4 => {
            // Version, header length and TOS; fragment flags and offset, TTL and protocol.
            head[..2] == packet[..2] && head[6..10] == packet[6..10]
        }
        // Version, traffic class and flow label; next header and hop limit.
        _ => head[..4] == packet[..4] && head[6..8] == packet[6..8],
    };
    if !ip {
        return false;
    }
    if !candidate.kind.is_tcp() {
        let has_checksum = |packet: &[u8]| packet[candidate.transport + Udp::CHECKSUM..][..2] != [0; 2];
        return has_checksum(head) == has_checksum(packet);
    }
    let views =
        (Tcp::new_checked(&head[candidate.transport..]), Tcp::new_checked(&packet[candidate.transport..]));
    let (Some(head), Some(packet)) = views else { return false };
    head.acknowledgement() == packet.acknowledgement()
        && head.window() == packet.window()
        && head.flags().without(Flags::PSH) == packet.flags().without(Flags::PSH)
        && head.urgent() == packet.urgent()
        && head.options() == packet.options()
}

/// Returns whether the packet's transport checksum is correct. A superpacket gets a new checksum, so
/// merging a corrupt segment would hide the corruption.
#[inline]
pub(super) fn checksum_is_right(packet: &[u8], candidate: &Candidate) -> bool {
    let (addresses, protocol) = match candidate.kind {
        SuperpacketKind::Tso4 => (Ipv4::ADDRESSES, protocol::TCP),
        SuperpacketKind::Uso4 => (Ipv4::ADDRESSES, protocol::UDP),
        SuperpacketKind::Tso6 => (Ipv6::ADDRESSES, protocol::TCP),
        _ => (Ipv6::ADDRESSES, protocol::UDP),
    };
    let transport = &packet[candidate.transport..];
    if !candidate.kind.is_tcp() && transport[Udp::CHECKSUM..][..2] == [0; 2] {
        // There is none, and `classify` has allowed that.
        return true;
    }
    let sum = pseudo_header(&packet[addresses], protocol) + Sum::of(transport);
    // The IP length fits 16 bits, so the transport length does too.
    sum.with_u16(transport.len() as u16).checksum() == 0
}
