//! The TCP header (RFC 9293, section 3.1).

use super::checksum::Sum;
use super::{put_u16, put_u32, u16_at, u32_at};

/// A view of a TCP segment or header. The header is complete, options included.
#[derive(Clone, Copy, Debug)]
pub struct Tcp<T>(T);

/// The control bits of a TCP header: its byte 13, counted from zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Flags = Flags(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Flags = Flags(0x02);
    /// Reset the connection.
    pub const RST: Flags = Flags(0x04);
    /// Push data to the application.
    pub const PSH: Flags = Flags(0x08);
    /// The acknowledgement field is significant.
    pub const ACK: Flags = Flags(0x10);
    /// The urgent pointer is significant.
    pub const URG: Flags = Flags(0x20);
    /// ECN echo (RFC 3168).
    pub const ECE: Flags = Flags(0x40);
    /// Congestion window reduced (RFC 3168).
    pub const CWR: Flags = Flags(0x80);

    /// Returns these flags with `others` set.
    #[must_use]
    pub const fn with(self, others: Flags) -> Flags {
        Flags(self.0 | others.0)
    }

    /// Returns these flags with `others` cleared.
    #[must_use]
    pub const fn without(self, others: Flags) -> Flags {
        Flags(self.0 & !others.0)
    }

    /// Returns whether any of `others` is set.
    pub const fn any(self, others: Flags) -> bool {
        self.0 & others.0 != 0
    }
}

/// Field offsets in bytes from the start of the header.
mod field {
    pub(super) const SEQUENCE: usize = 4;
    pub(super) const ACKNOWLEDGEMENT: usize = 8;
    pub(super) const DATA_OFFSET: usize = 12;
    pub(super) const FLAGS: usize = 13;
    pub(super) const WINDOW: usize = 14;
    pub(super) const CHECKSUM: usize = 16;
    pub(super) const URGENT: usize = 18;
    pub(super) const OPTIONS: usize = 20;
}

impl Tcp<()> {
    /// Length of the header without options, in bytes.
    pub const MIN_HEADER: usize = 20;
    /// Offset of the checksum field, in bytes from the start of the header.
    pub const CHECKSUM: usize = field::CHECKSUM;
}

impl<T: AsRef<[u8]>> Tcp<T> {
    /// Creates a view, or returns `None` if the bytes do not start with a complete TCP header.
    #[inline]
    pub fn new_checked(bytes: T) -> Option<Tcp<T>> {
        let header = bytes.as_ref();
        if header.len() < Tcp::MIN_HEADER {
            return None;
        }
        let header_len = usize::from(header[field::DATA_OFFSET] >> 4) * 4;
        (Tcp::MIN_HEADER..=header.len()).contains(&header_len).then_some(Tcp(bytes))
    }

    /// Returns the length of the header with options: 20 to 60 bytes.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.bytes()[field::DATA_OFFSET] >> 4) * 4
    }

    /// Returns the sequence number: that of the SYN if set, else of the first payload byte.
    #[inline]
    pub fn sequence(&self) -> u32 {
        u32_at(self.bytes(), field::SEQUENCE)
    }

    /// Returns the acknowledgement number: the next sequence number that the sender expects.
    #[inline]
    pub fn acknowledgement(&self) -> u32 {
        u32_at(self.bytes(), field::ACKNOWLEDGEMENT)
    }

    /// Returns the control bits.
    #[inline]
    pub fn flags(&self) -> Flags {
        Flags(self.bytes()[field::FLAGS])
    }

    /// Returns the four bits between data offset and flags, one of which `AccECN` uses.
    #[inline]
    pub fn reserved(&self) -> u8 {
        self.bytes()[field::DATA_OFFSET] & 0x0f
    }

    /// Returns the receive window, unscaled.
    #[inline]
    pub fn window(&self) -> u16 {
        u16_at(self.bytes(), field::WINDOW)
    }

    /// Returns the urgent pointer.
    #[inline]
    pub fn urgent(&self) -> u16 {
        u16_at(self.bytes(), field::URGENT)
    }

    /// Returns the options: 0 to 40 bytes.
    #[inline]
    pub fn options(&self) -> &[u8] {
        &self.bytes()[field::OPTIONS..self.header_len()]
    }

    /// Returns the sum of the header without the fields that differ between segments of one superpacket:
    /// sequence number, flags and checksum.
    #[inline]
    pub fn constant_sum(&self) -> Sum {
        let header = &self.bytes()[..self.header_len()];
        (Sum::of(&header[..field::SEQUENCE])
            + Sum::of(&header[field::ACKNOWLEDGEMENT..field::DATA_OFFSET])
            + Sum::of(&header[field::WINDOW..field::CHECKSUM])
            + Sum::of(&header[field::URGENT..]))
        .with_u16(u16::from(header[field::DATA_OFFSET]) << 8)
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        self.0.as_ref()
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Tcp<T> {
    /// Sets sequence number, flags and the resulting checksum. `rest` is the sum of everything else:
    /// pseudo header, [`Tcp::constant_sum`] and payload.
    #[inline]
    pub fn stamp(&mut self, sequence: u32, flags: Flags, rest: Sum) {
        let header = self.0.as_mut();
        put_u32(header, field::SEQUENCE, sequence);
        header[field::FLAGS] = flags.0;
        let sum = rest.with_u32(sequence).with_u16(u16::from(flags.0));
        put_u16(header, field::CHECKSUM, sum.checksum());
    }

    /// Sets the flags.
    #[inline]
    pub fn set_flags(&mut self, flags: Flags) {
        self.0.as_mut()[field::FLAGS] = flags.0;
    }

    /// Sets the checksum field.
    #[inline]
    pub fn set_checksum(&mut self, checksum: u16) {
        put_u16(self.0.as_mut(), field::CHECKSUM, checksum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::TcpHeader;

    fn example() -> TcpHeader {
        let mut header = TcpHeader::new(1000, 2000, 0xdead_beef, 4096);
        header.acknowledgment_number = 77;
        header.ack = true;
        header.psh = true;
        header.cwr = true;
        header.set_options_raw(&[1; 12]).unwrap();
        header
    }

    #[test]
    fn the_view_reads_what_an_independent_builder_wrote() {
        let bytes = example().to_bytes();
        let view = Tcp::new_checked(&bytes[..]).unwrap();
        assert_eq!(view.header_len(), 32);
        assert_eq!(view.sequence(), 0xdead_beef);
        assert_eq!(view.acknowledgement(), 77);
        assert_eq!(view.window(), 4096);
        assert_eq!(view.flags(), Flags::ACK.with(Flags::PSH).with(Flags::CWR));
        assert_eq!(view.options(), [1; 12]);
        assert_eq!((view.reserved(), view.urgent()), (0, 0));
    }

    #[test]
    fn stamping_leaves_a_right_checksum() {
        let payload = b"thirteen byte";
        let (source, destination) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let mut bytes = example().to_bytes().to_vec();
        let addresses = [source, destination].concat();
        let rest = crate::packet::checksum::pseudo_header(&addresses, 6).with_u16(32 + 13)
            + Tcp::new_checked(&bytes[..]).unwrap().constant_sum()
            + Sum::of(payload);
        Tcp::new_checked(&mut bytes[..]).unwrap().stamp(u32::MAX, Flags::ACK.with(Flags::FIN), rest);

        let (parsed, _) = TcpHeader::from_slice(&bytes).unwrap();
        assert_eq!(parsed.sequence_number, u32::MAX);
        assert!(parsed.ack && parsed.fin && !parsed.psh && !parsed.cwr);
        assert_eq!(parsed.checksum, parsed.calc_checksum_ipv4_raw(source, destination, payload).unwrap());
    }

    #[test]
    fn an_impossible_data_offset_is_no_view() {
        let mut bytes = example().to_bytes().to_vec();
        assert!(Tcp::new_checked(&bytes[..31]).is_none(), "options truncated");
        bytes[12] = 0x40;
        assert!(Tcp::new_checked(&bytes[..]).is_none(), "shorter than the fixed header");
        bytes[12] = 0xf0;
        assert!(Tcp::new_checked(&bytes[..]).is_none(), "longer than the input");
    }
}
