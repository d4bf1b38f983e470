//! The four messages of WireGuard as bytes: lengths, field offsets and checked views (whitepaper,
//! section 5.4).
//!
//! A view is made by `new_checked`, which looks at everything that can be wrong without a key: the
//! type, the reserved bytes and the length. Its accessors do not fail after that. Integers are
//! little-endian.

use std::ops::Range;

/// Length of message 1, the handshake initiation, in bytes.
pub const INITIATION: usize = 148;
/// Length of message 2, the handshake response, in bytes.
pub const RESPONSE: usize = 92;
/// Length of message 3, the cookie reply, in bytes.
pub const COOKIE_REPLY: usize = 64;
/// The longest handshake message, in bytes.
pub const MAX_HANDSHAKE: usize = INITIATION;

/// Bytes in front of the payload of a data message: type, receiver index and counter.
pub const DATA_HEADER: usize = 16;
/// Bytes of the authentication tag behind the payload.
pub const TAG: usize = 16;
/// What a data message adds to its (padded) payload, in bytes.
pub const DATA_OVERHEAD: usize = DATA_HEADER + TAG;
/// Payloads are padded to a multiple of this many bytes (section 5.4.6).
pub const PADDING: usize = 16;

/// Length of the Noise part of message 1: ephemeral, sealed static key, sealed timestamp.
pub const INITIATION_NOISE: usize = 108;
/// Length of the Noise part of message 2: ephemeral, sealed nothing.
pub const RESPONSE_NOISE: usize = 48;

/// A MAC of a handshake message, in bytes.
pub type Mac = [u8; 16];

/// Offsets that all handshake messages share.
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

/// The type of a message, which is its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Message 1.
    Initiation = 1,
    /// Message 2.
    Response = 2,
    /// Message 3.
    CookieReply = 3,
    /// Message 4.
    Data = 4,
}

impl Kind {
    /// The type of `datagram`, or `None` if it is no WireGuard message: an unknown type, reserved
    /// bytes that are not zero, or a length the type does not have.
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

/// Whether a handshake message claims that its sender has had something from us before: an answer does, and an
/// initiation that bears a cookie. A flood from addresses that are not the sender's cannot make good on that claim.
pub fn claims_acquaintance(datagram: &[u8]) -> bool {
    match Kind::of(datagram) {
        Some(Kind::Initiation) => datagram[mac2_offset(INITIATION)..] != [0; 16],
        Some(Kind::Response | Kind::CookieReply) => true,
        Some(Kind::Data) | None => false,
    }
}

/// The length a payload of `len` bytes has after padding, in bytes: the next multiple of
/// [`PADDING`], but never over `mtu`, so that padding does not make a packet too big. A payload
/// that is already over `mtu` stays as it is.
#[inline]
pub const fn padded_len(len: usize, mtu: usize) -> usize {
    let padded = len.next_multiple_of(PADDING);
    let bound = if len > mtu { len } else { mtu };
    if padded < bound { padded } else { bound }
}

/// Message 1 or 2, as far as they are alike: the sender's index and two MACs at the end.
#[derive(Clone, Copy)]
pub struct Handshake<'a>(&'a [u8]);

impl<'a> Handshake<'a> {
    /// The index by which the sender wants to be addressed.
    pub fn sender(self) -> u32 {
        u32_at(self.0, field::SENDER)
    }

    /// The first MAC, and the bytes it covers.
    pub fn mac1(self) -> (&'a Mac, &'a [u8]) {
        let at = mac1_offset(self.0.len());
        (array_at(self.0, at..at + 16), &self.0[..at])
    }

    /// The second MAC, and the bytes it covers.
    pub fn mac2(self) -> (&'a Mac, &'a [u8]) {
        let at = mac2_offset(self.0.len());
        (array_at(self.0, at..at + 16), &self.0[..at])
    }
}

/// A checked view of message 1 (section 5.4.2).
#[derive(Clone, Copy)]
pub struct Initiation<'a>(&'a [u8]);

impl<'a> Initiation<'a> {
    /// A view of `datagram`, if it has the form of message 1.
    pub fn new_checked(datagram: &'a [u8]) -> Option<Self> {
        (Kind::of(datagram)? == Kind::Initiation).then_some(Initiation(datagram))
    }

    /// What it has in common with message 2.
    pub fn handshake(self) -> Handshake<'a> {
        Handshake(self.0)
    }

    /// The part that Noise reads.
    pub fn noise(self) -> &'a [u8; INITIATION_NOISE] {
        array_at(self.0, field::INITIATION_NOISE)
    }
}

/// A checked view of message 2 (section 5.4.3).
#[derive(Clone, Copy)]
pub struct Response<'a>(&'a [u8]);

impl<'a> Response<'a> {
    /// A view of `datagram`, if it has the form of message 2.
    pub fn new_checked(datagram: &'a [u8]) -> Option<Self> {
        (Kind::of(datagram)? == Kind::Response).then_some(Response(datagram))
    }

    /// What it has in common with message 1.
    pub fn handshake(self) -> Handshake<'a> {
        Handshake(self.0)
    }

    /// The index of the initiation that this answers.
    pub fn receiver(self) -> u32 {
        u32_at(self.0, field::RESPONSE_RECEIVER)
    }

    /// The part that Noise reads.
    pub fn noise(self) -> &'a [u8; RESPONSE_NOISE] {
        array_at(self.0, field::RESPONSE_NOISE)
    }
}

/// A checked view of message 3 (section 5.4.7).
#[derive(Clone, Copy)]
pub struct CookieReply<'a>(&'a [u8]);

impl<'a> CookieReply<'a> {
    /// A view of `datagram`, if it has the form of message 3.
    pub fn new_checked(datagram: &'a [u8]) -> Option<Self> {
        (Kind::of(datagram)? == Kind::CookieReply).then_some(CookieReply(datagram))
    }

    /// The sender index of the message that this answers.
    pub fn receiver(self) -> u32 {
        u32_at(self.0, field::RECEIVER)
    }

    /// The nonce of the sealed cookie.
    pub fn nonce(self) -> &'a [u8; 24] {
        array_at(self.0, field::COOKIE_NONCE)
    }

    /// The cookie and its tag.
    pub fn sealed(self) -> &'a [u8; 32] {
        array_at(self.0, field::COOKIE_SEALED)
    }
}

/// The receiver index of a message of [`Kind::Data`].
///
/// # Panics
/// If `datagram` is shorter than 8 bytes.
#[inline]
pub fn data_receiver(datagram: &[u8]) -> u32 {
    u32_at(datagram, field::RECEIVER)
}

/// The counter of a message of [`Kind::Data`].
///
/// # Panics
/// If `datagram` is shorter than [`DATA_HEADER`] bytes.
#[inline]
pub fn data_counter(datagram: &[u8]) -> u64 {
    u64::from_le_bytes(*array_at(datagram, field::COUNTER))
}

/// Writes the header of a data message into the first [`DATA_HEADER`] bytes of `datagram`.
///
/// # Panics
/// If `datagram` is shorter than that.
#[inline]
pub fn write_data_header(datagram: &mut [u8], receiver: u32, counter: u64) {
    datagram[..4].copy_from_slice(&u32::from(Kind::Data as u8).to_le_bytes());
    datagram[field::RECEIVER].copy_from_slice(&receiver.to_le_bytes());
    datagram[field::COUNTER].copy_from_slice(&counter.to_le_bytes());
}

/// Message 1 with both MACs still zero.
pub(super) fn initiation(sender: u32, noise: &[u8; INITIATION_NOISE]) -> [u8; INITIATION] {
    let mut message = [0; INITIATION];
    message[0] = Kind::Initiation as u8;
    message[field::SENDER].copy_from_slice(&sender.to_le_bytes());
    message[field::INITIATION_NOISE].copy_from_slice(noise);
    message
}

/// Message 2 with both MACs still zero.
pub(super) fn response(sender: u32, receiver: u32, noise: &[u8; RESPONSE_NOISE]) -> [u8; RESPONSE] {
    let mut message = [0; RESPONSE];
    message[0] = Kind::Response as u8;
    message[field::SENDER].copy_from_slice(&sender.to_le_bytes());
    message[field::RESPONSE_RECEIVER].copy_from_slice(&receiver.to_le_bytes());
    message[field::RESPONSE_NOISE].copy_from_slice(noise);
    message
}

/// Message 3.
pub(super) fn cookie_reply(receiver: u32, nonce: &[u8; 24], sealed: &[u8; 32]) -> [u8; COOKIE_REPLY] {
    let mut message = [0; COOKIE_REPLY];
    message[0] = Kind::CookieReply as u8;
    message[field::RECEIVER].copy_from_slice(&receiver.to_le_bytes());
    message[field::COOKIE_NONCE].copy_from_slice(nonce);
    message[field::COOKIE_SEALED].copy_from_slice(sealed);
    message
}

/// Where the first MAC of a handshake message of `len` bytes starts.
pub(super) const fn mac1_offset(len: usize) -> usize {
    len - 32
}

/// Where the second MAC of a handshake message of `len` bytes starts.
pub(super) const fn mac2_offset(len: usize) -> usize {
    len - 16
}

fn u32_at(bytes: &[u8], at: Range<usize>) -> u32 {
    u32::from_le_bytes(*array_at(bytes, at))
}

fn array_at<const N: usize>(bytes: &[u8], at: Range<usize>) -> &[u8; N] {
    bytes[at].try_into().expect("field ranges have the length of their arrays")
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
