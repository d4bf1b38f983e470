//! A superpacket as read from the TUN: checked here once, so that segmentation (`segment.rs`) can
//! trust it. Comes from the queue reader; goes to the inside worker, which routes it whole and
//! then takes its segments.
//!
//! The rules are the offload contract's section 3; the kernel's side of them is
//! `include/linux/virtio_net.h`. Everything in here can be hostile: a process in the workload's
//! namespace writes what it likes through raw sockets.

use std::net::IpAddr;

use super::virtio::VirtioHeader;
use crate::drops::DropReason;
use crate::packet::checksum::{self, Sum};
use crate::packet::{Flags, Ipv4, Ipv6, Tcp, Udp, ip, protocol};

/// How a superpacket is to be segmented, or how it was coalesced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SuperpacketKind {
    /// One packet as it is.
    None,
    /// TCP over IPv4.
    Tso4,
    /// TCP over IPv6.
    Tso6,
    /// UDP over IPv4.
    Uso4,
    /// UDP over IPv6.
    Uso6,
}

impl SuperpacketKind {
    /// Every kind, in the order of their discriminants.
    pub const ALL: [SuperpacketKind; 5] = [Self::None, Self::Tso4, Self::Tso6, Self::Uso4, Self::Uso6];

    /// The value of the `kind` label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Tso4 => "tso4",
            Self::Tso6 => "tso6",
            Self::Uso4 => "uso4",
            Self::Uso6 => "uso6",
        }
    }

    /// The kind for a transport protocol and IP version; `None` for what cannot be segmented.
    pub(super) const fn of(version: u8, protocol: u8) -> SuperpacketKind {
        match (version, protocol) {
            (4, protocol::TCP) => Self::Tso4,
            (6, protocol::TCP) => Self::Tso6,
            (4, protocol::UDP) => Self::Uso4,
            (6, protocol::UDP) => Self::Uso6,
            _ => Self::None,
        }
    }

    /// Whether segments carry TCP.
    pub const fn is_tcp(self) -> bool {
        matches!(self, Self::Tso4 | Self::Tso6)
    }

    /// Where the transport checksum stands, in bytes from the start of the transport header.
    pub(super) const fn checksum_offset(self) -> usize {
        if self.is_tcp() { Tcp::CHECKSUM } else { Udp::CHECKSUM }
    }
}

/// One TUN read: a packet, or what the kernel leaves to be cut into segments.
#[derive(Clone, Debug)]
pub struct Superpacket<'a> {
    header: VirtioHeader,
    pub(super) kind: SuperpacketKind,
    /// Trimmed to its IP length. Nobody writes to it any more, so it is its own pristine copy of
    /// the headers.
    pub(super) packet: &'a [u8],
    /// Where the transport header starts, and where the payload does. Zero for a packet of kind
    /// `None`.
    pub(super) transport: usize,
    pub(super) header_len: usize,
    /// Payload bytes of each segment but the last.
    pub(super) gso_size: usize,
    pub(super) segments: usize,
    pub(super) stamp: Stamp,
    source: IpAddr,
    destination: IpAddr,
}

/// What every segment's headers have in common, taken once per superpacket.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stamp {
    /// [`Ipv4::constant_sum`]; not used for IPv6.
    pub(super) ip: Sum,
    /// Pseudo header without length, and for TCP [`Tcp::constant_sum`], for UDP the ports.
    pub(super) transport: Sum,
    /// Of the superpacket.
    pub(super) id: u16,
    pub(super) sequence: u32,
    pub(super) flags: u8,
}

impl<'a> Superpacket<'a> {
    /// Checks `packet` against its virtio header. A checksum that the kernel left unfinished on a
    /// packet without GSO is finished in place.
    ///
    /// # Errors
    /// The reason for which the packet must be dropped.
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
            transport: 0,
            header_len: 0,
            gso_size: packet.len(),
            segments: 1,
            stamp: Stamp::default(),
            source,
            destination,
        };
        if gso == VirtioHeader::GSO_NONE { Ok(whole) } else { whole.segmented(gso, header) }
    }

    /// How it is to be segmented.
    #[inline]
    pub fn kind(&self) -> SuperpacketKind {
        self.kind
    }

    /// The header with which [`Superpacket::packet`] can be parsed again, after it was put aside.
    #[inline]
    pub fn header(&self) -> VirtioHeader {
        self.header
    }

    /// The whole packet, trimmed to its IP length. If it is to be segmented, its lengths are the
    /// superpacket's and its transport checksum is not finished.
    #[inline]
    pub fn packet(&self) -> &'a [u8] {
        self.packet
    }

    /// Where it comes from.
    #[inline]
    pub fn source(&self) -> IpAddr {
        self.source
    }

    /// Where it, and so each of its segments, goes to.
    #[inline]
    pub fn destination(&self) -> IpAddr {
        self.destination
    }

    /// Checks all that segmentation relies on.
    fn segmented(self, gso: u8, virtio: VirtioHeader) -> Result<Superpacket<'a>, DropReason> {
        let packet = self.packet;
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
        // Without NEEDS_CSUM the two fields mean nothing; the headers were walked either way.
        let told = (usize::from(virtio.csum_start), usize::from(virtio.csum_offset));
        if virtio.flags & VirtioHeader::NEEDS_CSUM != 0 && told != (offset, kind.checksum_offset()) {
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
        let header_len = offset + transport_len;
        let gso_size = usize::from(virtio.gso_size);
        let segments = (packet.len() - header_len).div_ceil(gso_size).max(1);
        Ok(Superpacket { kind, transport: offset, header_len, gso_size, segments, stamp, ..self })
    }
}

impl Stamp {
    /// The superpacket's TCP flags.
    pub(super) fn flags(&self) -> Flags {
        Flags(self.flags)
    }
}

/// The GSO type without its ECN bit, if a TUN may hand it over.
fn gso_type(header: VirtioHeader) -> Result<u8, DropReason> {
    let gso = header.gso_type & !VirtioHeader::GSO_ECN;
    let known = matches!(
        gso,
        VirtioHeader::GSO_NONE | VirtioHeader::GSO_TCPV4 | VirtioHeader::GSO_TCPV6 | VirtioHeader::GSO_UDP_L4
    );
    if !known || header.flags & VirtioHeader::RSC_INFO != 0 {
        return Err(DropReason::GsoType);
    }
    let tcp = matches!(gso, VirtioHeader::GSO_TCPV4 | VirtioHeader::GSO_TCPV6);
    if header.gso_type & VirtioHeader::GSO_ECN != 0 && !tcp {
        return Err(DropReason::GsoEcn);
    }
    Ok(gso)
}

/// The packet cut to its IP length.
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

/// Finishes a checksum as `skb_checksum_help` in `net/core/dev.c` does: the field holds the
/// pseudo header's sum as a seed, and everything from `start` on is added to it. `start` need not
/// be the outer transport header: inside a tunnel of the workload it is the inner one.
fn finish_checksum(packet: &mut [u8], start: usize, offset: usize) -> Result<(), DropReason> {
    let ip_header = Ipv4::new_checked(&*packet).map_or(Ipv6::HEADER, |header| header.header_len());
    let field = start + offset;
    // An odd place would be summed as the wrong half of a word.
    if start < ip_header || field + 2 > packet.len() || !offset.is_multiple_of(2) {
        return Err(DropReason::ChecksumStart);
    }
    let sum = Sum::of(&packet[start..]);
    let sum = if offset == Udp::CHECKSUM { sum.udp_checksum() } else { sum.checksum() };
    packet[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    Ok(())
}
