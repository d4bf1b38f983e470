//! Validation of superpackets read from the TUN.
//!
//! A superpacket is validated once, here, so that segmentation (`segment.rs`) can trust it. The queue
//! reader parses it; the inside worker routes it as a whole and then takes its segments.
//!
//! The rules are those of the kernel for packets that it receives (`virtio_net_hdr_to_skb` in Linux's
//! `include/linux/virtio_net.h`), and stricter where segmentation relies on it: the GSO type must match
//! the packet's headers. All input is untrusted: a process in the workload's network namespace can send
//! arbitrary packets through raw sockets.

use std::net::IpAddr;

use super::tunnel::Tunnel;
use super::virtio::VirtioHeader;
use crate::drops::DropReason;
use crate::packet::checksum::{self, Sum};
use crate::packet::{Flags, Ipv4, Ipv6, Tcp, Udp, ip, protocol};

/// Transport protocol and IP version that a superpacket is segmented or coalesced by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SuperpacketKind {
    /// A single packet: no segmentation.
    None,
    /// TCP over IPv4.
    Tso4,
    /// TCP over IPv6.
    Tso6,
    /// UDP over IPv4.
    Uso4,
    /// UDP over IPv6.
    Uso6,
    /// TCP or UDP inside a UDP tunnel, such as VXLAN or Geneve.
    UdpTunnel,
}

impl SuperpacketKind {
    /// All kinds, in discriminant order.
    pub const ALL: [SuperpacketKind; 6] =
        [Self::None, Self::Tso4, Self::Tso6, Self::Uso4, Self::Uso6, Self::UdpTunnel];

    /// Returns the value of the `kind` metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Tso4 => "tso4",
            Self::Tso6 => "tso6",
            Self::Uso4 => "uso4",
            Self::Uso6 => "uso6",
            Self::UdpTunnel => "udp_tunnel",
        }
    }

    /// Returns the kind for an IP version and transport protocol; [`SuperpacketKind::None`] if the
    /// combination cannot be segmented.
    pub(super) const fn of(version: u8, protocol: u8) -> SuperpacketKind {
        match (version, protocol) {
            (4, protocol::TCP) => Self::Tso4,
            (6, protocol::TCP) => Self::Tso6,
            (4, protocol::UDP) => Self::Uso4,
            (6, protocol::UDP) => Self::Uso6,
            _ => Self::None,
        }
    }

    /// Returns whether the segments carry TCP.
    pub const fn is_tcp(self) -> bool {
        matches!(self, Self::Tso4 | Self::Tso6)
    }

    /// Returns the offset of the checksum field, in bytes from the start of the transport header.
    pub(super) const fn checksum_offset(self) -> usize {
        if self.is_tcp() { Tcp::CHECKSUM } else { Udp::CHECKSUM }
    }
}

/// One validated TUN read: a packet or a superpacket.
#[derive(Clone, Debug)]
pub struct Superpacket<'a> {
    header: VirtioHeader,
    /// In a tunnel, that of the inner packets.
    pub(super) kind: SuperpacketKind,
    /// Trimmed to its IP length. Immutable from here on, so each segment copies its headers from it.
    pub(super) packet: &'a [u8],
    /// The headers around each inner packet, if the superpacket is in a tunnel.
    pub(super) tunnel: Option<Tunnel>,
    /// Offset of the (inner) transport header in bytes. Zero for kind `None`.
    pub(super) transport: usize,
    /// Bytes of all headers: the offset of the payload. Zero for kind `None`.
    pub(super) header_len: usize,
    /// Payload bytes of every segment but the last, which can be shorter.
    pub(super) gso_size: usize,
    pub(super) segments: usize,
    pub(super) stamp: Stamp,
    source: IpAddr,
    destination: IpAddr,
}

/// Header fields and partial checksums common to all segments, computed once per superpacket.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stamp {
    /// [`Ipv4::constant_sum`]; unused for IPv6.
    pub(super) ip: Sum,
    /// Sum of the pseudo header without its length, plus [`Tcp::constant_sum`] for TCP or the ports for
    /// UDP.
    pub(super) transport: Sum,
    /// IPv4 identification of the first segment.
    pub(super) id: u16,
    /// TCP sequence number of the first segment.
    pub(super) sequence: u32,
    /// TCP flags of the superpacket.
    pub(super) flags: u8,
}

impl<'a> Superpacket<'a> {
    /// Validates `packet` against its virtio header. Completes a partial checksum in place if the
    /// packet needs no segmentation.
    ///
    /// # Errors
    /// Returns the reason to drop the packet if it is malformed.
    pub fn parse(mut header: VirtioHeader, packet: &'a mut [u8]) -> Result<Superpacket<'a>, DropReason> {
        let gso = gso_type(header)?;
        let packet = trimmed(packet)?;
        let needs_checksum = header.flags & VirtioHeader::NEEDS_CSUM != 0;
        if gso == VirtioHeader::GSO_NONE && needs_checksum {
            finish_checksum(packet, header.csum_start.into(), header.csum_offset.into())?;
            header.flags &= !VirtioHeader::NEEDS_CSUM;
        }
        let packet: &'a [u8] = packet;
        let (Some(source), Some(destination)) = (ip::source(packet), ip::destination(packet)) else {
            return Err(DropReason::NotIp);
        };
        let whole = Superpacket {
            header,
            kind: SuperpacketKind::None,
            packet,
            tunnel: None,
            transport: 0,
            header_len: 0,
            gso_size: packet.len(),
            segments: 1,
            stamp: Stamp::default(),
            source,
            destination,
        };
        if gso == VirtioHeader::GSO_NONE {
            return Ok(whole);
        }
        let tunnel = Tunnel::parse(packet, header)?;
        Superpacket { tunnel, ..whole }.segmented(gso, header)
    }

    /// Returns how the superpacket is segmented.
    #[inline]
    pub fn kind(&self) -> SuperpacketKind {
        if self.tunnel.is_some() { SuperpacketKind::UdpTunnel } else { self.kind }
    }

    /// Returns the virtio header with which a stored copy of [`Superpacket::packet`] can be parsed
    /// again.
    #[inline]
    pub fn header(&self) -> VirtioHeader {
        self.header
    }

    /// Returns the whole packet, trimmed to its IP length. For any kind but
    /// [`SuperpacketKind::None`], the length fields are those of the superpacket and the transport
    /// checksum is incomplete.
    #[inline]
    pub fn packet(&self) -> &'a [u8] {
        self.packet
    }

    /// Returns the source address of every segment.
    #[inline]
    pub fn source(&self) -> IpAddr {
        self.source
    }

    /// Returns the destination address of every segment.
    #[inline]
    pub fn destination(&self) -> IpAddr {
        self.destination
    }

    /// Validates everything that segmentation relies on.
    fn segmented(self, gso: u8, virtio: VirtioHeader) -> Result<Superpacket<'a>, DropReason> {
        let network = self.tunnel.as_ref().map_or(0, |tunnel| tunnel.inner);
        let packet = &self.packet[network..];
        let version = packet[0] >> 4;
        let ip::Transport { protocol, offset, fragment } =
            ip::transport(packet).ok_or(DropReason::TransportHeader)?;
        let kind = SuperpacketKind::of(version, protocol);
        let agrees = match gso {
            VirtioHeader::GSO_TCPV4 => kind == SuperpacketKind::Tso4,
            VirtioHeader::GSO_TCPV6 => kind == SuperpacketKind::Tso6,
            _ => matches!(kind, SuperpacketKind::Uso4 | SuperpacketKind::Uso6),
        };
        if !agrees || fragment {
            return Err(DropReason::GsoMismatch);
        }
        if virtio.gso_size == 0 {
            return Err(DropReason::GsoSize);
        }
        // Without NEEDS_CSUM the two fields are meaningless. The offsets used below come from parsing the
        // headers in either case.
        let told = (usize::from(virtio.csum_start), usize::from(virtio.csum_offset));
        let found = (network + offset, kind.checksum_offset());
        if virtio.flags & VirtioHeader::NEEDS_CSUM != 0 && told != found {
            return Err(DropReason::ChecksumStart);
        }

        let addresses = ip::addresses(packet).ok_or(DropReason::IpLength)?;
        let mut stamp = Stamp { transport: checksum::pseudo_header(addresses, protocol), ..Stamp::default() };
        if let Some(header) = Ipv4::new_checked(packet) {
            stamp.ip = header.constant_sum();
            stamp.id = header.id();
        }
        let transport_len = if kind.is_tcp() {
            let header = Tcp::new_checked(&packet[offset..]).ok_or(DropReason::TransportHeader)?;
            stamp.transport = stamp.transport + header.constant_sum();
            stamp.sequence = header.sequence();
            stamp.flags = header.flags().0;
            header.header_len()
        } else {
            Udp::new_checked(&packet[offset..]).ok_or(DropReason::TransportHeader)?;
            stamp.transport = stamp.transport + Sum::of(&packet[offset..offset + 4]);
            Udp::HEADER
        };
        let transport = network + offset;
        let header_len = transport + transport_len;
        let gso_size = usize::from(virtio.gso_size);
        let segments = (self.packet.len() - header_len).div_ceil(gso_size).max(1);
        Ok(Superpacket { kind, transport, header_len, gso_size, segments, stamp, ..self })
    }
}

impl Stamp {
    /// Returns the TCP flags of the superpacket.
    pub(super) fn flags(&self) -> Flags {
        Flags(self.flags)
    }
}

/// Returns the GSO type without its ECN and tunnel bits, or the drop reason if a TUN never delivers
/// such a packet.
fn gso_type(header: VirtioHeader) -> Result<u8, DropReason> {
    let gso = header.gso_type & !(VirtioHeader::GSO_ECN | Tunnel::BITS);
    let known = matches!(
        gso,
        VirtioHeader::GSO_NONE | VirtioHeader::GSO_TCPV4 | VirtioHeader::GSO_TCPV6 | VirtioHeader::GSO_UDP_L4
    );
    let nothing_inside = gso == VirtioHeader::GSO_NONE && header.gso_type & Tunnel::BITS != 0;
    if !known || nothing_inside || header.flags & VirtioHeader::RSC_INFO != 0 {
        return Err(DropReason::GsoType);
    }
    let tcp = matches!(gso, VirtioHeader::GSO_TCPV4 | VirtioHeader::GSO_TCPV6);
    if header.gso_type & VirtioHeader::GSO_ECN != 0 && !tcp {
        return Err(DropReason::GsoEcn);
    }
    Ok(gso)
}

/// Trims the packet to its IP length.
fn trimmed(packet: &mut [u8]) -> Result<&mut [u8], DropReason> {
    let shortest = match packet.first().ok_or(DropReason::ShortRead)? >> 4 {
        4 => Ipv4::MIN_HEADER,
        6 => Ipv6::HEADER,
        _ => return Err(DropReason::NotIp),
    };
    if packet.len() < shortest {
        return Err(DropReason::ShortRead);
    }
    let len = ip::packet_len(packet).ok_or(DropReason::IpLength)?;
    packet.get_mut(..len).ok_or(DropReason::IpLength)
}

/// Completes a partial checksum as `skb_checksum_help` in `net/core/dev.c` does: the field holds the
/// sum of the pseudo header as a seed, and everything from `start` on is added to it. `start` need not
/// be the outer transport header: if the workload tunnels packets itself, it is the inner one.
fn finish_checksum(packet: &mut [u8], start: usize, offset: usize) -> Result<(), DropReason> {
    let ip_header = Ipv4::new_checked(&*packet).map_or(Ipv6::HEADER, |header| header.header_len());
    let field = start + offset;
    // A field at an odd offset would be added to the wrong half of a 16-bit word.
    if start < ip_header || field + 2 > packet.len() || !offset.is_multiple_of(2) {
        return Err(DropReason::ChecksumStart);
    }
    let sum = Sum::of(&packet[start..]);
    let sum = if offset == Udp::CHECKSUM { sum.udp_checksum() } else { sum.checksum() };
    packet[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    Ok(())
}
