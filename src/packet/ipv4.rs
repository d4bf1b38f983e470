//! The IPv4 header (RFC 791, section 3.1).

use std::net::Ipv4Addr;
use std::ops::Range;

use super::checksum::Sum;
use super::{put_u16, u16_at};

/// A view of an IPv4 packet or header. The header is complete, options included; the payload may be
/// truncated.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4<T>(T);

/// Field offsets in bytes from the start of the header.
mod field {
    use super::Range;
    pub(super) const TOS: usize = 1;
    pub(super) const TOTAL_LEN: usize = 2;
    pub(super) const ID: usize = 4;
    pub(super) const FRAGMENT: usize = 6;
    pub(super) const TTL: usize = 8;
    pub(super) const PROTOCOL: usize = 9;
    pub(super) const CHECKSUM: usize = 10;
    pub(super) const SOURCE: Range<usize> = 12..16;
    pub(super) const DESTINATION: Range<usize> = 16..20;
}

impl Ipv4<()> {
    /// Length of the header without options, in bytes.
    pub const MIN_HEADER: usize = 20;
    /// Byte range of source and destination address in the header.
    pub const ADDRESSES: Range<usize> = 12..20;
    /// The "don't fragment" bit of [`Ipv4::fragment_field`].
    pub const DONT_FRAGMENT: u16 = 0x4000;
    /// The "more fragments" bit and the fragment offset of [`Ipv4::fragment_field`].
    pub const FRAGMENT_MASK: u16 = 0x3fff;
}

impl<T: AsRef<[u8]>> Ipv4<T> {
    /// Creates a view, or returns `None` if the bytes do not start with a complete IPv4 header.
    #[inline]
    pub fn new_checked(bytes: T) -> Option<Ipv4<T>> {
        let header = bytes.as_ref();
        if header.len() < Ipv4::MIN_HEADER || header[0] >> 4 != 4 {
            return None;
        }
        let header_len = usize::from(header[0] & 0x0f) * 4;
        (Ipv4::MIN_HEADER..=header.len()).contains(&header_len).then_some(Ipv4(bytes))
    }

    /// Returns the length of the header with options: 20 to 60 bytes.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.bytes()[0] & 0x0f) * 4
    }

    /// Returns the type of service: DSCP and ECN.
    #[inline]
    pub fn tos(&self) -> u8 {
        self.bytes()[field::TOS]
    }

    /// Returns the total length field: header and payload, in bytes.
    #[inline]
    pub fn total_len(&self) -> usize {
        usize::from(u16_at(self.bytes(), field::TOTAL_LEN))
    }

    /// Returns the identification.
    #[inline]
    pub fn id(&self) -> u16 {
        u16_at(self.bytes(), field::ID)
    }

    /// Returns the three flags and the fragment offset as one field.
    #[inline]
    pub fn fragment_field(&self) -> u16 {
        u16_at(self.bytes(), field::FRAGMENT)
    }

    /// Returns whether the packet is a fragment, including a first fragment.
    #[inline]
    pub fn is_fragment(&self) -> bool {
        self.fragment_field() & Ipv4::FRAGMENT_MASK != 0
    }

    /// Returns the time to live.
    #[inline]
    pub fn ttl(&self) -> u8 {
        self.bytes()[field::TTL]
    }

    /// Returns the protocol number of the payload.
    #[inline]
    pub fn protocol(&self) -> u8 {
        self.bytes()[field::PROTOCOL]
    }

    /// Returns the source address.
    #[inline]
    pub fn source(&self) -> Ipv4Addr {
        address(&self.bytes()[field::SOURCE])
    }

    /// Returns the destination address.
    #[inline]
    pub fn destination(&self) -> Ipv4Addr {
        address(&self.bytes()[field::DESTINATION])
    }

    /// Returns the sum of the header without the fields that differ between segments of one superpacket:
    /// total length, identification and checksum.
    #[inline]
    pub fn constant_sum(&self) -> Sum {
        let header = &self.bytes()[..self.header_len()];
        Sum::of(&header[..field::TOTAL_LEN])
            + Sum::of(&header[field::FRAGMENT..field::CHECKSUM])
            + Sum::of(&header[field::SOURCE.start..])
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        self.0.as_ref()
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Ipv4<T> {
    /// Sets the ECN field, the lower two bits of the type of service. Corrects the header checksum by the
    /// change alone (RFC 1624, equation 3), so that a wrong checksum remains wrong.
    pub fn set_ecn(&mut self, ecn: u8) {
        let header = self.0.as_mut();
        let before = u16_at(header, 0);
        header[field::TOS] = header[field::TOS] & !0b11 | ecn;
        let checksum = !u16_at(header, field::CHECKSUM);
        let sum = Sum::default().with_u16(checksum).with_u16(!before).with_u16(u16_at(header, 0));
        put_u16(header, field::CHECKSUM, sum.checksum());
    }

    /// Sets total length (in bytes), identification and the resulting header checksum. `constant` is the
    /// [`Ipv4::constant_sum`] of this header.
    #[inline]
    pub fn stamp(&mut self, total_len: u16, id: u16, constant: Sum) {
        let header = self.0.as_mut();
        put_u16(header, field::TOTAL_LEN, total_len);
        put_u16(header, field::ID, id);
        put_u16(header, field::CHECKSUM, constant.with_u16(total_len).with_u16(id).checksum());
    }
}

fn address(bytes: &[u8]) -> Ipv4Addr {
    Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3])
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::{IpNumber, Ipv4Header};

    fn example() -> Vec<u8> {
        let mut header = Ipv4Header::new(100, 61, IpNumber::UDP, [10, 0, 0, 1], [10, 9, 8, 7]).unwrap();
        header.identification = 0x1234;
        header.options = [1u8; 8].into();
        header.total_len = 128;
        header.header_checksum = header.calc_header_checksum();
        let mut bytes = header.to_bytes().to_vec();
        bytes.resize(bytes.len() + 100, 0);
        bytes
    }

    #[test]
    fn the_view_reads_what_an_independent_builder_wrote() {
        let bytes = example();
        let view = Ipv4::new_checked(&bytes[..]).unwrap();
        assert_eq!(view.header_len(), 28);
        assert_eq!(view.total_len(), 128);
        assert_eq!(view.id(), 0x1234);
        assert_eq!(view.ttl(), 61);
        assert_eq!(view.protocol(), 17);
        assert_eq!(view.source(), Ipv4Addr::new(10, 0, 0, 1));
        assert_eq!(view.destination(), Ipv4Addr::new(10, 9, 8, 7));
        assert!(!view.is_fragment());
    }

    #[test]
    fn stamping_leaves_a_right_header_checksum() {
        let mut bytes = example();
        let constant = Ipv4::new_checked(&bytes[..]).unwrap().constant_sum();
        Ipv4::new_checked(&mut bytes[..]).unwrap().stamp(77, 0xffff, constant);
        let (header, _) = Ipv4Header::from_slice(&bytes).unwrap();
        assert_eq!(header.total_len, 77);
        assert_eq!(header.identification, 0xffff);
        assert_eq!(header.header_checksum, header.calc_header_checksum());
    }

    #[test]
    fn a_header_that_is_cut_or_lies_about_itself_is_no_view() {
        let bytes = example();
        assert!(Ipv4::new_checked(&bytes[..27]).is_none(), "options truncated");
        assert!(Ipv4::new_checked(&bytes[..19]).is_none());
        let mut short_ihl = bytes.clone();
        short_ihl[0] = 0x44;
        assert!(Ipv4::new_checked(&short_ihl).is_none());
        let mut other_version = bytes;
        other_version[0] = 0x65;
        assert!(Ipv4::new_checked(&other_version).is_none());
    }
}
