//! `ChaCha20` (RFC 8439, section 2.3): sixteen blocks at a time, two in a row of each of eight
//! messages.

use core::arch::x86_64::{
    __m512i, _mm512_add_epi32, _mm512_rol_epi32, _mm512_set1_epi32, _mm512_setr_epi32, _mm512_setzero_si512,
    _mm512_shuffle_i32x4, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64, _mm512_xor_si512,
};

use super::LANES;

/// "expand 32-byte k", the first four words of every block.
const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// The key streams of eight messages under one key.
pub(super) struct Streams<'k> {
    key: &'k [u32; 8],
    /// Low and high word of each message's counter, in lanes i and i + 8.
    counters: [__m512i; 2],
}

/// Sixteen blocks word by word: element i has word i of all of them. The first block of message i
/// is in lane i, the second in lane i + 8.
pub(super) type Words = [__m512i; 16];

/// One block of each message.
pub(super) type Blocks = [__m512i; LANES];

/// Four quarter rounds (section 2.1) step by step, so that none waits for itself.
macro_rules! quarter_rounds {
    ($v:ident: $([$a:literal $b:literal $c:literal $d:literal])*) => {
        quarter_rounds!(@ 16 $v: $([$a $b $d])*);
        quarter_rounds!(@ 12 $v: $([$c $d $b])*);
        quarter_rounds!(@ 8 $v: $([$a $b $d])*);
        quarter_rounds!(@ 7 $v: $([$c $d $b])*);
    };
    (@ $bits:literal $v:ident: $([$x:literal $y:literal $z:literal])*) => {
        $($v[$x] = _mm512_add_epi32($v[$x], $v[$y]);)*
        $($v[$z] = _mm512_rol_epi32::<$bits>(_mm512_xor_si512($v[$z], $v[$x]));)*
    };
}

impl<'k> Streams<'k> {
    /// The stream of message i is that of the nonce of WireGuard's `counters[i]`: 32 bits of zeros,
    /// then the counter, little-endian (whitepaper, section 5.4.6).
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn new(key: &'k [u32; 8], counters: [u64; LANES]) -> Self {
        let twice =
            |[a, b, c, d, e, f, g, h]: [u32; LANES]| lanes([a, b, c, d, e, f, g, h, a, b, c, d, e, f, g, h]);
        let low = twice(counters.map(|counter| counter as u32));
        let high = twice(counters.map(|counter| (counter >> 32) as u32));
        Streams { key, counters: [low, high] }
    }

    /// Blocks `number` and `number + 1` of every stream.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn blocks(&self, number: u32) -> Words {
        let (a, b) = (number, number + 1);
        let [c0, c1, c2, c3] = CONSTANTS.map(|word| all(word));
        let [k0, k1, k2, k3, k4, k5, k6, k7] = self.key.map(|word| all(word));
        let n = lanes([a, a, a, a, a, a, a, a, b, b, b, b, b, b, b, b]);
        let [low, high] = self.counters;
        let zero = _mm512_setzero_si512();
        let start = [c0, c1, c2, c3, k0, k1, k2, k3, k4, k5, k6, k7, n, zero, low, high];
        let mut v = start;
        for _ in 0..10 {
            quarter_rounds!(v: [0 4 8 12] [1 5 9 13] [2 6 10 14] [3 7 11 15]);
            quarter_rounds!(v: [0 5 10 15] [1 6 11 12] [2 7 8 13] [3 4 9 14]);
        }
        for (word, start) in v.iter_mut().zip(start) {
            *word = _mm512_add_epi32(*word, start);
        }
        v
    }
}

/// From words to bytes: the first and the second block of each message.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn split(words: &Words) -> (Blocks, Blocks) {
    let zero = _mm512_setzero_si512();
    // Four words of four blocks make a square in each 128-bit quarter. Of `quarters[i][k]`, quarter
    // m holds words 4i to 4i + 3 of the block in lane 4m + k.
    let mut quarters = [[zero; 4]; 4];
    for (quarter, words) in quarters.iter_mut().zip(words.as_chunks::<4>().0) {
        let [a, b, c, d] = *words;
        let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
        quarter[0] = _mm512_unpacklo_epi64(ab, cd);
        quarter[1] = _mm512_unpackhi_epi64(ab, cd);
        let (ab, cd) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
        quarter[2] = _mm512_unpacklo_epi64(ab, cd);
        quarter[3] = _mm512_unpackhi_epi64(ab, cd);
    }
    // And the quarters of four registers make another square.
    let (mut first, mut second) = ([zero; LANES], [zero; LANES]);
    for k in 0..4 {
        let [a, b, c, d] = [quarters[0][k], quarters[1][k], quarters[2][k], quarters[3][k]];
        let (ab, cd) = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0x44>(c, d));
        first[k] = _mm512_shuffle_i32x4::<0x88>(ab, cd);
        first[4 + k] = _mm512_shuffle_i32x4::<0xdd>(ab, cd);
        let (ab, cd) = (_mm512_shuffle_i32x4::<0xee>(a, b), _mm512_shuffle_i32x4::<0xee>(c, d));
        second[k] = _mm512_shuffle_i32x4::<0x88>(ab, cd);
        second[4 + k] = _mm512_shuffle_i32x4::<0xdd>(ab, cd);
    }
    (first, second)
}

/// The same word in all lanes.
#[inline]
#[target_feature(enable = "avx512f")]
fn all(word: u32) -> __m512i {
    _mm512_set1_epi32(word.cast_signed())
}

/// A word for each lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn lanes(words: [u32; 16]) -> __m512i {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = words.map(u32::cast_signed);
    _mm512_setr_epi32(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p)
}
