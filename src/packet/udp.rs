//! The UDP header (RFC 768).

use super::{put_u16, u16_at};

/// A view of a UDP datagram or header. The header is complete.
#[derive(Clone, Copy, Debug)]
pub struct Udp<T>(T);

/// Field offsets in bytes from the start of the header.
mod field {
    pub(super) const DESTINATION: usize = 2;
    pub(super) const LENGTH: usize = 4;
    pub(super) const CHECKSUM: usize = 6;
}

impl Udp<()> {
    /// Length of the header, in bytes.
    pub const HEADER: usize = 8;
    /// Offset of the checksum field, in bytes from the start of the header.
    pub const CHECKSUM: usize = field::CHECKSUM;
}

impl<T: AsRef<[u8]>> Udp<T> {
    /// Creates a view, or returns `None` if there are fewer bytes than a UDP header has.
    #[inline]
    pub fn new_checked(bytes: T) -> Option<Udp<T>> {
        (bytes.as_ref().len() >= Udp::HEADER).then_some(Udp(bytes))
    }

    /// Returns the destination port.
    #[inline]
    pub fn destination_port(&self) -> u16 {
        u16_at(self.0.as_ref(), field::DESTINATION)
    }

    /// Returns the length field: header and payload, in bytes.
    #[inline]
    pub fn len(&self) -> usize {
        usize::from(u16_at(self.0.as_ref(), field::LENGTH))
    }

    /// Returns whether there is no payload according to the length field.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() <= Udp::HEADER
    }

    /// Returns the checksum field; zero means that the sender computed no checksum.
    #[inline]
    pub fn checksum(&self) -> u16 {
        u16_at(self.0.as_ref(), field::CHECKSUM)
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Udp<T> {
    /// Sets the length field (header and payload, in bytes) and the checksum field.
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
