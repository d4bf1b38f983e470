//! `ChaCha20` (RFC 8439, section 2.3): sixteen blocks at a time, two consecutive ones of each of
//! eight messages.
//!
//! A block has sixteen 32-bit words. Sixteen registers each hold one word of all blocks. Lane
//! additions wrap modulo 2^32, as the cipher requires.

use core::arch::x86_64::{
    __m512i, _mm512_add_epi32, _mm512_set1_epi32, _mm512_setr_epi32, _mm512_setzero_si512,
    _mm512_shuffle_i32x4, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64,
};

use zeroize::Zeroize as _;

use super::LANES;

/// "expand 32-byte k", the first four words of every block.
const CONSTANTS: [u32; 4] = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574];

/// The key streams of eight messages under one key.
pub(super) struct Streams<'k> {
    key: &'k [u32; 8],
    /// Low and high word of the counter of message i, in lanes i and i + 8.
    counters: [__m512i; 2],
    /// The state of every block after three of the first four quarter rounds, which do not depend on
    /// the block number. Reveals the key, so it is zeroized on drop.
    begun: Words,
}

/// Sixteen blocks by word: element i holds word i of all blocks. The first block of message i is in
/// lane i, the second in lane i + 8.
pub(super) type Words = [__m512i; 16];

/// Sixteen blocks, half transposed from words to bytes: 128-bit quarter m of element `[i][k]` holds
/// words 4i to 4i + 3 of the block in lane 4m + k.
pub(super) type Squares = [[__m512i; 4]; 4];

/// One 64-byte block of each message.
pub(super) type Blocks = [__m512i; LANES];

/// One step of several quarter rounds (section 2.1): `x += y; z ^= x; z <<<= bits`. Groups of two
/// measured fastest, and the compiler keeps the order.
macro_rules! steps {
    ($bits:literal $v:ident: $([$x:literal $y:literal $z:literal])*) => {
        $($v[$x] = core::arch::x86_64::_mm512_add_epi32($v[$x], $v[$y]);)*
        $($v[$z] = core::arch::x86_64::_mm512_xor_si512($v[$z], $v[$x]);)*
        $($v[$z] = core::arch::x86_64::_mm512_rol_epi32::<$bits>($v[$z]);)*
    };
}

/// One quarter round.
macro_rules! quarter_round {
    ($v:ident: $a:literal $b:literal $c:literal $d:literal) => {
        steps!(16 $v: [$a $b $d]);
        steps!(12 $v: [$c $d $b]);
        steps!(8 $v: [$a $b $d]);
        steps!(7 $v: [$c $d $b]);
    };
}

/// The first or the second half of four quarter rounds, selected by the two rotations.
macro_rules! half_round {
    (columns $first:literal $second:literal $v:ident) => {
        steps!($first $v: [0 4 12] [1 5 13]);
        steps!($first $v: [2 6 14] [3 7 15]);
        steps!($second $v: [8 12 4] [9 13 5]);
        steps!($second $v: [10 14 6] [11 15 7]);
    };
    (diagonals $first:literal $second:literal $v:ident) => {
        steps!($first $v: [0 5 15] [1 6 12]);
        steps!($first $v: [2 7 13] [3 4 14]);
        steps!($second $v: [10 15 5] [11 12 6]);
        steps!($second $v: [8 13 7] [9 14 4]);
    };
}

/// Four quarter rounds on the columns and four on the diagonals (section 2.3), with up to four pieces
/// of other work, each after a half round. The diagonal half can be used alone.
macro_rules! double_round {
    ($v:ident) => { double_round!($v {} {} {} {}) };
    ($v:ident $first:block $second:block $third:block $fourth:block) => {
        half_round!(columns 16 12 $v);
        hold!($v[4], $v[5], $v[6], $v[7]);
        $first
        half_round!(columns 8 7 $v);
        hold!($v[4], $v[5], $v[6], $v[7]);
        $second
        double_round!(diagonals $v $third $fourth);
    };
    (diagonals $v:ident $third:block $fourth:block) => {
        half_round!(diagonals 16 12 $v);
        hold!($v[4], $v[5], $v[6], $v[7]);
        $third
        half_round!(diagonals 8 7 $v);
        hold!($v[4], $v[5], $v[6], $v[7]);
        $fourth
    };
}
pub(super) use {double_round, half_round, steps};

impl<'k> Streams<'k> {
    /// Creates the streams of `key`. The nonce of message i is 32 zero bits, then `counters[i]`,
    /// little-endian (WireGuard whitepaper, section 5.4.6).
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn new(key: &'k [u32; 8], counters: [u64; LANES]) -> Self {
        let twice =
            |[a, b, c, d, e, f, g, h]: [u32; LANES]| lanes([a, b, c, d, e, f, g, h, a, b, c, d, e, f, g, h]);
        let low = twice(counters.map(|counter| counter as u32));
        let high = twice(counters.map(|counter| (counter >> 32) as u32));
        let mut streams = Streams { key, counters: [low, high], begun: [_mm512_setzero_si512(); 16] };
        let mut v = streams.start(0);
        quarter_round!(v: 1 5 9 13);
        quarter_round!(v: 2 6 10 14);
        quarter_round!(v: 3 7 11 15);
        streams.begun = v;
        streams
    }

    /// Returns the initial state of blocks `number` and `number + 1` of every stream.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn start(&self, number: u32) -> Words {
        let (a, b) = (number, number + 1);
        let [c0, c1, c2, c3] = CONSTANTS.map(|word| all(word));
        let [k0, k1, k2, k3, k4, k5, k6, k7] = self.key.map(|word| all(word));
        let n = lanes([a, a, a, a, a, a, a, a, b, b, b, b, b, b, b, b]);
        let [low, high] = self.counters;
        [c0, c1, c2, c3, k0, k1, k2, k3, k4, k5, k6, k7, n, _mm512_setzero_si512(), low, high]
    }

    /// Returns blocks `number` and `number + 1` after the first four quarter rounds, on the columns.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn begin(&self, number: u32) -> Words {
        let mut v = self.begun;
        let start = self.start(number);
        for i in [0, 4, 8, 12] {
            v[i] = start[i];
        }
        quarter_round!(v: 0 4 8 12);
        v
    }

    /// Completes blocks `number` and `number + 1` after the rounds by adding their initial state.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn end(&self, number: u32, mut v: Words) -> Words {
        for (word, start) in v.iter_mut().zip(self.start(number)) {
            *word = _mm512_add_epi32(*word, start);
        }
        v
    }

    /// Returns blocks `number` and `number + 1` of every stream.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) fn blocks(&self, number: u32) -> Words {
        let mut v = self.begin(number);
        double_round!(diagonals v {} {});
        for _ in 1..10 {
            double_round!(v);
        }
        self.end(number, v)
    }
}

impl Drop for Streams<'_> {
    fn drop(&mut self) {
        self.begun.zeroize();
    }
}

/// The first half of the transposition from words to bytes: in each 128-bit quarter, transposes four
/// words of four blocks.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn squares(words: &Words) -> Squares {
    let mut squares = [[_mm512_setzero_si512(); 4]; 4];
    for (square, words) in squares.iter_mut().zip(words.as_chunks::<4>().0) {
        let [a, b, c, d] = *words;
        let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
        square[0] = _mm512_unpacklo_epi64(ab, cd);
        square[1] = _mm512_unpackhi_epi64(ab, cd);
        let (ab, cd) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
        square[2] = _mm512_unpacklo_epi64(ab, cd);
        square[3] = _mm512_unpackhi_epi64(ab, cd);
    }
    squares
}

/// The second half of the transposition, for messages k and k + 4: transposes the quarters of four
/// registers. Returns the first block of each message, then the second of each.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn blocks_of_two(squares: &Squares, k: usize) -> [__m512i; 4] {
    let [a, b, c, d] = [squares[0][k], squares[1][k], squares[2][k], squares[3][k]];
    let (ab, cd) = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0x44>(c, d));
    let first = [_mm512_shuffle_i32x4::<0x88>(ab, cd), _mm512_shuffle_i32x4::<0xdd>(ab, cd)];
    let (ab, cd) = (_mm512_shuffle_i32x4::<0xee>(a, b), _mm512_shuffle_i32x4::<0xee>(c, d));
    let second = [_mm512_shuffle_i32x4::<0x88>(ab, cd), _mm512_shuffle_i32x4::<0xdd>(ab, cd)];
    [first[0], first[1], second[0], second[1]]
}

/// Returns the first and the second block of each message.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn split(squares: &Squares) -> [Blocks; 2] {
    let mut blocks = [[_mm512_setzero_si512(); LANES]; 2];
    for k in 0..4 {
        [blocks[0][k], blocks[0][k + 4], blocks[1][k], blocks[1][k + 4]] = blocks_of_two(squares, k);
    }
    blocks
}

/// Returns a register with the same word in all lanes.
#[inline]
#[target_feature(enable = "avx512f")]
fn all(word: u32) -> __m512i {
    _mm512_set1_epi32(word.cast_signed())
}

/// Returns a register with one word per lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn lanes(words: [u32; 16]) -> __m512i {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = words.map(u32::cast_signed);
    _mm512_setr_epi32(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p)
}
