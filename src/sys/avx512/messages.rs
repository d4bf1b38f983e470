//! The messages of one call: equally long, and equally far from each other in one buffer.

use core::arch::x86_64::{__m512i, _mm512_setzero_si512, _mm512_xor_si512};

use super::{LANES, load, load_part, store, store_part};

/// Bytes of a tag.
pub(crate) const TAG: usize = 16;

/// One tag for each lane. Those of lanes without a message mean nothing.
pub(crate) type Tags = [[u8; TAG]; LANES];

/// Up to [`LANES`] messages, and what they lie in.
pub(crate) struct Messages<'a> {
    buffer: &'a mut [u8],
    stride: usize,
    len: usize,
    count: usize,
}

impl<'a> Messages<'a> {
    /// Message i is the `len` bytes of `buffer` from `i * stride` on.
    ///
    /// # Panics
    /// If there are none or over [`LANES`], or if they do not fit into the buffer.
    pub(crate) fn new(buffer: &'a mut [u8], stride: usize, len: usize, count: usize) -> Self {
        assert!((1..=LANES).contains(&count), "one message a lane");
        assert!((count - 1) * stride + len <= buffer.len(), "the messages lie in the buffer");
        Messages { buffer, stride, len, count }
    }

    /// Bytes of each message.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The 64 bytes from `at` on of each message, fewer at its end and zeros behind them. Lanes
    /// without a message repeat the last one.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn at(&self, at: usize) -> [__m512i; LANES] {
        let mut blocks = [_mm512_setzero_si512(); LANES];
        for (lane, block) in blocks.iter_mut().enumerate() {
            let start = lane.min(self.count - 1) * self.stride;
            let rest = &self.buffer[start + at..start + self.len];
            *block = match rest.first_chunk() {
                Some(whole) => load(whole),
                None => load_part(rest),
            };
        }
        blocks
    }

    /// Adds the key stream to the 64 bytes from `at` on of each message, fewer at its end.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(super) fn add(&mut self, at: usize, stream: &[__m512i; LANES]) {
        if at >= self.len {
            return;
        }
        for (lane, &stream) in stream.iter().enumerate() {
            if lane < self.count {
                let start = lane * self.stride;
                let rest = &mut self.buffer[start + at..start + self.len];
                match rest.first_chunk_mut() {
                    Some(whole) => store(whole, _mm512_xor_si512(load(whole), stream)),
                    None => store_part(rest, _mm512_xor_si512(load_part(rest), stream)),
                }
            }
        }
    }
}
