//! Which packets may be merged at all, and which two may follow each other in one superpacket.
//!
//! The kernel's rules are in `inet_gro_receive` (`net/ipv4/af_inet.c`), `ipv6_gro_receive`
//! (`net/ipv6/ip6_offload.c`), `tcp_gro_receive` and `udp_gro_receive_segment`. Ours are at least
//! as strict, so that segmenting a superpacket gives back the packets it was made of.

use super::super::superpacket::SuperpacketKind;
use super::seal::SealReason;
use crate::packet::checksum::{Sum, pseudo_header};
use crate::packet::flow::FlowKey;
use crate::packet::{Flags, Ipv4, Ipv6, Tcp, Udp, ip, protocol};

/// What a packet is to the window.
#[derive(Clone, Copy, Debug)]
pub(super) enum Class {
    /// May start a chain or join one.
    Candidate(Candidate),
    /// Goes as it is, and its flow's chain must not take what comes after it.
    SealsFlow(FlowKey, SealReason),
    /// A fragment: it may belong to any flow between its addresses.
    SealsAddresses(FlowKey),
    /// Neither TCP nor UDP: no chain can hold its flow.
    Alone,
    /// It may belong to any flow.
    SealsAll,
}

/// A packet that may be merged. Offsets and lengths in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) key: FlowKey,
    pub(super) kind: SuperpacketKind,
    pub(super) transport: usize,
    pub(super) header_len: usize,
    pub(super) payload_len: usize,
    /// TCP's sequence number; zero for UDP.
    pub(super) sequence: u32,
    /// TCP's PSH.
    pub(super) push: bool,
    /// IPv4's identification if it must count up: without it a fragmentable packet that the kernel
    /// cuts again would get an identification that its sender gave to another.
    pub(super) id: Option<u16>,
}

/// Sorts a packet that is trimmed to its IP length.
#[inline]
pub(super) fn classify(packet: &[u8]) -> Class {
    let Some(transport) = ip::transport(packet) else { return Class::SealsAll };
    let Some(key) = FlowKey::new(packet, Some(transport)) else { return Class::SealsAll };
    if transport.fragment {
        return Class::SealsAddresses(key);
    }
    match transport.protocol {
        protocol::TCP => tcp(packet, key, transport.offset),
        protocol::UDP => udp(packet, key, transport.offset),
        _ => Class::Alone,
    }
}

fn tcp(packet: &[u8], key: FlowKey, transport: usize) -> Class {
    let Some(header) = Tcp::new_checked(&packet[transport..]) else { return Class::SealsAll };
    let flags = header.flags();
    let header_len = transport + header.header_len();
    let Some(ip) = plain_ip(packet, transport) else {
        return Class::SealsFlow(key, SealReason::Ineligible);
    };
    let mergeable = Flags::ACK.with(Flags::PSH).with(Flags::ECE);
    if !flags.any(Flags::ACK) || flags.without(mergeable) != Flags(0) || header.reserved() != 0 {
        return Class::SealsFlow(key, SealReason::Flags);
    }
    if packet.len() == header_len {
        return Class::SealsFlow(key, SealReason::NoPayload);
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

fn udp(packet: &[u8], key: FlowKey, transport: usize) -> Class {
    let Some(header) = Udp::new_checked(&packet[transport..]) else { return Class::SealsAll };
    let header_len = transport + Udp::HEADER;
    let ip = match plain_ip(packet, transport) {
        Some(ip) if header.len() == packet.len() - transport => ip,
        _ => return Class::SealsFlow(key, SealReason::Ineligible),
    };
    if header.is_empty() {
        return Class::SealsFlow(key, SealReason::NoPayload);
    }
    if header.checksum() == 0 {
        return Class::SealsFlow(key, SealReason::Checksum);
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

/// An IP header that a superpacket can have.
struct PlainIp {
    id: Option<u16>,
}

/// Checks that the IP header has no options or extensions and sets no flag but "don't fragment".
fn plain_ip(packet: &[u8], transport: usize) -> Option<PlainIp> {
    if let Some(header) = Ipv4::new_checked(packet) {
        let flags = header.fragment_field();
        let dont_fragment = flags == Ipv4::DONT_FRAGMENT;
        let plain = transport == Ipv4::MIN_HEADER && (dont_fragment || flags == 0);
        // The kernel drops a packet whose header checksum is wrong; merging would repair it.
        let intact = plain && Sum::of(&packet[..transport]).checksum() == 0;
        intact.then(|| PlainIp { id: (!dont_fragment).then(|| header.id()) })
    } else {
        (transport == Ipv6::HEADER).then_some(PlainIp { id: None })
    }
}

/// Whether both packets' headers differ only in what segmentation fills in again: lengths,
/// identification, sequence number, PSH, checksums. Both are candidates of one flow.
#[inline]
pub(super) fn same_header(head: &[u8], packet: &[u8], candidate: &Candidate) -> bool {
    let ip = match candidate.kind {
        SuperpacketKind::Tso4 | SuperpacketKind::Uso4 => {
            // Version, length and TOS; flags; TTL and protocol.
            head[..2] == packet[..2] && head[6..10] == packet[6..10]
        }
        // Version, traffic class and flow label; next header and hop limit.
        _ => head[..4] == packet[..4] && head[6..8] == packet[6..8],
    };
    if !ip || !candidate.kind.is_tcp() {
        return ip;
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

/// Whether the packet's transport checksum is right. A superpacket gets a new checksum, so merging
/// a corrupt segment would launder it.
#[inline]
pub(super) fn checksum_is_right(packet: &[u8], candidate: &Candidate) -> bool {
    let (addresses, protocol) = match candidate.kind {
        SuperpacketKind::Tso4 => (Ipv4::ADDRESSES, protocol::TCP),
        SuperpacketKind::Uso4 => (Ipv4::ADDRESSES, protocol::UDP),
        SuperpacketKind::Tso6 => (Ipv6::ADDRESSES, protocol::TCP),
        _ => (Ipv6::ADDRESSES, protocol::UDP),
    };
    let transport = &packet[candidate.transport..];
    let sum = pseudo_header(&packet[addresses], protocol) + Sum::of(transport);
    // A transport length fits 16 bits: the IP length does.
    sum.with_u16(transport.len() as u16).checksum() == 0
}
