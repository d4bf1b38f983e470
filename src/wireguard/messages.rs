//! Wire format of the four WireGuard messages: lengths, field offsets and checked views
//! (whitepaper, section 5.4).
//!
//! `new_checked` creates a view after checking everything that needs no key: the type, the reserved
//! bytes and the length. Its accessors cannot fail. Integers are little-endian.

use std::ops::Range;

/// Length of message 1, the handshake initiation, in bytes.
pub const INITIATION: usize = 148;
/// Length of message 2, the handshake response, in bytes.
pub const RESPONSE: usize = 92;
/// Length of message 3, the cookie reply, in bytes.
pub const COOKIE_REPLY: usize = 64;
/// Length of the longest handshake message, in bytes.
pub const MAX_HANDSHAKE: usize = INITIATION;

/// Length of the header of a data message, in bytes: type, receiver index and counter.
pub const DATA_HEADER: usize = 16;
/// Length of the authentication tag after the payload, in bytes.
pub const TAG: usize = 16;
/// Bytes that a data message adds to its padded payload.
pub const DATA_OVERHEAD: usize = DATA_HEADER + TAG;
/// Payloads are padded to a multiple of this many bytes (section 5.4.6).
pub const PADDING: usize = 16;

/// Length of the Noise part of message 1, in bytes: ephemeral key, sealed static key, sealed
/// timestamp.
pub const INITIATION_NOISE: usize = 108;
/// Length of the Noise part of message 2, in bytes: ephemeral key, sealed empty payload.
pub const RESPONSE_NOISE: usize = 48;

/// A MAC of a handshake message, in bytes.
pub type Mac = [u8; 16];

/// Byte ranges of the message fields.
mod field {
    use super::Range;

    pub(super) const SENDER: Range<usize> = 4..8;
    pub(super) const INITIATION_NOISE: Range<usize> = 8..116;
    pub(super) const RESPONSE_RECEIVER: Range<usize> = 8..12;
    pub(super) const RESPONSE_NOISE: Range<usize> = 12..60;
    pub(super) const RECEIVER: Range<usize> = 4..8;
    pub(super) const COOKIE_NONCE: Range<usize> = 8..32;
    pub(super) const COOKIE_SEALED: Range<usize> = 32..64;
    pub(super) const COUNTER: Range<usize> = 8..16;
}

/// Message type, the first byte of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Message 1, the handshake initiation.
    Initiation = 1,
    /// Message 2, the handshake response.
    Response = 2,
    /// Message 3, the cookie reply.
    CookieReply = 3,
    /// Message 4, transport data.
    Data = 4,
}

impl Kind {
    /// Returns the type of `datagram`, or `None` if it is not a WireGuard message: the type is
    /// unknown, a reserved byte is not zero, or the length does not fit the type.
    #[inline]
    pub fn of(datagram: &[u8]) -> Option<Kind> {
        let &[kind, 0, 0, 0, ..] = datagram else { return None };
        match (kind, datagram.len()) {
            (1, INITIATION) => Some(Kind::Initiation),
            (2, RESPONSE) => Some(Kind::Response),
            (3, COOKIE_REPLY) => Some(Kind::CookieReply),
            (4, DATA_OVERHEAD..) => Some(Kind::Data),
            _ => None,
        }
    }
}

/// Returns whether a handshake message claims earlier contact: a response, a cookie reply, or an
/// initiation with a second MAC. A sender with a spoofed address cannot back up that claim.
pub fn claims_priority(datagram: &[u8]) -> bool {
    match Kind::of(datagram) {
        Some(Kind::Initiation) => datagram[mac2_offset(INITIATION)..] != [0; 16],
        Some(Kind::Response | Kind::CookieReply) => true,
        Some(Kind::Data) | None => false,
    }
}

/// Returns the padded length of a payload of `len` bytes: the next multiple of [`PADDING`], capped
/// at `mtu` so that padding does not make a packet too large. A payload longer than `mtu` is not
/// padded.
#[inline]
pub const fn padded_len(len: usize, mtu: usize) -> usize {
    let padded = len.next_multiple_of(PADDING);
    let bound = if len > mtu { len } else { mtu };
    if padded < bound { padded } else { bound }
}

/// The fields that messages 1 and 2 share: the sender index and the two MACs at the end.
#[derive(Clone, Copy)]
pub struct Handshake<'a>(&'a [u8]);

impl<'a> Handshake<'a> {
    /// Returns the sender index, which the reply carries as its receiver index.
    pub fn sender(self) -> u32 {
        u32_at(self.0, field::SENDER)
    }

    /// Returns the first MAC and the bytes it covers.
    pub fn mac1(self) -> (&'a Mac, &'a [u8]) {
        let at = mac1_offset(self.0.len());
        (array_at(self.0, at..at + 16), &self.0[..at])
    }

    /// Returns the second MAC and the bytes it covers.
    pub fn mac2(self) -> (&'a Mac, &'a [u8]) {
        let at = mac2_offset(self.0.len());
        (array_at(self.0, at..at + 16), &self.0[..at])
    }
}

/// A checked view of message 1 (section 5.4.2).
#[derive(Clone, Copy)]
pub struct Initiation<'a>(&'a [u8]);

impl<'a> Initiation<'a> {
    /// Returns a view of `datagram`, or `None` if it does not have the form of message 1.
    pub fn new_checked(datagram: &'a [u8]) -> Option<Self> {
        (Kind::of(datagram)? == Kind::Initiation).then_some(Initiation(datagram))
    }

    /// Returns the fields shared with message 2.
    pub fn handshake(self) -> Handshake<'a> {
        Handshake(self.0)
    }

    /// Returns the Noise part.
    pub fn noise(self) -> &'a [u8; INITIATION_NOISE] {
        array_at(self.0, field::INITIATION_NOISE)
    }
}

/// A checked view of message 2 (section 5.4.3).
#[derive(Clone, Copy)]
pub struct Response<'a>(&'a [u8]);

impl<'a> Response<'a> {
    /// Returns a view of `datagram`, or `None` if it does not have the form of message 2.
    pub fn new_checked(datagram: &'a [u8]) -> Option<Self> {
        (Kind::of(datagram)? == Kind::Response).then_some(Response(datagram))
    }

    /// Returns the fields shared with message 1.
    pub fn handshake(self) -> Handshake<'a> {
        Handshake(self.0)
    }

    /// Returns the sender index of the initiation that this message answers.
    pub fn receiver(self) -> u32 {
        u32_at(self.0, field::RESPONSE_RECEIVER)
    }

    /// Returns the Noise part.
    pub fn noise(self) -> &'a [u8; RESPONSE_NOISE] {
        array_at(self.0, field::RESPONSE_NOISE)
    }
}

/// A checked view of message 3 (section 5.4.7).
#[derive(Clone, Copy)]
pub struct CookieReply<'a>(&'a [u8]);

impl<'a> CookieReply<'a> {
    /// Returns a view of `datagram`, or `None` if it does not have the form of message 3.
    pub fn new_checked(datagram: &'a [u8]) -> Option<Self> {
        (Kind::of(datagram)? == Kind::CookieReply).then_some(CookieReply(datagram))
    }

    /// Returns the sender index of the message that this reply answers.
    pub fn receiver(self) -> u32 {
        u32_at(self.0, field::RECEIVER)
    }

    /// Returns the nonce of the sealed cookie.
    pub fn nonce(self) -> &'a [u8; 24] {
        array_at(self.0, field::COOKIE_NONCE)
    }

    /// Returns the sealed cookie and its tag.
    pub fn sealed(self) -> &'a [u8; 32] {
        array_at(self.0, field::COOKIE_SEALED)
    }
}

/// Returns the receiver index of a [`Kind::Data`] message.
///
/// # Panics
/// Panics if `datagram` is shorter than 8 bytes.
#[inline]
pub fn data_receiver(datagram: &[u8]) -> u32 {
    u32_at(datagram, field::RECEIVER)
}

/// Returns the counter of a [`Kind::Data`] message.
///
/// # Panics
/// Panics if `datagram` is shorter than [`DATA_HEADER`] bytes.
#[inline]
pub fn data_counter(datagram: &[u8]) -> u64 {
    u64::from_le_bytes(*array_at(datagram, field::COUNTER))
}

/// Writes the header of a data message into the first [`DATA_HEADER`] bytes of `datagram`.
///
/// # Panics
/// Panics if `datagram` is shorter than [`DATA_HEADER`] bytes.
#[inline]
pub fn write_data_header(datagram: &mut [u8], receiver: u32, counter: u64) {
    datagram[..4].copy_from_slice(&u32::from(Kind::Data as u8).to_le_bytes());
    datagram[field::RECEIVER].copy_from_slice(&receiver.to_le_bytes());
    datagram[field::COUNTER].copy_from_slice(&counter.to_le_bytes());
}

/// Returns message 1 with both MACs zero.
pub(super) fn initiation(sender: u32, noise: &[u8; INITIATION_NOISE]) -> [u8; INITIATION] {
    let mut message = [0; INITIATION];
    message[0] = Kind::Initiation as u8;
    message[field::SENDER].copy_from_slice(&sender.to_le_bytes());
    message[field::INITIATION_NOISE].copy_from_slice(noise);
    message
}

/// Returns message 2 with both MACs zero.
pub(super) fn response(sender: u32, receiver: u32, noise: &[u8; RESPONSE_NOISE]) -> [u8; RESPONSE] {
    let mut message = [0; RESPONSE];
    message[0] = Kind::Response as u8;
    message[field::SENDER].copy_from_slice(&sender.to_le_bytes());
    message[field::RESPONSE_RECEIVER].copy_from_slice(&receiver.to_le_bytes());
    message[field::RESPONSE_NOISE].copy_from_slice(noise);
    message
}

/// Returns message 3.
pub(super) fn cookie_reply(receiver: u32, nonce: &[u8; 24], sealed: &[u8; 32]) -> [u8; COOKIE_REPLY] {
    let mut message = [0; COOKIE_REPLY];
    message[0] = Kind::CookieReply as u8;
    message[field::RECEIVER].copy_from_slice(&receiver.to_le_bytes());
    message[field::COOKIE_NONCE].copy_from_slice(nonce);
    message[field::COOKIE_SEALED].copy_from_slice(sealed);
    message
}

/// Returns the offset of the first MAC in a handshake message of `len` bytes.
pub(super) const fn mac1_offset(len: usize) -> usize {
    len - 32
}

/// Returns the offset of the second MAC in a handshake message of `len` bytes.
pub(super) const fn mac2_offset(len: usize) -> usize {
    len - 16
}

fn u32_at(bytes: &[u8], at: Range<usize>) -> u32 {
    u32::from_le_bytes(*array_at(bytes, at))
}

fn array_at<const N: usize>(bytes: &[u8], at: Range<usize>) -> &[u8; N] {
    bytes[at].try_into().expect("a field range is as long as its array")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_exactly_the_length_of_its_type() {
        for (kind, len, expected) in [
            (1, INITIATION, Kind::Initiation),
            (2, RESPONSE, Kind::Response),
            (3, COOKIE_REPLY, Kind::CookieReply),
            (4, DATA_OVERHEAD, Kind::Data),
        ] {
            let mut datagram = vec![0; len];
            datagram[0] = kind;
            assert_eq!(Kind::of(&datagram), Some(expected));
            assert_eq!(Kind::of(&datagram[..len - 1]), None);
            datagram.push(0);
            assert_eq!(Kind::of(&datagram).is_some(), expected == Kind::Data);
        }
        assert_eq!(Kind::of(&[]), None);
        assert_eq!(Kind::of(&[4, 0, 0]), None);
    }

    #[test]
    fn reserved_bytes_must_be_zero() {
        for at in 1..4 {
            let mut datagram = [0; DATA_OVERHEAD];
            datagram[0] = 4;
            datagram[at] = 1;
            assert_eq!(Kind::of(&datagram), None);
        }
    }

    #[test]
    fn fields_come_back_as_they_were_written() {
        let noise = std::array::from_fn(|i| i as u8);
        let message = initiation(0x0102_0304, &noise);
        let view = Initiation::new_checked(&message).unwrap();
        assert_eq!(view.handshake().sender(), 0x0102_0304);
        assert_eq!(view.noise(), &noise);
        assert_eq!(view.handshake().mac1().1.len(), 116);
        assert_eq!(view.handshake().mac2().1.len(), 132);

        let noise = std::array::from_fn(|i| i as u8);
        let message = response(5, 6, &noise);
        let view = Response::new_checked(&message).unwrap();
        assert_eq!((view.handshake().sender(), view.receiver(), view.noise()), (5, 6, &noise));

        let message = cookie_reply(7, &[8; 24], &[9; 32]);
        let view = CookieReply::new_checked(&message).unwrap();
        assert_eq!((view.receiver(), view.nonce(), view.sealed()), (7, &[8; 24], &[9; 32]));

        let mut message = [0xff; DATA_OVERHEAD];
        write_data_header(&mut message, 10, 11);
        assert_eq!(Kind::of(&message), Some(Kind::Data));
        assert_eq!((data_receiver(&message), data_counter(&message)), (10, 11));
    }

    #[test]
    fn padding_fills_to_sixteen_but_not_past_the_mtu() {
        assert_eq!(padded_len(0, 1420), 0);
        assert_eq!(padded_len(1, 1420), 16);
        assert_eq!(padded_len(1408, 1420), 1408);
        assert_eq!(padded_len(1409, 1420), 1420);
        assert_eq!(padded_len(1420, 1420), 1420);
        assert_eq!(padded_len(1421, 1420), 1421);
        assert_eq!(padded_len(20, 0), 20);
    }
}
