//! The Internet checksum (RFC 1071): partial one's complement sums that are taken piece by piece,
//! added, and folded once at the end.

// What is to be compiled for two kinds of CPU has to be inlined into both.
#![allow(clippy::inline_always)]

use std::net::IpAddr;
use std::ops::Add;

#[cfg(target_arch = "x86_64")]
use crate::sys::avx2::Avx2;

/// How many bytes one turn of the inner loop takes.
const BLOCK: usize = 64;

/// A partial sum.
///
/// It is kept in the machine's byte order and swapped when it is folded, which one's complement
/// arithmetic allows (RFC 1071, section 2B). A sum has room for the words of 2^32 packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// The sum of `bytes`, which stand at an even place of what is being summed. An odd last byte
    /// is padded with a zero, so only the last piece may be odd.
    #[inline]
    pub fn of(bytes: &[u8]) -> Sum {
        Sum(widely(bytes.len(), || sum(bytes)))
    }

    /// Copies `from` over `to` and returns the sum of what was copied, in one pass.
    ///
    /// # Panics
    /// If the lengths differ.
    #[inline]
    pub fn copying(to: &mut [u8], from: &[u8]) -> Sum {
        assert_eq!(to.len(), from.len(), "a copy needs as much room as there are bytes");
        Sum(widely(from.len(), || copy_and_sum(to, from)))
    }

    /// The sum with one more 16-bit field.
    #[inline]
    #[must_use]
    pub const fn with_u16(self, value: u16) -> Sum {
        Sum(self.0 + value.to_be() as u64)
    }

    /// The sum with one more 32-bit field.
    #[inline]
    #[must_use]
    pub const fn with_u32(self, value: u32) -> Sum {
        Sum(self.0 + value.to_be() as u64)
    }

    /// The 16-bit one's complement sum, not inverted: what a checksum field holds for a device
    /// that is asked to finish the checksum.
    #[inline]
    pub const fn fold(self) -> u16 {
        let mut sum = (self.0 >> 32) + (self.0 & 0xffff_ffff);
        sum = (sum >> 16) + (sum & 0xffff);
        sum = (sum >> 16) + (sum & 0xffff);
        sum = (sum >> 16) + (sum & 0xffff);
        u16::from_be(sum as u16)
    }

    /// The checksum: the folded sum, inverted. A sum taken over bytes that hold their own right
    /// checksum gives zero.
    #[inline]
    pub const fn checksum(self) -> u16 {
        !self.fold()
    }

    /// The checksum as UDP sends it: zero means "none" there, so 0xffff stands for it (RFC 768).
    #[inline]
    pub const fn udp_checksum(self) -> u16 {
        match self.checksum() {
            0 => 0xffff,
            sum => sum,
        }
    }
}

impl Add for Sum {
    type Output = Sum;

    #[inline]
    fn add(self, other: Sum) -> Sum {
        Sum(self.0 + other.0)
    }
}

/// The pseudo header's sum without the length: `addresses` is the source and destination as they
/// stand in the IP header (RFC 9293, section 3.1; RFC 8200, section 8.1).
#[inline]
pub fn pseudo_header(addresses: &[u8], protocol: u8) -> Sum {
    Sum::of(addresses).with_u16(u16::from(protocol))
}

/// The pseudo header's sum for a transport header and payload of `length` bytes.
#[inline]
pub fn pseudo_header_between(source: IpAddr, destination: IpAddr, protocol: u8, length: u32) -> Sum {
    let address = |address| match address {
        IpAddr::V4(v4) => Sum::of(&v4.octets()),
        IpAddr::V6(v6) => Sum::of(&v6.octets()),
    };
    (address(source) + address(destination)).with_u16(u16::from(protocol)).with_u32(length)
}

/// From how many bytes on it pays to ask the CPU for wider registers.
#[cfg(target_arch = "x86_64")]
const LONG: usize = 128;

/// Does `work` on `len` bytes with the widest registers that pay.
#[cfg(target_arch = "x86_64")]
#[inline]
fn widely<R>(len: usize, work: impl FnOnce() -> R) -> R {
    if len >= LONG
        && let Some(avx2) = Avx2::detect()
    {
        return avx2.run(work);
    }
    work()
}

/// Does `work`: the registers that every CPU of this kind has are the widest.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn widely<R>(_len: usize, work: impl FnOnce() -> R) -> R {
    work()
}

#[inline(always)]
fn sum(bytes: &[u8]) -> u64 {
    let (blocks, rest) = bytes.as_chunks::<BLOCK>();
    let mut lanes = [0; LANES];
    for block in blocks {
        add_block(&mut lanes, block);
    }
    lanes.iter().sum::<u64>() + tail(rest)
}

#[inline(always)]
fn copy_and_sum(to: &mut [u8], from: &[u8]) -> u64 {
    let (to_blocks, to_rest) = to.as_chunks_mut::<BLOCK>();
    let (from_blocks, from_rest) = from.as_chunks::<BLOCK>();
    let mut lanes = [0; LANES];
    for (to, from) in to_blocks.iter_mut().zip(from_blocks) {
        *to = *from;
        add_block(&mut lanes, from);
    }
    to_rest.copy_from_slice(from_rest);
    lanes.iter().sum::<u64>() + tail(from_rest)
}

/// Sums side by side, so that the compiler turns them into vector registers.
const LANES: usize = 8;

/// Adds a block's 32-bit words to the lanes. Words of 32 bits in lanes of 64 need no carry.
#[inline(always)]
fn add_block(lanes: &mut [u64; LANES], block: &[u8; BLOCK]) {
    for row in block.as_chunks::<{ 4 * LANES }>().0 {
        for (lane, word) in lanes.iter_mut().zip(row.as_chunks::<4>().0) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
}

/// The sum of what is left after the last whole block.
#[inline(always)]
fn tail(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut sum: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let (pairs, last) = rest.as_chunks::<2>();
    sum += pairs.iter().map(|pair| u64::from(u16::from_ne_bytes(*pair))).sum::<u64>();
    if let [last] = last {
        sum += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1071 by the letter: 16-bit words, carry added back at each step.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        (0..len)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            })
            .collect()
    }

    /// A way to compute: its name, a sum, a sum while copying.
    type Path = (&'static str, fn(&[u8]) -> u64, fn(&mut [u8], &[u8]) -> u64);

    const PLAIN: Path = ("plain", sum, copy_and_sum);
    const CHOSEN: Path = ("chosen", |of| Sum::of(of).0, |to, from| Sum::copying(to, from).0);

    #[cfg(target_arch = "x86_64")]
    fn avx2() -> Option<Path> {
        const HERE: &str = "asked before it is called";
        Avx2::detect()?;
        Some((
            "AVX2",
            |of| Avx2::detect().expect(HERE).run(|| sum(of)),
            |to, from| Avx2::detect().expect(HERE).run(|| copy_and_sum(to, from)),
        ))
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn avx2() -> Option<Path> {
        None
    }

    #[test]
    fn every_length_and_alignment_agrees_with_the_rfc_whatever_computes_it() {
        let bytes = noise(2048 + 16);
        let mut copy = vec![0; 2048];
        for (name, sum, copy_and_sum) in [PLAIN, CHOSEN].into_iter().chain(avx2()) {
            for start in 0..16 {
                // Miri is a thousand times as slow; odd lengths and rests of blocks come up all the same.
                for len in (0..=2048).step_by(if cfg!(miri) { 131 } else { 1 }) {
                    let piece = &bytes[start..start + len];
                    let what = format!("{name}, start {start}, length {len}");
                    let expected = naive(piece);
                    assert_eq!(Sum(sum(piece)).fold(), expected, "{what}");
                    // The copy ends where the buffer does, so its alignment changes with the length.
                    let copy = &mut copy[2048 - len..];
                    copy.fill(0);
                    assert_eq!(Sum(copy_and_sum(copy, piece)).fold(), expected, "copying, {what}");
                    assert_eq!(copy, piece, "{what}");
                }
            }
        }
    }

    #[test]
    fn the_longest_packet_of_ones_does_not_overflow() {
        let ones = vec![0xff; 65_536];
        assert_eq!(Sum::of(&ones).fold(), 0xffff);
        let many = (0..64).fold(Sum::default(), |sum, _| sum + Sum::of(&ones));
        assert_eq!(many.fold(), 0xffff);
    }

    #[test]
    fn pieces_and_fields_add_up_to_the_whole() {
        let bytes = noise(1500);
        let whole = Sum::of(&bytes).fold();
        assert_eq!((Sum::of(&bytes[..20]) + Sum::of(&bytes[20..])).fold(), whole);
        let field = u16::from_be_bytes([bytes[0], bytes[1]]);
        let word = u32::from_be_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]);
        assert_eq!(Sum::of(&bytes[6..]).with_u16(field).with_u32(word).fold(), whole);
    }

    #[test]
    fn bytes_with_their_own_checksum_sum_to_zero() {
        let mut bytes = noise(40);
        bytes[10..12].fill(0);
        let sum = Sum::of(&bytes).checksum();
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(Sum::of(&bytes).checksum(), 0);
    }

    #[test]
    fn udp_never_sends_zero() {
        assert_eq!(Sum::default().with_u16(0xffff).checksum(), 0);
        assert_eq!(Sum::default().with_u16(0xffff).udp_checksum(), 0xffff);
    }
}
