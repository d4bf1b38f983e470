//! Assembly of superpackets inside UDP tunnels.

use super::{AssembleError, append, gso_type, segment_size, shape, stamp, stamp_ip};
use crate::offload::virtio::VirtioHeader;
use crate::packet::{Udp, ip, protocol};
use crate::units::MAX_PACKET;

/// Writes a superpacket inside a UDP tunnel to the start of `out`, behind the long form of the virtio header. Returns
/// its length in bytes, virtio header included.
///
/// `header` has the outer IP and UDP headers, any encapsulation, and from offset `inner` on the inner IP and TCP
/// headers. It supplies all header fields but lengths and checksums. The checksum fields of both transport headers are
/// set as [`assemble`](super::assemble) does; an outer one of zero stays zero, and segments get none.
/// `gso_size` is the payload bytes of every segment but the last, which can be shorter.
///
/// # Errors
/// See [`AssembleError`].
pub fn assemble_tunnel<'p>(
    out: &mut [u8],
    header: &[u8],
    inner: usize,
    payloads: impl IntoIterator<Item = &'p [u8]>,
    gso_size: usize,
) -> Result<usize, AssembleError> {
    let outer = ip::transport(header).filter(|found| !found.fragment && found.protocol == protocol::UDP);
    let outer = outer.ok_or(AssembleError::Header)?.offset;
    let within = header.get(inner..).filter(|_| inner >= outer + Udp::HEADER).ok_or(AssembleError::Header)?;
    let (kind, transport) = shape(within)?;
    if !kind.is_tcp() {
        return Err(AssembleError::Header);
    }
    let gso_size = segment_size(gso_size)?;
    let room = out.len().min(VirtioHeader::LONG + MAX_PACKET);
    let start = VirtioHeader::LONG + header.len();
    if start > room {
        return Err(AssembleError::TooLong);
    }
    let end = append(&mut out[..room], start, payloads.into_iter())?;
    if end - start <= usize::from(gso_size) {
        return Err(AssembleError::SegmentSize);
    }

    let (virtio, packet) = out[..end].split_at_mut(VirtioHeader::LONG);
    packet[..header.len()].copy_from_slice(header);
    stamp(&mut packet[inner..], kind, transport);
    let checksum = stamp_outer(packet, outer);
    let tunnel = if packet[0] >> 4 == 4 {
        VirtioHeader::GSO_UDP_TUNNEL_IPV4
    } else {
        VirtioHeader::GSO_UDP_TUNNEL_IPV6
    };
    let described = VirtioHeader {
        flags: VirtioHeader::NEEDS_CSUM | if checksum { VirtioHeader::UDP_TUNNEL_CSUM } else { 0 },
        gso_type: gso_type(kind) | tunnel,
        hdr_len: header.len() as u16,
        gso_size,
        csum_start: (inner + transport) as u16,
        csum_offset: kind.checksum_offset() as u16,
        outer_transport: outer as u16,
        inner_network: inner as u16,
    };
    virtio.copy_from_slice(&described.encode_long());
    Ok(end)
}

/// Sets the length fields, the IPv4 header checksum and the seed of the UDP checksum of the outer headers. Returns
/// whether there is a UDP checksum.
fn stamp_outer(packet: &mut [u8], transport: usize) -> bool {
    let (udp_len, seed) = stamp_ip(packet, transport, protocol::UDP);
    let Some(mut udp) = Udp::new_checked(&mut packet[transport..]) else { return false };
    let checksum = udp.checksum() != 0;
    udp.stamp(udp_len, if checksum { seed } else { 0 });
    checksum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::testing::Build;

    /// Returns a VXLAN datagram around `inner`, and the offset of that.
    fn vxlan(inner: &[u8]) -> (Vec<u8>, usize) {
        let mut payload = vec![8, 0, 0, 0, 0, 0, 7, 0];
        payload.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
        payload.extend(inner);
        let outer = Build { ports: (40_000, 4789), payload, ..Build::default() };
        (outer.udp(), outer.transport() + 8 + 22)
    }

    #[test]
    fn the_virtio_header_describes_outer_and_inner_headers() {
        let (mut packet, inner) = vxlan(&Build::default().payload(1000).tcp());
        let header = packet.len() - 1000;
        for checksum in [true, false] {
            if !checksum {
                packet[26..28].fill(0);
            }
            let mut out = vec![0; VirtioHeader::LONG + MAX_PACKET];
            let payloads = [&packet[header..], &packet[header..header + 10]];
            let len = assemble_tunnel(&mut out, &packet[..header], inner, payloads, 1000).unwrap();
            assert_eq!(len, VirtioHeader::LONG + packet.len() + 10);
            let flags = VirtioHeader::NEEDS_CSUM | if checksum { VirtioHeader::UDP_TUNNEL_CSUM } else { 0 };
            let expected = VirtioHeader {
                flags,
                gso_type: VirtioHeader::GSO_TCPV4 | VirtioHeader::GSO_UDP_TUNNEL_IPV4,
                hdr_len: header as u16,
                gso_size: 1000,
                csum_start: inner as u16 + 20,
                csum_offset: 16,
                outer_transport: 20,
                inner_network: inner as u16,
            };
            assert_eq!(VirtioHeader::decode_long(out.first_chunk().unwrap()), expected);
        }
    }

    #[test]
    fn what_is_no_tunnel_around_several_tcp_segments_is_an_error() {
        let (packet, inner) = vxlan(&Build::default().payload(100).tcp());
        let header = packet.len() - 100;
        let payload = &packet[header..];
        let mut out = vec![0; VirtioHeader::LONG + MAX_PACKET];
        let mut assemble = |header: &[u8], inner, payloads: &[&[u8]], gso_size| {
            assemble_tunnel(&mut out, header, inner, payloads.iter().copied(), gso_size)
        };
        let whole = &packet[..header];
        assert!(assemble(whole, inner, &[payload, payload], 100).is_ok());
        for wrong in [0, 20, 27, inner - 1, inner + 1, header, header + 1, usize::MAX] {
            assert_eq!(assemble(whole, wrong, &[payload; 2], 100), Err(AssembleError::Header), "{wrong}");
        }
        assert_eq!(assemble(&packet[..header - 1], inner, &[payload; 2], 100), Err(AssembleError::Header));
        assert_eq!(assemble(whole, inner, &[payload], 100), Err(AssembleError::SegmentSize));
        assert_eq!(assemble(whole, inner, &[], 100), Err(AssembleError::SegmentSize));
        assert_eq!(assemble(whole, inner, &[payload; 2], 0), Err(AssembleError::SegmentSize));
        assert_eq!(assemble(whole, inner, &[payload; 700], 100), Err(AssembleError::TooLong));
        let (datagram, inner) = vxlan(&Build::default().payload(100).udp());
        let header = datagram.len() - 100;
        assert_eq!(assemble(&datagram[..header], inner, &[payload; 2], 100), Err(AssembleError::Header));
    }
}
