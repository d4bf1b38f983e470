//! Segmentation: writes the segments of a validated superpacket.
//!
//! Segmentation is lazy: each segment is written once, directly into the buffer where it is sealed
//! and from which it is sent. Each segment costs one copy of the headers, one pass that copies and
//! sums the payload, and a few field updates.
//!
//! The rules follow `tcp_gso_segment` (`net/ipv4/tcp_offload.c`), `__udp_gso_segment`
//! (`net/ipv4/udp_offload.c`) and `inet_gso_segment` (`net/ipv4/af_inet.c`). In a tunnel they hold for the
//! inner packet, and [`Tunnel`](super::tunnel::Tunnel) completes the outer headers.

use super::superpacket::{Superpacket, SuperpacketKind};
use crate::packet::checksum::Sum;
use crate::packet::{Flags, Ipv4, Ipv6, Tcp, Udp};

impl Superpacket<'_> {
    /// Returns the number of segments: at least one, even if the superpacket has no payload.
    #[inline]
    pub fn segments(&self) -> usize {
        self.segments
    }

    /// Returns the length of segment `i` in bytes, headers included.
    ///
    /// # Panics
    /// If there is no segment `i`.
    #[inline]
    pub fn segment_len(&self, i: usize) -> usize {
        let (start, end) = self.payload(i);
        self.header_len + end - start
    }

    /// Returns the length in bytes, headers included, of every segment but the last, which can be
    /// shorter.
    #[inline]
    pub fn stride(&self) -> usize {
        self.segment_len(0)
    }

    /// Writes segment `i`, with complete checksums, to the start of `out`. Returns its length in bytes.
    ///
    /// # Panics
    /// If there is no segment `i`, or `out` is shorter than [`Superpacket::segment_len`].
    #[inline]
    pub fn write_segment(&self, i: usize, out: &mut [u8]) -> usize {
        if self.kind == SuperpacketKind::None {
            assert_eq!(i, 0, "a packet without GSO has one segment");
            out[..self.packet.len()].copy_from_slice(self.packet);
            return self.packet.len();
        }
        let (start, end) = self.payload(i);
        let len = self.header_len + end - start;
        let (header, payload) = out[..len].split_at_mut(self.header_len);
        header.copy_from_slice(&self.packet[..self.header_len]);
        let sum = Sum::copying(payload, &self.packet[start..end]);

        let network = self.tunnel.as_ref().map_or(0, |tunnel| tunnel.inner);
        let payload_sum = sum;
        let (ip, transport) = header[network..].split_at_mut(self.transport - network);
        self.stamp_ip(i, len - network, ip);
        // Parsing rejects jumbograms, so the transport length fits 16 bits.
        let transport_len = (len - self.transport) as u16;
        let sum = sum + self.stamp.transport.with_u16(transport_len);
        if self.kind.is_tcp() {
            self.stamp_tcp(i, transport, sum);
        } else if let Some(mut udp) = Udp::new_checked(transport) {
            udp.stamp(transport_len, sum.with_u16(transport_len).udp_checksum());
        }
        if let Some(tunnel) = &self.tunnel {
            tunnel.stamp(i, &mut out[..len], self.header_len, payload_sum);
        }
        len
    }

    /// Returns start and end of the payload of segment `i`, in bytes from the start of the superpacket.
    #[inline]
    fn payload(&self, i: usize) -> (usize, usize) {
        assert!(i < self.segments, "segment {i} of {}", self.segments);
        let start = self.header_len + i * self.gso_size;
        (start, self.packet.len().min(start + self.gso_size))
    }

    #[inline]
    fn stamp_ip(&self, i: usize, len: usize, ip: &mut [u8]) {
        if let Some(mut ip) = Ipv4::new_checked(&mut *ip) {
            // The kernel increments the identification even if "don't fragment" is set.
            ip.stamp(len as u16, self.stamp.id.wrapping_add(i as u16), self.stamp.ip);
        } else if let Some(mut ip) = Ipv6::new_checked(ip) {
            ip.set_payload_len((len - Ipv6::HEADER) as u16);
        }
    }

    #[inline]
    fn stamp_tcp(&self, i: usize, tcp: &mut [u8], sum: Sum) {
        let mut flags = self.stamp.flags();
        if i != 0 {
            flags = flags.without(Flags::CWR);
        }
        if i + 1 != self.segments {
            flags = flags.without(Flags::FIN.with(Flags::PSH));
        }
        let sequence = self.stamp.sequence.wrapping_add((i * self.gso_size) as u32);
        if let Some(mut tcp) = Tcp::new_checked(tcp) {
            tcp.stamp(sequence, flags, sum);
        }
    }
}

#[cfg(test)]
mod tests;
