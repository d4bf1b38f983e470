//! UDP tunnels around superpackets: VXLAN, Geneve and others, which the kernel leaves to us to segment
//! since Linux 6.17 (`TUN_F_UDP_TUNNEL_GSO`).
//!
//! Each segment repeats all headers: outer IP, outer UDP, tunnel header, usually an Ethernet header,
//! inner IP, inner TCP or UDP. What lies between outer UDP and inner IP is copied without being
//! understood, so any encapsulation will do. The rules follow `__skb_udp_tunnel_segment`
//! (`net/ipv4/udp_offload.c`) and `virtio_net_hdr_tnl_to_skb` (`include/linux/virtio_net.h`).

use super::virtio::VirtioHeader;
use crate::drops::DropReason;
use crate::packet::checksum::{Sum, pseudo_header};
use crate::packet::{Ipv4, Ipv6, Udp, ip, protocol};

/// The validated outer headers of a superpacket, with what stamping them needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tunnel {
    /// Offset of the outer UDP header in bytes.
    transport: usize,
    /// Offset of the inner IP header in bytes.
    pub(super) inner: usize,
    /// Whether segments get an outer UDP checksum.
    checksum: bool,
    /// [`Ipv4::constant_sum`] of the outer header; unused for IPv6.
    ip: Sum,
    /// Outer IPv4 identification of the first segment.
    id: u16,
    /// Sum of the outer pseudo header without its length, and of the outer ports.
    udp: Sum,
}

impl Tunnel {
    /// The bits of a GSO type that say that the superpacket is in a tunnel.
    pub(super) const BITS: u8 = VirtioHeader::GSO_UDP_TUNNEL_IPV4 | VirtioHeader::GSO_UDP_TUNNEL_IPV6;

    /// Validates the outer headers of `packet`, which is trimmed to its IP length. Returns `None` if the
    /// GSO type names no tunnel.
    pub(super) fn parse(packet: &[u8], virtio: VirtioHeader) -> Result<Option<Tunnel>, DropReason> {
        let version = match virtio.gso_type & Self::BITS {
            0 => return Ok(None),
            VirtioHeader::GSO_UDP_TUNNEL_IPV4 => 4,
            VirtioHeader::GSO_UDP_TUNNEL_IPV6 => 6,
            _ => return Err(DropReason::GsoType),
        };
        let outer = ip::transport(packet).ok_or(DropReason::TransportHeader)?;
        if packet[0] >> 4 != version || outer.protocol != protocol::UDP || outer.fragment {
            return Err(DropReason::GsoMismatch);
        }
        let (transport, inner) = (outer.offset, usize::from(virtio.inner_network));
        if usize::from(virtio.outer_transport) != transport || inner < transport + Udp::HEADER {
            return Err(DropReason::TunnelOffsets);
        }
        let inside = packet.get(inner..).ok_or(DropReason::TunnelOffsets)?;
        // Whatever is behind the inner packet would be cut into its segments.
        let shortest = match inside.first().map(|first| first >> 4) {
            Some(4) => Ipv4::MIN_HEADER,
            Some(6) => Ipv6::HEADER,
            _ => return Err(DropReason::TunnelOffsets),
        };
        if inside.len() < shortest || ip::packet_len(inside) != Some(inside.len()) {
            return Err(DropReason::IpLength);
        }
        let addresses = ip::addresses(packet).ok_or(DropReason::IpLength)?;
        let ports = &packet[transport..transport + 4];
        let (ip, id) = Ipv4::new_checked(packet)
            .map_or((Sum::default(), 0), |header| (header.constant_sum(), header.id()));
        Ok(Some(Tunnel {
            transport,
            inner,
            checksum: virtio.flags & VirtioHeader::UDP_TUNNEL_CSUM != 0,
            ip,
            id,
            udp: pseudo_header(addresses, protocol::UDP) + Sum::of(ports),
        }))
    }

    /// Completes the outer headers of segment `i`. The inner ones are complete. `headers` bytes precede the
    /// payload, whose sum is `payload`.
    pub(super) fn stamp(&self, i: usize, segment: &mut [u8], headers: usize, payload: Sum) {
        let len = segment.len();
        // The superpacket is at most 65,535 bytes, and a segment is no longer.
        let udp_len = (len - self.transport) as u16;
        let checksum = if self.checksum {
            let between = self.transport + Udp::HEADER;
            // A sum of 16-bit words can be continued only from an even offset.
            let sum = if (headers - between).is_multiple_of(2) {
                Sum::of(&segment[between..headers]) + payload
            } else {
                Sum::of(&segment[between..])
            };
            (sum + self.udp).with_u16(udp_len).with_u16(udp_len).udp_checksum()
        } else {
            0
        };
        let (ip, transport) = segment.split_at_mut(self.transport);
        if let Some(mut ip) = Ipv4::new_checked(&mut *ip) {
            ip.stamp(len as u16, self.id.wrapping_add(i as u16), self.ip);
        } else if let Some(mut ip) = Ipv6::new_checked(ip) {
            ip.set_payload_len((len - Ipv6::HEADER) as u16);
        }
        if let Some(mut udp) = Udp::new_checked(transport) {
            udp.stamp(udp_len, checksum);
        }
    }
}
