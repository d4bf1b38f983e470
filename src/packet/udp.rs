//! The UDP header (RFC 768).

use super::{put_u16, u16_at};

/// A view of a UDP datagram or header. The header is known to be there.
#[derive(Clone, Copy, Debug)]
pub struct Udp<T>(T);

/// Where the fields are, in bytes from the start.
mod field {
    pub(super) const DESTINATION: usize = 2;
    pub(super) const LENGTH: usize = 4;
    pub(super) const CHECKSUM: usize = 6;
}

impl Udp<()> {
    /// The header, in bytes.
    pub const HEADER: usize = 8;
    /// Where the checksum stands, in bytes from the start of the header.
    pub const CHECKSUM: usize = field::CHECKSUM;
}

impl<T: AsRef<[u8]>> Udp<T> {
    /// A view, if the bytes start with a whole UDP header.
    #[inline]
    pub fn new_checked(bytes: T) -> Option<Udp<T>> {
        (bytes.as_ref().len() >= Udp::HEADER).then_some(Udp(bytes))
    }

    /// The port that it goes to.
    #[inline]
    pub fn destination_port(&self) -> u16 {
        u16_at(self.0.as_ref(), field::DESTINATION)
    }

    /// Header and payload, in bytes, as the header says.
    #[inline]
    pub fn len(&self) -> usize {
        usize::from(u16_at(self.0.as_ref(), field::LENGTH))
    }

    /// Whether the header says that there is no payload.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() <= Udp::HEADER
    }

    /// The checksum field; zero means that the sender computed none.
    #[inline]
    pub fn checksum(&self) -> u16 {
        u16_at(self.0.as_ref(), field::CHECKSUM)
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Udp<T> {
    /// Sets the length of header and payload, in bytes, and the checksum field.
    #[inline]
    pub fn stamp(&mut self, len: u16, checksum: u16) {
        let header = self.0.as_mut();
        put_u16(header, field::LENGTH, len);
        put_u16(header, field::CHECKSUM, checksum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::UdpHeader;

    #[test]
    fn the_view_and_an_independent_parser_agree() {
        let written = UdpHeader { source_port: 1, destination_port: 2, length: 30, checksum: 0xabcd };
        let mut bytes = written.to_bytes();
        let mut view = Udp::new_checked(&mut bytes[..]).unwrap();
        assert_eq!((view.len(), view.checksum(), view.is_empty()), (30, 0xabcd, false));
        assert_eq!(view.destination_port(), 2);
        view.stamp(8, 0xffff);
        assert!(view.is_empty());
        let (parsed, _) = UdpHeader::from_slice(&bytes).unwrap();
        assert_eq!((parsed.length, parsed.checksum), (8, 0xffff));
        assert_eq!((parsed.source_port, parsed.destination_port), (1, 2));
        assert!(Udp::new_checked(&bytes[..7]).is_none());
    }
}
