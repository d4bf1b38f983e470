//! Poly1305 (RFC 8439, section 2.5): eight authenticators side by side, one in each 64-bit lane.
//!
//! Numbers modulo 2^130 - 5 are in limbs of 44, 44 and 42 bits, which leaves the 52-bit multiplier
//! room for sums. 2^132 is 4 * 2^130, that is 20: a product that reaches over the top limb comes
//! back in at the bottom 20 times.

use core::arch::x86_64::{
    __m256i, __m512i, _mm512_add_epi64, _mm512_and_si512, _mm512_castsi512_si256, _mm512_cmplt_epu64_mask,
    _mm512_cvtepu32_epi64, _mm512_madd52hi_epu64, _mm512_madd52lo_epu64, _mm512_mask_add_epi64,
    _mm512_mask_and_epi64, _mm512_or_si512, _mm512_set1_epi64, _mm512_setzero_si512, _mm512_shrdi_epi64,
    _mm512_shuffle_i64x2, _mm512_slli_epi64, _mm512_srli_epi64, _mm512_test_epi64_mask,
    _mm512_unpackhi_epi64, _mm512_unpacklo_epi64,
};

use super::chacha20::Words;
use super::messages::{Messages, Tags};
use super::{LANES, store};

/// Eight numbers, lowest limb first.
type Limbs = [__m512i; 3];

const LIMB: i64 = (1 << 44) - 1;
const TOP_LIMB: i64 = (1 << 42) - 1;

/// Eight authenticators (section 2.5.1).
pub(super) struct Authenticators {
    /// r, and r squared.
    r: Factor,
    r_squared: Factor,
    /// s, the number added at the end: its low and high 64 bits.
    s: [__m512i; 2],
    accumulator: Limbs,
}

impl Authenticators {
    /// Their keys are the beginnings of blocks 0 of the key streams (section 2.6).
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
        let mut square = Products::none();
        square.add(r.limbs, &r);
        Authenticators {
            r_squared: Factor::new(square.reduced()),
            r,
            s: [pair(4), pair(6)],
            accumulator: [_mm512_setzero_si512(); 3],
        }
    }

    /// The tags of messages without associated data (section 2.8).
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
    pub(super) fn tags(mut self, messages: &Messages<'_>) -> Tags {
        let len = messages.len();
        let whole = len - len % 64;
        for at in (0..whole).step_by(64) {
            let [a, b, c, d, e, f, g, h] = transposed(&messages.at(at));
            self.two_blocks([a, b], [c, d]);
            self.two_blocks([e, f], [g, h]);
        }
        if whole < len {
            let words = transposed(&messages.at(whole));
            for block in &words.as_chunks().0[..(len - whole).div_ceil(16)] {
                self.block(*block);
            }
        }
        // No associated data, then how many bytes of text.
        self.block([_mm512_setzero_si512(), _mm512_set1_epi64((len as u64).cast_signed())]);
        self.finish()
    }

    /// Takes in the next 16 bytes of each message, given as low and high 64 bits.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512vbmi2")]
    pub(super) fn block(&mut self, block: [__m512i; 2]) {
        let mut sum = Products::none();
        sum.add(self.plus(block), &self.r);
        self.accumulator = sum.reduced();
    }

    /// Takes in the next 32 bytes: (a + first) * r^2 + second * r. Half of that does not wait for
    /// what came before, and there is one reduction instead of two.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma,avx512vbmi2")]
    fn two_blocks(&mut self, first: [__m512i; 2], second: [__m512i; 2]) {
        let mut sum = Products::none();
        sum.add(number(second), &self.r);
        sum.add(self.plus(first), &self.r_squared);
        self.accumulator = sum.reduced();
    }

    /// The accumulator plus a block.
    #[inline]
    #[target_feature(enable = "avx512f,avx512vbmi2")]
    fn plus(&self, block: [__m512i; 2]) -> Limbs {
        let block = number(block);
        [0, 1, 2].map(|i| _mm512_add_epi64(self.accumulator[i], block[i]))
    }

    /// The accumulator, reduced for good, plus s modulo 2^128.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn finish(self) -> Tags {
        let (limb, top_limb) = (_mm512_set1_epi64(LIMB), _mm512_set1_epi64(TOP_LIMB));
        // After the first time round only a carry of one can be left, after the second none.
        let [h0, h1, h2] = carried(carried(self.accumulator));
        // At least the prime? Then 5 more reach 2^130.
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

/// A number to multiply by.
struct Factor {
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
}

/// A sum of products, limb by limb, low and high 52 bits apart.
struct Products {
    low: Limbs,
    high: Limbs,
}

impl Products {
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn none() -> Self {
        Products { low: [_mm512_setzero_si512(); 3], high: [_mm512_setzero_si512(); 3] }
    }

    /// Adds `x` times `factor`. Two of these fit before the sums have to be reduced.
    #[inline]
    #[target_feature(enable = "avx512f,avx512ifma")]
    fn add(&mut self, x: Limbs, factor: &Factor) {
        let [r0, r1, r2] = factor.limbs;
        let [w1, w2] = factor.wrapped;
        // Row i is what limb i of x is multiplied by, for each limb of the product.
        for (x, row) in x.into_iter().zip([[r0, r1, r2], [w2, r0, r1], [w1, w2, r0]]) {
            for (limb, factor) in row.into_iter().enumerate() {
                self.low[limb] = _mm512_madd52lo_epu64(self.low[limb], x, factor);
                self.high[limb] = _mm512_madd52hi_epu64(self.high[limb], x, factor);
            }
        }
    }

    /// The sum in limbs again, the middle one up to a few bits too long.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn reduced(self) -> Limbs {
        let (limb, top_limb) = (_mm512_set1_epi64(LIMB), _mm512_set1_epi64(TOP_LIMB));
        let [l0, l1, l2] = self.low;
        let [h0, h1, h2] = self.high;
        // A high part weighs 2^52: 8 bits over the next limb, 10 bits over the top.
        let l1 = _mm512_add_epi64(l1, _mm512_slli_epi64::<8>(h0));
        let l2 = _mm512_add_epi64(l2, _mm512_slli_epi64::<8>(h1));
        let l1 = _mm512_add_epi64(l1, _mm512_srli_epi64::<44>(l0));
        let l2 = _mm512_add_epi64(l2, _mm512_srli_epi64::<44>(l1));
        let over = _mm512_add_epi64(_mm512_slli_epi64::<10>(h2), _mm512_srli_epi64::<42>(l2));
        let l0 = _mm512_add_epi64(_mm512_and_si512(l0, limb), times_5(over));
        let l1 = _mm512_add_epi64(_mm512_and_si512(l1, limb), _mm512_srli_epi64::<44>(l0));
        [_mm512_and_si512(l0, limb), l1, _mm512_and_si512(l2, top_limb)]
    }
}

/// Carries once from the lowest limb round to the lowest limb, and from there to the next.
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

/// 128 bits in limbs, with the bit that marks the end of a whole block (section 2.5).
#[inline]
#[target_feature(enable = "avx512f,avx512vbmi2")]
fn number([low, high]: [__m512i; 2]) -> Limbs {
    let [a, b, c] = limbs(low, high);
    [a, b, _mm512_or_si512(c, _mm512_set1_epi64(1 << (128 - 88)))]
}

/// 128 bits in limbs.
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

/// 64-bit numbers from their halves.
#[inline]
#[target_feature(enable = "avx512f")]
fn joined(low: __m256i, high: __m256i) -> __m512i {
    _mm512_or_si512(_mm512_cvtepu32_epi64(low), _mm512_slli_epi64::<32>(_mm512_cvtepu32_epi64(high)))
}

/// Element i of the result has the 64-bit word i of each argument.
#[inline]
#[target_feature(enable = "avx512f")]
fn transposed(rows: &[__m512i; LANES]) -> [__m512i; LANES] {
    let zero = _mm512_setzero_si512();
    let [a, b, c, d, e, f, g, h] = *rows;
    let even = [(a, b), (c, d), (e, f), (g, h)].map(|(x, y)| _mm512_unpacklo_epi64(x, y));
    let odd = [(a, b), (c, d), (e, f), (g, h)].map(|(x, y)| _mm512_unpackhi_epi64(x, y));
    // Of these, quarter m has words 2m (even) or 2m + 1 (odd) of two rows.
    let mut columns = [zero; LANES];
    for (parity, [ab, cd, ef, gh]) in [even, odd].into_iter().enumerate() {
        let (x, y) = (_mm512_shuffle_i64x2::<0x44>(ab, cd), _mm512_shuffle_i64x2::<0x44>(ef, gh));
        columns[parity] = _mm512_shuffle_i64x2::<0x88>(x, y);
        columns[2 + parity] = _mm512_shuffle_i64x2::<0xdd>(x, y);
        let (x, y) = (_mm512_shuffle_i64x2::<0xee>(ab, cd), _mm512_shuffle_i64x2::<0xee>(ef, gh));
        columns[4 + parity] = _mm512_shuffle_i64x2::<0x88>(x, y);
        columns[6 + parity] = _mm512_shuffle_i64x2::<0xdd>(x, y);
    }
    columns
}
