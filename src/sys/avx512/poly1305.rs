//! Poly1305 (RFC 8439, section 2.5): eight authenticators side by side, one in each 64-bit lane.
//!
//! Numbers modulo 2^130 - 5 are split into limbs of 44, 44 and 42 bits, which leaves headroom for sums
//! in the 52-bit multiplier. Since 2^132 = 4 * 2^130 is congruent to 20, a product that overflows the
//! top limb is added at the bottom, multiplied by 20.
//!
//! Up to four blocks are added at a time, as (a + m1) r^4 + m2 r^3 + m3 r^2 + m4 r, and reduced once.
//!
//! # Bounds
//!
//! The multiplier uses the low 52 bits of its factors, and sums have 64 bits, so factors must stay
//! below 2^52 and sums below 2^64:
//!
//! - *reduced*: limbs 0 and 2 are masked and thus below 2^44 and 2^42; a final carry is added to limb
//!   1, which is below 2^44 + 2^11 ([`Products::reduced`]).
//! - *factors*: powers of r are reduced. 20 times limb 1 is below 2^49, 20 times limb 2 below 2^47.
//! - *numbers*: the limbs of a block are below 2^44, 2^44 and 2^41, and with the accumulator added
//!   below 2^45, 2^46 and 2^43.
//! - *low sums*: twelve terms per limb (four blocks of three), each below 2^52: below 2^56.
//! - *high sums*, of four terms of each kind: limb 0 below 4 (2^(45+44-52) + 2^(46+47-52) +
//!   2^(43+49-52)) < 2^44; limb 1 below 4 (2^(45+45-52) + 2^(46+44-52) + 2^(43+47-52)) < 2^42; limb 2
//!   below 4 (2^(45+42-52) + 2^(46+45-52) + 2^(43+44-52)) < 2^42.

use core::arch::x86_64::{
    __m256i, __m512i, _mm512_add_epi64, _mm512_and_si512, _mm512_castsi512_si256, _mm512_cmplt_epu64_mask,
    _mm512_cvtepu32_epi64, _mm512_madd52hi_epu64, _mm512_madd52lo_epu64, _mm512_mask_add_epi64,
    _mm512_mask_and_epi64, _mm512_or_si512, _mm512_set1_epi64, _mm512_setzero_si512, _mm512_shrdi_epi64,
    _mm512_shuffle_i64x2, _mm512_slli_epi64, _mm512_srli_epi64, _mm512_test_epi64_mask,
    _mm512_unpackhi_epi64, _mm512_unpacklo_epi64,
};

use super::chacha20::{Blocks, Words};
use super::messages::{Messages, Tags};
use super::store;

#[cfg(test)]
mod edges;

/// Eight numbers, one per lane, lowest limb first.
pub(super) type Limbs = [__m512i; 3];

/// 16 bytes of each message, as low and high 64 bits.
pub(super) type Block = [__m512i; 2];

const LIMB: i64 = (1 << 44) - 1;
const TOP_LIMB: i64 = (1 << 42) - 1;

/// Eight Poly1305 authenticators (section 2.5.1).
pub(super) struct Authenticators {
    /// r, r^2, r^3 and r^4.
    pub(super) powers: [Factor; 4],
    /// s, the number added at the end, as low and high 64 bits.
    s: [__m512i; 2],
    pub(super) accumulator: Limbs,
}

impl Authenticators {
    /// Creates authenticators whose keys are the first 32 bytes of block 0 of each key stream (section
    /// 2.6).
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512vbmi2")]
    pub(super) fn new(stream: &Words) -> Self {
        let pair = |i: usize| {
            let [low, high] = [stream[i], stream[i + 1]].map(|words| _mm512_castsi512_si256(words));
            joined(low, high)
        };
        let low = _mm512_and_si512(pair(0), _mm512_set1_epi64(0x0fff_fffc_0fff_ffff));
        let high = _mm512_and_si512(pair(2), _mm512_set1_epi64(0x0fff_fffc_0fff_fffc));
        let r = Factor::new(limbs(low, high));
        let r2 = r.times(&r);
        let (r3, r4) = (r2.times(&r), r2.times(&r2));
        let accumulator = [_mm512_setzero_si512(); 3];
        Authenticators { powers: [r, r2, r3, r4], s: [pair(4), pair(6)], accumulator }
    }

    /// Returns the tags of messages without associated data (section 2.8), of which the bytes before
    /// `at` have already been authenticated.
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
    pub(super) fn tags(&mut self, messages: &Messages<'_>, mut at: usize) -> Tags {
        let len = messages.len();
        while at < len {
            let text = transposed(&messages.at(at));
            self.blocks(&text[..(len - at).div_ceil(16).min(4)]);
            at += 64;
        }
        // The lengths: no associated data, then the bytes of text.
        self.blocks(&[[_mm512_setzero_si512(), _mm512_set1_epi64((len as u64).cast_signed())]]);
        self.finish()
    }

    /// Authenticates the next one to four blocks of each message.
    #[target_feature(enable = "avx512f,avx512ifma,avx512vbmi2")]
    pub(super) fn blocks(&mut self, blocks: &[Block]) {
        let mut sum = Products::none();
        let mut accumulator = self.accumulator;
        for (block, power) in blocks.iter().zip(self.powers[..blocks.len()].iter().rev()) {
            sum.add(plus(accumulator, number(*block)), power);
            accumulator = [_mm512_setzero_si512(); 3];
        }
        self.accumulator = sum.reduced();
    }

    /// Returns the accumulator plus a block.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vbmi2")]
    pub(super) fn plus(&self, block: Block) -> Limbs {
        plus(self.accumulator, number(block))
    }

    /// Returns the fully reduced accumulator plus s, modulo 2^128.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn finish(&self) -> Tags {
        let (limb, top_limb) = (_mm512_set1_epi64(LIMB), _mm512_set1_epi64(TOP_LIMB));
        // The first pass leaves a carry of at most one, the second none.
        let [h0, h1, h2] = carried(carried(self.accumulator));
        // The number is at least the prime if adding 5 reaches 2^130.
        let g0 = _mm512_add_epi64(h0, _mm512_set1_epi64(5));
        let g1 = _mm512_add_epi64(h1, _mm512_srli_epi64::<44>(g0));
        let g2 = _mm512_add_epi64(h2, _mm512_srli_epi64::<44>(g1));
        let over = _mm512_test_epi64_mask(g2, _mm512_set1_epi64(TOP_LIMB + 1));
        let h0 = _mm512_mask_and_epi64(h0, over, g0, limb);
        let h1 = _mm512_mask_and_epi64(h1, over, g1, limb);
        let h2 = _mm512_mask_and_epi64(h2, over, g2, top_limb);

        let low = _mm512_or_si512(h0, _mm512_slli_epi64::<44>(h1));
        let high = _mm512_or_si512(_mm512_srli_epi64::<20>(h1), _mm512_slli_epi64::<24>(h2));
        let [s_low, s_high] = self.s;
        let sum = _mm512_add_epi64(low, s_low);
        let carry = _mm512_cmplt_epu64_mask(sum, low);
        let high = _mm512_add_epi64(high, s_high);
        let high = _mm512_mask_add_epi64(high, carry, high, _mm512_set1_epi64(1));

        let (mut low_bytes, mut high_bytes) = ([0; 64], [0; 64]);
        store(&mut low_bytes, sum);
        store(&mut high_bytes, high);
        let halves = low_bytes.as_chunks::<8>().0.iter().zip(high_bytes.as_chunks::<8>().0);
        let mut tags = Tags::default();
        for (tag, (low, high)) in tags.iter_mut().zip(halves) {
            tag[..8].copy_from_slice(low);
            tag[8..].copy_from_slice(high);
        }
        tags
    }
}

/// A multiplier, with its limbs prepared for wrapping around the prime.
pub(super) struct Factor {
    limbs: Limbs,
    /// 20 times limbs 1 and 2.
    wrapped: [__m512i; 2],
}

impl Factor {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn new(limbs: Limbs) -> Self {
        let times_20 = |x| _mm512_add_epi64(_mm512_slli_epi64::<4>(x), _mm512_slli_epi64::<2>(x));
        Factor { limbs, wrapped: [times_20(limbs[1]), times_20(limbs[2])] }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn times(&self, other: &Factor) -> Factor {
        let mut product = Products::none();
        product.add(self.limbs, other);
        Factor::new(product.reduced())
    }
}

/// A sum of products by limb, with low and high 52 bits separate.
pub(super) struct Products {
    low: Limbs,
    high: Limbs,
}

impl Products {
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn none() -> Self {
        Products { low: [_mm512_setzero_si512(); 3], high: [_mm512_setzero_si512(); 3] }
    }

    /// Adds `x * factor`. At most four products may be added before the sum is reduced.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn add(&mut self, x: Limbs, factor: &Factor) {
        for i in 0..3 {
            self.add_row(x, factor, i);
        }
    }

    /// Adds the part of `x * factor` that involves limb `i` of `x`. Held, so that the compiler does not
    /// move it.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    pub(super) fn add_row(&mut self, x: Limbs, factor: &Factor, i: usize) {
        let [r0, r1, r2] = factor.limbs;
        let [w1, w2] = factor.wrapped;
        // Row i holds the factors of limb i of x for each limb of the product.
        let row = [[r0, r1, r2], [w2, r0, r1], [w1, w2, r0]][i];
        for (limb, factor) in row.into_iter().enumerate() {
            self.low[limb] = _mm512_madd52lo_epu64(self.low[limb], x[i], factor);
            self.high[limb] = _mm512_madd52hi_epu64(self.high[limb], x[i], factor);
        }
        hold!(self.low[0], self.low[1], self.low[2], self.high[0], self.high[1], self.high[2]);
    }

    /// Returns the sum with its limbs reduced, the middle one below 2^44 + 2^11.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn reduced(&self) -> Limbs {
        let (limb, top_limb) = (_mm512_set1_epi64(LIMB), _mm512_set1_epi64(TOP_LIMB));
        let [l0, l1, l2] = self.low;
        let [h0, h1, h2] = self.high;
        // A high part has weight 2^52: 8 bits above the next limb, 10 bits above the top. With it and
        // a carry of at most 13 bits, limbs 1 and 2 are below 2^57.
        let l1 = _mm512_add_epi64(l1, _mm512_slli_epi64::<8>(h0));
        let l2 = _mm512_add_epi64(l2, _mm512_slli_epi64::<8>(h1));
        let l1 = _mm512_add_epi64(l1, _mm512_srli_epi64::<44>(l0));
        let l2 = _mm512_add_epi64(l2, _mm512_srli_epi64::<44>(l1));
        // Below 2^52 + 2^15; 5 times that plus a limb is below 2^55, which leaves a carry of 11 bits.
        let over = _mm512_add_epi64(_mm512_slli_epi64::<10>(h2), _mm512_srli_epi64::<42>(l2));
        let l0 = _mm512_add_epi64(_mm512_and_si512(l0, limb), times_5(over));
        let l1 = _mm512_add_epi64(_mm512_and_si512(l1, limb), _mm512_srli_epi64::<44>(l0));
        [_mm512_and_si512(l0, limb), l1, _mm512_and_si512(l2, top_limb)]
    }
}

/// Propagates carries once from the lowest limb around to the lowest limb, and from there to the next.
#[inline]
#[target_feature(enable = "avx512f")]
fn carried([h0, h1, h2]: Limbs) -> Limbs {
    let (limb, top_limb) = (_mm512_set1_epi64(LIMB), _mm512_set1_epi64(TOP_LIMB));
    let h1 = _mm512_add_epi64(h1, _mm512_srli_epi64::<44>(h0));
    let h2 = _mm512_add_epi64(h2, _mm512_srli_epi64::<44>(h1));
    let over = times_5(_mm512_srli_epi64::<42>(h2));
    let h0 = _mm512_add_epi64(_mm512_and_si512(h0, limb), over);
    let h1 = _mm512_add_epi64(_mm512_and_si512(h1, limb), _mm512_srli_epi64::<44>(h0));
    [_mm512_and_si512(h0, limb), h1, _mm512_and_si512(h2, top_limb)]
}

/// Adds limb by limb.
#[inline]
#[target_feature(enable = "avx512f")]
fn plus(x: Limbs, y: Limbs) -> Limbs {
    [_mm512_add_epi64(x[0], y[0]), _mm512_add_epi64(x[1], y[1]), _mm512_add_epi64(x[2], y[2])]
}

/// Splits a block into limbs, with the bit above it that marks the end of a full block (section 2.5).
#[inline]
#[target_feature(enable = "avx512f,avx512vbmi2")]
pub(super) fn number([low, high]: Block) -> Limbs {
    let [a, b, _] = limbs(low, high);
    [a, b, _mm512_shrdi_epi64::<{ 88 - 64 }>(high, _mm512_set1_epi64(1))]
}

/// Splits 128 bits into limbs.
#[inline]
#[target_feature(enable = "avx512f,avx512vbmi2")]
fn limbs(low: __m512i, high: __m512i) -> Limbs {
    let limb = _mm512_set1_epi64(LIMB);
    let middle = _mm512_shrdi_epi64::<44>(low, high);
    [_mm512_and_si512(low, limb), _mm512_and_si512(middle, limb), _mm512_srli_epi64::<{ 88 - 64 }>(high)]
}

#[inline]
#[target_feature(enable = "avx512f")]
fn times_5(x: __m512i) -> __m512i {
    _mm512_add_epi64(x, _mm512_slli_epi64::<2>(x))
}

/// Joins 64-bit numbers from their halves.
#[inline]
#[target_feature(enable = "avx512f")]
fn joined(low: __m256i, high: __m256i) -> __m512i {
    _mm512_or_si512(_mm512_cvtepu32_epi64(low), _mm512_slli_epi64::<32>(_mm512_cvtepu32_epi64(high)))
}

/// Transposes 64 bytes of each message into four blocks of each.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transposed(rows: &Blocks) -> [Block; 4] {
    let [a, b, c, d, e, f, g, h] = *rows;
    let low = columns([
        _mm512_unpacklo_epi64(a, b),
        _mm512_unpacklo_epi64(c, d),
        _mm512_unpacklo_epi64(e, f),
        _mm512_unpacklo_epi64(g, h),
    ]);
    let high = columns([
        _mm512_unpackhi_epi64(a, b),
        _mm512_unpackhi_epi64(c, d),
        _mm512_unpackhi_epi64(e, f),
        _mm512_unpackhi_epi64(g, h),
    ]);
    [[low[0], high[0]], [low[1], high[1]], [low[2], high[2]], [low[3], high[3]]]
}

/// Transposes 128-bit quarters: quarter m of each argument holds 64-bit words of block m of two
/// messages, and element m of the result those of all eight.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn columns([ab, cd, ef, gh]: [__m512i; 4]) -> [__m512i; 4] {
    let (x, y) = (_mm512_shuffle_i64x2::<0x44>(ab, cd), _mm512_shuffle_i64x2::<0x44>(ef, gh));
    let (z, w) = (_mm512_shuffle_i64x2::<0xee>(ab, cd), _mm512_shuffle_i64x2::<0xee>(ef, gh));
    [
        _mm512_shuffle_i64x2::<0x88>(x, y),
        _mm512_shuffle_i64x2::<0xdd>(x, y),
        _mm512_shuffle_i64x2::<0x88>(z, w),
        _mm512_shuffle_i64x2::<0xdd>(z, w),
    ]
}
