//! The fixed IPv6 header (RFC 8200, section 3).

use std::net::Ipv6Addr;
use std::ops::Range;

use super::{put_u16, u16_at};

/// A view of an IPv6 packet or header. The fixed header is complete; extension headers and payload may
/// be truncated.
#[derive(Clone, Copy, Debug)]
pub struct Ipv6<T>(T);

/// Field offsets in bytes from the start of the header.
mod field {
    use super::Range;
    /// The byte with the lower half of the traffic class and the upper bits of the flow label.
    pub(super) const ECN: usize = 1;
    pub(super) const PAYLOAD_LEN: usize = 4;
    pub(super) const NEXT_HEADER: usize = 6;
    pub(super) const HOP_LIMIT: usize = 7;
    pub(super) const SOURCE: Range<usize> = 8..24;
    pub(super) const DESTINATION: Range<usize> = 24..40;
}

impl Ipv6<()> {
    /// Length of the fixed header, in bytes.
    pub const HEADER: usize = 40;
    /// Byte range of source and destination address in the header.
    pub const ADDRESSES: Range<usize> = 8..40;
}

impl<T: AsRef<[u8]>> Ipv6<T> {
    /// Creates a view, or returns `None` if the bytes do not start with a complete fixed IPv6 header.
    #[inline]
    pub fn new_checked(bytes: T) -> Option<Ipv6<T>> {
        let header = bytes.as_ref();
        (header.len() >= Ipv6::HEADER && header[0] >> 4 == 6).then_some(Ipv6(bytes))
    }

    /// Returns the payload length field: bytes after the fixed header, extension headers included.
    #[inline]
    pub fn payload_len(&self) -> usize {
        usize::from(u16_at(self.bytes(), field::PAYLOAD_LEN))
    }

    /// Returns the protocol number of the next header: an extension header or the payload.
    #[inline]
    pub fn next_header(&self) -> u8 {
        self.bytes()[field::NEXT_HEADER]
    }

    /// Returns the hop limit.
    #[inline]
    pub fn hop_limit(&self) -> u8 {
        self.bytes()[field::HOP_LIMIT]
    }

    /// Returns the source address.
    #[inline]
    pub fn source(&self) -> Ipv6Addr {
        address(&self.bytes()[field::SOURCE])
    }

    /// Returns the destination address.
    #[inline]
    pub fn destination(&self) -> Ipv6Addr {
        address(&self.bytes()[field::DESTINATION])
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        self.0.as_ref()
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Ipv6<T> {
    /// Sets the ECN field, the lower two bits of the traffic class.
    pub fn set_ecn(&mut self, ecn: u8) {
        let header = self.0.as_mut();
        header[field::ECN] = header[field::ECN] & !0b0011_0000 | ecn << 4;
    }

    /// Sets the payload length, in bytes.
    #[inline]
    pub fn set_payload_len(&mut self, len: u16) {
        put_u16(self.0.as_mut(), field::PAYLOAD_LEN, len);
    }
}

fn address(bytes: &[u8]) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets.copy_from_slice(bytes);
    Ipv6Addr::from(octets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{IpNumber, Ipv6Header};

    #[test]
    fn the_view_reads_what_an_independent_builder_wrote() {
        let header = Ipv6Header {
            payload_length: 321,
            next_header: IpNumber::TCP,
            hop_limit: 9,
            source: [1; 16],
            destination: [2; 16],
            ..Ipv6Header::default()
        };
        let mut bytes = header.to_bytes();
        let mut view = Ipv6::new_checked(&mut bytes[..]).unwrap();
        assert_eq!(view.payload_len(), 321);
        assert_eq!(view.next_header(), 6);
        assert_eq!(view.hop_limit(), 9);
        assert_eq!(view.source(), Ipv6Addr::from([1; 16]));
        assert_eq!(view.destination(), Ipv6Addr::from([2; 16]));
        view.set_payload_len(40_000);
        assert_eq!(Ipv6Header::from_slice(&bytes).unwrap().0.payload_length, 40_000);
    }

    #[test]
    fn a_cut_header_or_another_version_is_no_view() {
        let mut bytes = Ipv6Header::default().to_bytes();
        assert!(Ipv6::new_checked(&bytes[..39]).is_none());
        bytes[0] = 0x45;
        assert!(Ipv6::new_checked(&bytes[..]).is_none());
    }
}
