//! The messages of one call: of equal length, at equal distances in one buffer.

use core::arch::x86_64::{__m512i, _mm512_setzero_si512, _mm512_xor_si512};

use super::chacha20::Blocks;
use super::{LANES, load, load_part, store, store_part};

/// Length of a tag, in bytes.
pub(crate) const TAG: usize = 16;

/// One tag per lane. The tags of lanes without a message are meaningless.
pub(crate) type Tags = [[u8; TAG]; LANES];

/// Up to [`LANES`] messages in a buffer.
pub(crate) struct Messages<'a> {
    buffer: &'a mut [u8],
    /// Offset of the message of each lane, in bytes. Lanes without a message read the last one again.
    starts: [usize; LANES],
    len: usize,
    count: usize,
}

impl<'a> Messages<'a> {
    /// Creates `count` messages, of which message i is the `len` bytes of `buffer` from `i * stride` on.
    ///
    /// # Panics
    /// Panics if `count` is 0 or over [`LANES`], if the messages overlap or exceed the buffer, or if
    /// `len` exceeds 65,535 bytes, the length of a datagram: block numbers have 32 bits.
    pub(crate) fn new(buffer: &'a mut [u8], stride: usize, len: usize, count: usize) -> Self {
        assert!((1..=LANES).contains(&count), "one message per lane");
        assert!(len <= stride || count == 1, "messages do not overlap");
        assert!(u16::try_from(len).is_ok(), "a message is no longer than a datagram");
        assert!((count - 1) * stride + len <= buffer.len(), "the messages fit into the buffer");
        let starts = std::array::from_fn(|lane| lane.min(count - 1) * stride);
        Messages { buffer, starts, len, count }
    }

    /// Returns the length of each message, in bytes.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Returns the 64 bytes from `at` on of the message of `lane`.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn whole(&self, lane: usize, at: usize) -> __m512i {
        load(self.buffer[self.starts[lane] + at..].first_chunk().expect("a message reaches that far"))
    }

    /// Returns the 64 bytes from `at` on of each message, padded with zeros after its end.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn at(&self, at: usize) -> Blocks {
        let mut blocks = [_mm512_setzero_si512(); LANES];
        for (start, block) in self.starts.iter().zip(&mut blocks) {
            let rest = &self.buffer[start + at..start + self.len];
            *block = match rest.first_chunk() {
                Some(whole) => load(whole),
                None => load_part(rest),
            };
        }
        blocks
    }

    /// Adds (XORs) key stream to the 64 bytes from `at` on of the message of `lane`, if it has one.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn add_whole(&mut self, lane: usize, at: usize, stream: __m512i) {
        if lane < self.count {
            let text = self.buffer[self.starts[lane] + at..].first_chunk_mut();
            let text = text.expect("a message reaches that far");
            store(text, _mm512_xor_si512(load(text), stream));
        }
    }

    /// Adds (XORs) key stream to the 64 bytes from `at` on of each message, fewer at its end.
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn add(&mut self, at: usize, stream: &Blocks) {
        if at >= self.len {
            return;
        }
        for (&start, &stream) in self.starts[..self.count].iter().zip(stream) {
            let rest = &mut self.buffer[start + at..start + self.len];
            match rest.first_chunk_mut() {
                Some(whole) => store(whole, _mm512_xor_si512(load(whole), stream)),
                None => store_part(rest, _mm512_xor_si512(load_part(rest), stream)),
            }
        }
    }
}
