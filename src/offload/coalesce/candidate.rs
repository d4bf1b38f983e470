//! Rules for which packets may be merged, and which packet may follow another in a superpacket.
//!
//! The rules are at least as strict as the kernel's in `inet_gro_receive` (`net/ipv4/af_inet.c`),
//! `ipv6_gro_receive` (`net/ipv6/ip6_offload.c`), `tcp_gro_receive` and `udp_gro_receive_segment`, so
//! that segmenting a superpacket restores the original packets.

use super::close::CloseReason;
use super::encapsulated;
use crate::offload::Limits;
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
///
/// In a tunnel, `key` is that of the outer packet, and transport header, payload, sequence number and PSH
/// are those of the inner one.
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
    ///
    /// In a tunnel, that of every outer IPv4 packet.
    pub(super) id: Option<u16>,
    /// Offset of the inner IP header in a tunnel; otherwise zero.
    pub(super) inner: u16,
    /// Identification of the inner packet in a tunnel, if that is IPv4. It must increase by one also if
    /// the packet may not be fragmented: nothing of an inner packet may change.
    pub(super) inner_id: Option<u16>,
}

impl Candidate {
    /// Returns whether the payload is TCP's, in a tunnel or not.
    #[inline]
    pub(super) fn is_tcp(&self) -> bool {
        self.kind.is_tcp() || self.kind == SuperpacketKind::UdpTunnel
    }
}

/// Classifies a packet that is trimmed to its IP length.
#[inline]
pub(super) fn classify(packet: &[u8], limits: &Limits) -> Class {
    let Some(transport) = ip::transport(packet) else { return Class::ClosesAll };
    let Some(key) = FlowKey::new(packet, Some(transport)) else { return Class::ClosesAll };
    if transport.fragment {
        return Class::ClosesAddresses(key);
    }
    match transport.protocol {
        protocol::TCP => tcp(packet, key, transport.offset),
        protocol::UDP => udp(packet, key, transport.offset, limits),
        _ => Class::Alone,
    }
}

fn tcp(packet: &[u8], key: FlowKey, transport: usize) -> Class {
    let Some(header) = Tcp::new_checked(&packet[transport..]) else { return Class::ClosesAll };
    let header_len = transport + header.header_len();
    let Some(ip) = plain_ip(packet, transport) else {
        return Class::ClosesFlow(key, CloseReason::Ineligible);
    };
    if !mergeable(&header) {
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
        push: header.flags().any(Flags::PSH),
        id: ip.id.filter(|_| ip.may_fragment),
        inner: 0,
        inner_id: None,
    })
}

/// Returns whether a segment has ACK and no flags that must stay in their place.
#[inline]
pub(super) fn mergeable(header: &Tcp<&[u8]>) -> bool {
    let harmless = Flags::ACK.with(Flags::PSH).with(Flags::ECE);
    let flags = header.flags();
    flags.any(Flags::ACK) && flags.without(harmless) == Flags(0) && header.reserved() == 0
}

fn udp(packet: &[u8], key: FlowKey, transport: usize, limits: &Limits) -> Class {
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
    let filled = || limits.fill_checksums && encapsulated::is_known(header.destination_port());
    if header.checksum() == 0 && !filled() {
        return Class::ClosesFlow(key, CloseReason::Checksum);
    }
    let datagram = Candidate {
        key,
        kind: SuperpacketKind::of(packet[0] >> 4, protocol::UDP),
        transport,
        header_len,
        payload_len: packet.len() - header_len,
        sequence: 0,
        push: false,
        id: ip.id.filter(|_| ip.may_fragment),
        inner: 0,
        inner_id: None,
    };
    if limits.merges_tunnels()
        && let Some(within) = encapsulated::candidate(packet, &datagram, header.destination_port(), &ip)
    {
        return Class::Candidate(within);
    }
    Class::Candidate(datagram)
}

/// Fields of an IP header that a superpacket can have.
pub(super) struct PlainIp {
    /// The identification, if it is IPv4.
    pub(super) id: Option<u16>,
    may_fragment: bool,
}

/// Returns `None` if the IP header has options or extension headers, or a flag other than "don't
/// fragment", or a wrong IPv4 header checksum.
pub(super) fn plain_ip(packet: &[u8], transport: usize) -> Option<PlainIp> {
    if let Some(header) = Ipv4::new_checked(packet) {
        let flags = header.fragment_field();
        let dont_fragment = flags == Ipv4::DONT_FRAGMENT;
        let plain = transport == Ipv4::MIN_HEADER && (dont_fragment || flags == 0);
        // The kernel drops a packet with a wrong header checksum; merging would repair the checksum.
        let intact = plain && Sum::of(&packet[..transport]).checksum() == 0;
        intact.then(|| PlainIp { id: Some(header.id()), may_fragment: !dont_fragment })
    } else {
        (transport == Ipv6::HEADER).then_some(PlainIp { id: None, may_fragment: false })
    }
}

/// Returns whether the headers of two candidates of one flow and kind differ only in fields that segmentation
/// restores: lengths, identification, sequence number, PSH and checksums.
#[inline]
pub(super) fn same_header(head: &[u8], packet: &[u8], candidate: &Candidate) -> bool {
    if !same_ip(head, packet) {
        return false;
    }
    let transport = candidate.transport;
    if candidate.kind.is_tcp() {
        return same_tcp(&head[transport..], &packet[transport..]);
    }
    let tunnel = candidate.kind == SuperpacketKind::UdpTunnel;
    let udp = if tunnel { encapsulated::ip_len(packet) } else { transport };
    let has_checksum = |packet: &[u8]| packet[udp + Udp::CHECKSUM..][..2] != [0; 2];
    has_checksum(head) == has_checksum(packet)
        && (!tunnel || encapsulated::same_header(head, packet, candidate))
}

/// Returns whether IP headers of the same version differ only in lengths, identification, checksum and addresses.
#[inline]
pub(super) fn same_ip(head: &[u8], packet: &[u8]) -> bool {
    if packet[0] >> 4 == 4 {
        // Version, header length and TOS; fragment flags and offset, TTL and protocol.
        head[..2] == packet[..2] && head[6..10] == packet[6..10]
    } else {
        // Version, traffic class and flow label; next header and hop limit.
        head[..4] == packet[..4] && head[6..8] == packet[6..8]
    }
}

/// Returns whether TCP headers differ only in ports, sequence number, PSH and checksum.
#[inline]
pub(super) fn same_tcp(head: &[u8], packet: &[u8]) -> bool {
    let (Some(head), Some(packet)) = (Tcp::new_checked(head), Tcp::new_checked(packet)) else { return false };
    head.acknowledgement() == packet.acknowledgement()
        && head.window() == packet.window()
        && head.flags().without(Flags::PSH) == packet.flags().without(Flags::PSH)
        && head.urgent() == packet.urgent()
        && head.options() == packet.options()
}

/// Returns whether the packet's transport checksum is correct; in a tunnel, that of outer and inner packet. A
/// superpacket gets a new checksum, so merging a corrupt segment would hide the corruption.
#[inline]
pub(super) fn checksum_is_right(packet: &[u8], candidate: &Candidate) -> bool {
    let (addresses, protocol) = match candidate.kind {
        SuperpacketKind::Tso4 => (Ipv4::ADDRESSES, protocol::TCP),
        SuperpacketKind::Uso4 => (Ipv4::ADDRESSES, protocol::UDP),
        SuperpacketKind::Tso6 => (Ipv6::ADDRESSES, protocol::TCP),
        SuperpacketKind::UdpTunnel => return encapsulated::checksums_are_right(packet, candidate),
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
