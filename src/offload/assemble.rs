//! Assembly of superpackets: lays out `[virtio header | IP and transport header | payloads]` in one
//! contiguous buffer, for one write to the TUN.

use super::superpacket::SuperpacketKind;
use super::virtio::VirtioHeader;
use crate::packet::checksum::pseudo_header;
use crate::packet::{Ipv4, Ipv6, Tcp, Udp, ip, protocol};
use crate::units::MAX_PACKET;

mod tunnel;

pub use tunnel::assemble_tunnel;

/// Length in bytes of the longest superpacket with its virtio header.
pub const SCRATCH: usize = VirtioHeader::LEN + MAX_PACKET;

/// Errors when assembling a superpacket. All indicate a bug in the caller, not bad network input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AssembleError {
    /// The header is not exactly one complete IP header followed by one complete TCP or UDP header, or not that
    /// behind the headers of a tunnel.
    #[error("a superpacket header must be an IP header followed by a TCP or UDP header and nothing else")]
    Header,
    /// The superpacket is longer than 65,535 bytes, or does not fit the output buffer.
    #[error("a superpacket cannot be longer than 65,535 bytes or than the output buffer")]
    TooLong,
    /// The segment size is zero or does not fit 16 bits, or a superpacket inside a tunnel has a single segment.
    #[error(
        "the segment size must be between 1 and 65,535 bytes, and shorter than the payload inside a tunnel"
    )]
    SegmentSize,
}

/// Writes a superpacket to the start of `out`. Returns its length in bytes, virtio header included.
/// Without payloads, writes nothing and returns zero.
///
/// `header` supplies all header fields but lengths and checksums. The transport checksum field is set
/// to the sum of the pseudo header, folded and not inverted, which the kernel uses as a seed.
/// `gso_size` is the payload bytes of every segment but the last, which can be shorter.
///
/// # Errors
/// See [`AssembleError`].
pub fn assemble<'p>(
    out: &mut [u8],
    header: &[u8],
    payloads: impl IntoIterator<Item = &'p [u8]>,
    gso_size: usize,
) -> Result<usize, AssembleError> {
    let (kind, transport) = shape(header)?;
    let gso_size = segment_size(gso_size)?;
    let room = out.len().min(SCRATCH);
    let start = VirtioHeader::LEN + header.len();
    if start > room {
        return Err(AssembleError::TooLong);
    }
    let mut payloads = payloads.into_iter().peekable();
    if payloads.peek().is_none() {
        return Ok(0);
    }
    let end = append(&mut out[..room], start, payloads)?;

    let (virtio, packet) = out[..end].split_at_mut(VirtioHeader::LEN);
    packet[..header.len()].copy_from_slice(header);
    stamp(packet, kind, transport);
    let one_segment = end - start <= usize::from(gso_size);
    let described = VirtioHeader {
        flags: VirtioHeader::NEEDS_CSUM,
        gso_type: if one_segment { VirtioHeader::GSO_NONE } else { gso_type(kind) },
        hdr_len: header.len() as u16,
        gso_size: if one_segment { 0 } else { gso_size },
        csum_start: transport as u16,
        csum_offset: kind.checksum_offset() as u16,
        ..VirtioHeader::default()
    };
    virtio.copy_from_slice(&described.encode());
    Ok(end)
}

fn segment_size(bytes: usize) -> Result<u16, AssembleError> {
    u16::try_from(bytes).ok().filter(|size| *size > 0).ok_or(AssembleError::SegmentSize)
}

/// Copies the payloads to `out`, from offset `end` on. Returns the offset of their end.
#[inline]
fn append<'p>(
    out: &mut [u8],
    mut end: usize,
    payloads: impl Iterator<Item = &'p [u8]>,
) -> Result<usize, AssembleError> {
    for payload in payloads {
        let place = out.get_mut(end..end + payload.len()).ok_or(AssembleError::TooLong)?;
        place.copy_from_slice(payload);
        end += payload.len();
    }
    Ok(end)
}

/// Returns the kind of superpacket that `header` belongs to, and the offset of its transport header.
fn shape(header: &[u8]) -> Result<(SuperpacketKind, usize), AssembleError> {
    let found = ip::transport(header).filter(|found| !found.fragment).ok_or(AssembleError::Header)?;
    let transport = &header[found.offset..];
    let len = match found.protocol {
        protocol::TCP => Tcp::new_checked(transport).map(|tcp| tcp.header_len()),
        protocol::UDP => Udp::new_checked(transport).map(|_| Udp::HEADER),
        _ => None,
    };
    if len != Some(transport.len()) {
        return Err(AssembleError::Header);
    }
    Ok((SuperpacketKind::of(header[0] >> 4, found.protocol), found.offset))
}

/// Sets the length fields, the IPv4 header checksum and the seed of the transport checksum.
fn stamp(packet: &mut [u8], kind: SuperpacketKind, transport: usize) {
    let protocol = if kind.is_tcp() { protocol::TCP } else { protocol::UDP };
    let (transport_len, seed) = stamp_ip(packet, transport, protocol);
    let transport = &mut packet[transport..];
    if kind.is_tcp() {
        if let Some(mut tcp) = Tcp::new_checked(transport) {
            tcp.set_checksum(seed);
        }
    } else if let Some(mut udp) = Udp::new_checked(transport) {
        udp.stamp(transport_len, seed);
    }
}

/// Sets the length field and the checksum of the IP header before offset `transport`. Returns the length in bytes and the
/// seed of the checksum of the transport header behind it.
fn stamp_ip(packet: &mut [u8], transport: usize, protocol: u8) -> (u16, u16) {
    // The packet is at most MAX_PACKET bytes, so every length fits 16 bits.
    let len = packet.len();
    let transport_len = (len - transport) as u16;
    let addresses = if packet[0] >> 4 == 4 { Ipv4::ADDRESSES } else { Ipv6::ADDRESSES };
    let seed = pseudo_header(&packet[addresses], protocol).with_u16(transport_len).fold();

    let ip = &mut packet[..transport];
    if let Some(mut ip) = Ipv4::new_checked(&mut *ip) {
        let (id, constant) = (ip.id(), ip.constant_sum());
        ip.stamp(len as u16, id, constant);
    } else if let Some(mut ip) = Ipv6::new_checked(ip) {
        ip.set_payload_len((len - Ipv6::HEADER) as u16);
    }
    (transport_len, seed)
}

fn gso_type(kind: SuperpacketKind) -> u8 {
    match kind {
        SuperpacketKind::None | SuperpacketKind::UdpTunnel => VirtioHeader::GSO_NONE,
        SuperpacketKind::Tso4 => VirtioHeader::GSO_TCPV4,
        SuperpacketKind::Tso6 => VirtioHeader::GSO_TCPV6,
        SuperpacketKind::Uso4 | SuperpacketKind::Uso6 => VirtioHeader::GSO_UDP_L4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::testing::Build;

    #[test]
    fn a_payload_of_one_segment_is_a_plain_packet_to_finish() {
        let packet = Build::default().payload(100).tcp();
        let mut out = vec![0; SCRATCH];
        let len = assemble(&mut out, &packet[..40], [&packet[40..]], 100).unwrap();
        let header = VirtioHeader::decode(*out.first_chunk().unwrap());
        assert_eq!((header.gso_type, header.gso_size), (VirtioHeader::GSO_NONE, 0));
        assert_eq!(len, VirtioHeader::LEN + packet.len());
    }

    #[test]
    fn no_payload_writes_nothing_and_no_header_is_an_error() {
        let packet = Build::default().payload(100).udp();
        let mut out = vec![0xaa; SCRATCH];
        assert_eq!(assemble(&mut out, &packet[..28], [], 100), Ok(0));
        assert!(out.iter().all(|byte| *byte == 0xaa));
        assert_eq!(assemble(&mut out, &[], [&packet[28..]], 100), Err(AssembleError::Header));
        assert_eq!(assemble(&mut out, &packet[..27], [&packet[28..]], 100), Err(AssembleError::Header));
        assert_eq!(assemble(&mut out, &packet[..29], [&packet[28..]], 100), Err(AssembleError::Header));
        assert_eq!(assemble(&mut out, &packet[..28], [&packet[28..]], 0), Err(AssembleError::SegmentSize));
    }

    #[test]
    fn the_longest_superpacket_is_65_535_bytes() {
        let packet = Build::default().payload(1).tcp();
        let mut out = vec![0; 2 * SCRATCH];
        let fits = vec![1; MAX_PACKET - 40];
        assert_eq!(assemble(&mut out, &packet[..40], [&fits[..]], 1000), Ok(SCRATCH));
        let one_more = [&fits[..], &[1]];
        assert_eq!(assemble(&mut out, &packet[..40], one_more, 1000), Err(AssembleError::TooLong));
        assert_eq!(assemble(&mut out[..100], &packet[..40], [&fits[..]], 1000), Err(AssembleError::TooLong));
    }
}
