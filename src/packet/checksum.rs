//! The Internet checksum (RFC 1071): partial one's complement sums, computed piece by piece, added, and
//! folded once at the end.

// The loops are compiled with and without AVX2, which requires inlining them into both callers.
#![allow(clippy::inline_always)]

use std::net::IpAddr;
use std::ops::Add;

#[cfg(target_arch = "x86_64")]
use crate::sys::avx2::Avx2;

/// Bytes per iteration of the inner loop.
const BLOCK: usize = 64;

/// A partial one's complement sum.
///
/// The sum is kept in native byte order and swapped when folded, which one's complement arithmetic allows
/// (RFC 1071, section 2B). It cannot overflow before 2^32 32-bit words are added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// Returns the sum of `bytes`, which must start at an even offset of the data being summed. An odd
    /// last byte is padded with a zero, so only the last piece may have an odd length.
    #[inline]
    pub fn of(bytes: &[u8]) -> Sum {
        Sum(widely(bytes.len(), || sum(bytes)))
    }

    /// Copies `from` to `to` and returns the sum of the bytes copied, in one pass.
    ///
    /// # Panics
    /// If the lengths differ.
    #[inline]
    pub fn copying(to: &mut [u8], from: &[u8]) -> Sum {
        assert_eq!(to.len(), from.len(), "source and destination must have the same length");
        Sum(widely(from.len(), || copy_and_sum(to, from)))
    }

    /// Returns the sum with a 16-bit field added.
    #[inline]
    #[must_use]
    pub const fn with_u16(self, value: u16) -> Sum {
        Sum(self.0 + value.to_be() as u64)
    }

    /// Returns the sum with a 32-bit field added.
    #[inline]
    #[must_use]
    pub const fn with_u32(self, value: u32) -> Sum {
        Sum(self.0 + value.to_be() as u64)
    }

    /// Returns the 16-bit one's complement sum, not inverted: the value of the checksum field in a packet
    /// whose checksum is left to an offload.
    #[inline]
    pub const fn fold(self) -> u16 {
        let mut sum = (self.0 >> 32) + (self.0 & 0xffff_ffff);
        sum = (sum >> 16) + (sum & 0xffff);
        sum = (sum >> 16) + (sum & 0xffff);
        sum = (sum >> 16) + (sum & 0xffff);
        u16::from_be(sum as u16)
    }

    /// Returns the checksum: the folded sum, inverted. Zero if the sum covers data that includes its own
    /// correct checksum.
    #[inline]
    pub const fn checksum(self) -> u16 {
        !self.fold()
    }

    /// Returns the checksum for UDP, with 0xffff in place of zero, which means "no checksum" (RFC 768).
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

/// Returns the sum of the pseudo header without its length field (RFC 9293, section 3.1; RFC 8200,
/// section 8.1). `addresses` is the source address followed by the destination address, as in the IP
/// header.
#[inline]
pub fn pseudo_header(addresses: &[u8], protocol: u8) -> Sum {
    Sum::of(addresses).with_u16(u16::from(protocol))
}

/// Returns the sum of the pseudo header for a transport header and payload of `length` bytes in total.
#[inline]
pub fn pseudo_header_between(source: IpAddr, destination: IpAddr, protocol: u8, length: u32) -> Sum {
    let address = |address| match address {
        IpAddr::V4(v4) => Sum::of(&v4.octets()),
        IpAddr::V6(v6) => Sum::of(&v6.octets()),
    };
    (address(source) + address(destination)).with_u16(u16::from(protocol)).with_u32(length)
}

/// Minimum number of bytes for which checking for AVX2 pays off.
#[cfg(target_arch = "x86_64")]
const LONG: usize = 128;

/// Runs `work` on `len` bytes, with AVX2 if it is available and pays off.
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

/// Runs `work`: other architectures have no optional instructions to choose from.
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

/// Number of independent sums, which the compiler turns into vector registers.
const LANES: usize = 8;

/// Adds the 32-bit words of a block to 64-bit lanes, which need no carry.
#[inline(always)]
fn add_block(lanes: &mut [u64; LANES], block: &[u8; BLOCK]) {
    for row in block.as_chunks::<{ 4 * LANES }>().0 {
        for (lane, word) in lanes.iter_mut().zip(row.as_chunks::<4>().0) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
}

/// Returns the sum of the bytes after the last whole block.
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

    /// Literal implementation of RFC 1071: 16-bit words, with the carry added back at each step.
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

    /// An implementation under test: its name, its sum, its sum while copying.
    type Path = (&'static str, fn(&[u8]) -> u64, fn(&mut [u8], &[u8]) -> u64);

    const PLAIN: Path = ("plain", sum, copy_and_sum);
    const CHOSEN: Path = ("chosen", |of| Sum::of(of).0, |to, from| Sum::copying(to, from).0);

    #[cfg(target_arch = "x86_64")]
    fn avx2() -> Option<Path> {
        const HERE: &str = "AVX2 was detected before";
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
                // Miri is about 1,000 times slower. A step of 131 still covers odd lengths and partial blocks.
                for len in (0..=2048).step_by(if cfg!(miri) { 131 } else { 1 }) {
                    let piece = &bytes[start..start + len];
                    let what = format!("{name}, start {start}, length {len}");
                    let expected = naive(piece);
                    assert_eq!(Sum(sum(piece)).fold(), expected, "{what}");
                    // The copy ends at the end of the buffer, so its alignment varies with the length.
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
