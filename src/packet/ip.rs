//! Operations common to IPv4 and IPv6: addresses, packet length, location of the transport header.

use std::net::IpAddr;

use super::{Ipv4, Ipv6, protocol};

/// Maximum number of IPv6 extension headers to skip. Real packets have one or two; the limit bounds the
/// cost of a malicious packet.
const MAX_EXTENSIONS: usize = 8;

/// Returns the destination address, or `None` if the bytes do not start with a complete IP header.
#[inline]
pub fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(Ipv4::new_checked(packet)?.destination().into()),
        _ => Some(Ipv6::new_checked(packet)?.destination().into()),
    }
}

/// Returns the source address, or `None` if the bytes do not start with a complete IP header.
#[inline]
pub fn source(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => Some(Ipv4::new_checked(packet)?.source().into()),
        _ => Some(Ipv6::new_checked(packet)?.source().into()),
    }
}

/// Returns the bytes of the source address followed by those of the destination address, or `None` if
/// the bytes do not start with a complete IP header.
#[inline]
pub fn addresses(packet: &[u8]) -> Option<&[u8]> {
    match packet.first()? >> 4 {
        4 => Ipv4::new_checked(packet).map(|_| &packet[Ipv4::ADDRESSES]),
        _ => Ipv6::new_checked(packet).map(|_| &packet[Ipv6::ADDRESSES]),
    }
}

/// Trims the packet to the length in its IP header, which removes the padding that `WireGuard` adds up to
/// a multiple of 16 bytes (whitepaper, section 5.4.6). Returns `None` if this is not an IP packet or if it
/// is truncated.
#[inline]
pub fn trimmed(packet: &[u8]) -> Option<&[u8]> {
    packet.get(..packet_len(packet)?)
}

/// Returns the length of header and payload in bytes according to the IP header, or `None` if the header
/// is incomplete or inconsistent. The length exceeds that of `packet` if the packet is truncated.
#[inline]
pub fn packet_len(packet: &[u8]) -> Option<usize> {
    if packet.first()? >> 4 == 4 {
        let header = Ipv4::new_checked(packet)?;
        (header.total_len() >= header.header_len()).then_some(header.total_len())
    } else {
        Some(Ipv6::HEADER + Ipv6::new_checked(packet)?.payload_len())
    }
}

/// Protocol and location of an IP packet's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// The protocol number of the payload.
    pub protocol: u8,
    /// Offset of the payload, in bytes from the start of the packet. Equals the packet length if there is
    /// no payload.
    pub offset: usize,
    /// Whether the packet is a fragment, including a first fragment. A fragment need not contain a
    /// transport header.
    pub fragment: bool,
}

/// Finds the transport header after any IPv4 options or IPv6 extension headers (RFC 8200, section 4).
/// Returns `None` if a header is truncated or there are too many extension headers.
#[inline]
pub fn transport(packet: &[u8]) -> Option<Transport> {
    if packet.first()? >> 4 == 4 {
        let header = Ipv4::new_checked(packet)?;
        let (protocol, offset) = (header.protocol(), header.header_len());
        Some(Transport { protocol, offset, fragment: header.is_fragment() })
    } else {
        let next = Ipv6::new_checked(packet)?.next_header();
        past_extensions(packet, next)
    }
}

fn past_extensions(packet: &[u8], first: u8) -> Option<Transport> {
    let mut found = Transport { protocol: first, offset: Ipv6::HEADER, fragment: false };
    for _ in 0..=MAX_EXTENSIONS {
        let units = |bytes: usize| move |header: &[u8; 2]| bytes * usize::from(header[1]);
        let header = packet.get(found.offset..)?.first_chunk::<2>();
        let len = match found.protocol {
            protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS => {
                8 + header.map(units(8))?
            }
            protocol::AUTHENTICATION => 8 + header.map(units(4))?,
            protocol::FRAGMENT => 8,
            _ => return Some(found),
        };
        let next = header?[0];
        found.fragment |= found.protocol == protocol::FRAGMENT;
        found.offset += len;
        found.protocol = next;
        if found.offset > packet.len() {
            return None;
        }
        if found.fragment {
            return Some(found);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn v4(payload: usize) -> Vec<u8> {
        let builder = PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).udp(1, 2);
        let mut out = Vec::new();
        builder.write(&mut out, &vec![7; payload]).unwrap();
        out
    }

    /// Returns an IPv6 packet with payload `chain`, whose first extension or transport header is of type
    /// `first`.
    fn v6(first: u8, chain: &[u8]) -> Vec<u8> {
        let mut out = vec![0; 40];
        out[0] = 0x60;
        out[4..6].copy_from_slice(&(chain.len() as u16).to_be_bytes());
        out[6] = first;
        out[8..24].fill(1);
        out[24..40].fill(2);
        out.extend_from_slice(chain);
        out
    }

    #[test]
    fn addresses_are_read_from_either_version() {
        assert_eq!(source(&v4(0)), Some("10.0.0.1".parse().unwrap()));
        assert_eq!(destination(&v4(0)), Some("10.0.0.2".parse().unwrap()));
        let v6 = v6(59, &[]);
        assert_eq!(source(&v6), Some(IpAddr::from([1u8; 16])));
        assert_eq!(destination(&v6), Some(IpAddr::from([2u8; 16])));
        assert_eq!(destination(&[]), None);
        assert_eq!(destination(&[0x00; 64]), None);
        assert_eq!(destination(&v6[..39]), None);
    }

    #[test]
    fn padding_is_trimmed_and_cut_packets_are_none() {
        for packet in [v4(5), v6(59, &[9; 5])] {
            let mut padded = packet.clone();
            padded.resize(packet.len() + 15, 0);
            assert_eq!(trimmed(&padded), Some(&packet[..]));
            assert_eq!(trimmed(&packet[..packet.len() - 1]), None);
        }
        let mut lying = v4(5);
        lying[2..4].copy_from_slice(&19u16.to_be_bytes());
        assert_eq!(trimmed(&lying), None, "total length shorter than the header");
    }

    #[test]
    fn extension_headers_are_walked_to_the_transport_header() {
        let mut chain = vec![60, 0, 0, 0, 0, 0, 0, 0]; // hop-by-hop, 8 bytes
        chain.extend([51, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]); // destination options, 16
        chain.extend([6, 4]); // authentication, (4 + 2) * 4 bytes
        chain.extend([0; 22]);
        let transport_at = 40 + chain.len();
        chain.extend([0; 20]);
        let found = transport(&v6(0, &chain)).unwrap();
        assert_eq!(found, Transport { protocol: 6, offset: transport_at, fragment: false });
    }

    #[test]
    fn a_fragment_header_ends_the_walk() {
        let found = transport(&v6(44, &[17, 0, 0, 1, 0, 0, 0, 9, 1, 2, 3])).unwrap();
        assert_eq!(found, Transport { protocol: 17, offset: 48, fragment: true });
    }

    #[test]
    fn cut_and_endless_extension_headers_are_refused() {
        assert_eq!(transport(&v6(0, &[6])), None);
        assert_eq!(transport(&v6(0, &[6, 9, 0, 0, 0, 0, 0, 0])), None);
        assert_eq!(transport(&v6(0, &[0; 8 * 100])), None, "too many hop-by-hop headers");
    }
}
