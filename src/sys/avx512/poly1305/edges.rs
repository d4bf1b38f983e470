//! Edge cases of carries, limbs and the final subtraction in Poly1305, against a model without limbs that
//! multiplies by doubling and adding, one bit at a time.

use proptest::prelude::*;

use crate::sys::avx512::poly1305::*;
use crate::sys::avx512::{Avx512, LANES, TAG};

/// `low + high * 2^128`, below the prime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Number {
    low: u128,
    high: u128,
}

/// The low 128 bits of the prime, which is `3 * 2^128 + PRIME_LOW`.
const PRIME_LOW: u128 = u128::MAX - 4;

impl Number {
    const ZERO: Number = Number { low: 0, high: 0 };

    fn new(low: u128, high: u128) -> Number {
        let over = high > 3 || (high == 3 && low >= PRIME_LOW);
        if !over {
            return Number { low, high };
        }
        let (low, borrow) = low.overflowing_sub(PRIME_LOW);
        Number::new(low, high - 3 - u128::from(borrow))
    }

    fn plus(self, other: Number) -> Number {
        let (low, carry) = self.low.overflowing_add(other.low);
        Number::new(low, self.high + other.high + u128::from(carry))
    }

    fn times(self, factor: u128) -> Number {
        (0..128).rev().fold(Number::ZERO, |product, bit| {
            let double = product.plus(product);
            if factor >> bit & 1 == 1 { double.plus(self) } else { double }
        })
    }
}

const CLAMP: u128 = 0x0fff_fffc_0fff_fffc_0fff_fffc_0fff_ffff;

/// Returns the tag of full blocks (section 2.5.1).
fn modelled(r: u128, s: u128, blocks: &[u128]) -> u128 {
    let sum = blocks
        .iter()
        .fold(Number::ZERO, |sum, block| sum.plus(Number { low: *block, high: 1 }).times(r & CLAMP));
    sum.low.wrapping_add(s)
}

/// Returns one number per lane, as low and high halves.
#[target_feature(enable = "avx512f")]
fn pair(lanes: [u128; LANES]) -> Block {
    [0, 64].map(|shift| each(lanes.map(|number| (number >> shift) as u64)))
}

#[target_feature(enable = "avx512f")]
fn each(lanes: [u64; LANES]) -> __m512i {
    let mut bytes = [0; 64];
    for (to, lane) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(lanes) {
        *to = lane.to_le_bytes();
    }
    crate::sys::avx512::load(&bytes)
}

#[target_feature(enable = "avx512f")]
fn lanes(register: __m512i) -> [u64; LANES] {
    let mut bytes = [0; 64];
    store(&mut bytes, register);
    std::array::from_fn(|lane| u64::from_le_bytes(bytes.as_chunks().0[lane]))
}

#[target_feature(enable = "avx512f,avx512ifma,avx512vbmi2")]
fn authenticators(r: [u128; LANES], s: [u128; LANES]) -> Authenticators {
    let mut words = [_mm512_setzero_si512(); 16];
    for (i, word) in words[..8].iter_mut().enumerate() {
        let key = if i < 4 { r } else { s };
        let of_lane = |lane: usize| (key[lane % LANES] >> (32 * (i % 4))) as u32;
        *word =
            each(std::array::from_fn(|i| u64::from(of_lane(2 * i)) | u64::from(of_lane(2 * i + 1)) << 32));
    }
    Authenticators::new(&words)
}

/// Returns the tags of all lanes, computed `step` blocks at a time. Element i of `blocks` holds block i of
/// every lane.
#[target_feature(enable = "avx512f,avx512ifma,avx512vbmi2")]
fn by_lanes(r: [u128; LANES], s: [u128; LANES], blocks: &[[u128; LANES]], step: usize) -> [[u8; TAG]; LANES] {
    let mut authenticators = authenticators(r, s);
    let blocks: Vec<Block> = blocks.iter().map(|block| pair(*block)).collect();
    for blocks in blocks.chunks(step) {
        authenticators.blocks(blocks);
    }
    authenticators.finish()
}

fn is_there() -> bool {
    let there = Avx512::detect().is_some();
    if !there {
        eprintln!("skipped: this CPU does not support the AVX-512 implementation");
    }
    there
}

/// Numbers at edges: near the ends of limbs and halves, near 2^128, and random ones.
fn edge() -> impl Strategy<Value = u128> + Clone {
    let near = (prop::sample::select(vec![0_u32, 1, 32, 44, 63, 64, 88, 96, 127]), -8..8_i128)
        .prop_map(|(bit, by)| (1_u128 << bit).wrapping_add_signed(by));
    prop_oneof![
        3 => near,
        2 => Just(u128::MAX),
        1 => Just(CLAMP),
        1 => (0..128_u32).prop_map(|bits| u128::MAX >> bits),
        1 => (0..128_u32).prop_map(|bits| u128::MAX << bits),
        2 => any::<u128>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_lane_has_the_tag_of_its_own_key_and_text(
        r in prop::array::uniform8(edge()),
        s in prop::array::uniform8(edge()),
        blocks in prop::collection::vec(prop::array::uniform8(edge()), 0..14),
    ) {
        if is_there() {
            let expected: [_; LANES] = std::array::from_fn(|lane| {
                let text: Vec<u128> = blocks.iter().map(|block| block[lane]).collect();
                modelled(r[lane], s[lane], &text).to_le_bytes()
            });
            for step in 1..=4 {
                // SAFETY: `is_there` checked that the CPU has the features the function enables.
                prop_assert_eq!(unsafe { by_lanes(r, s, &blocks, step) }, expected);
            }
        }
    }

    #[test]
    fn a_sum_of_products_is_right_and_within_its_bounds_for_all_limbs_that_are_allowed(
        x in prop::array::uniform8(reduced_limbs()),
        factors in prop::array::uniform4(prop::array::uniform8(reduced_limbs())),
        blocks in prop::array::uniform4(prop::array::uniform8(edge())),
    ) {
        if is_there() {
            // SAFETY: `is_there` checked that the CPU has the features the function enables.
            unsafe { check_sum(x, &factors, &blocks) };
        }
    }
}

/// Limbs in the range of a reduced number, often the largest.
fn reduced_limbs() -> impl Strategy<Value = [u64; 3]> + Clone {
    let limb = |largest: u64| prop_oneof![2 => Just(largest), 1 => 0..=largest, 1 => Just(0)];
    (limb((1 << 44) - 1), limb((1 << 44) + (1 << 11) - 1), limb((1 << 42) - 1))
        .prop_map(|(a, b, c)| [a, b, c])
        // Otherwise the value trees of 40 of them overflow the stack of a test with little optimisation.
        .boxed()
}

fn number_of([a, b, c]: [u64; 3]) -> Number {
    let at = |limb: u64, by: u32| {
        let limb = u128::from(limb);
        Number::new(limb << by, if by == 0 { 0 } else { limb >> (128 - by) })
    };
    at(a, 0).plus(at(b, 44)).plus(at(c, 88))
}

#[target_feature(enable = "avx512f,avx512ifma,avx512vbmi2")]
fn check_sum(x: [[u64; 3]; LANES], factors: &[[[u64; 3]; LANES]; 4], blocks: &[[u128; LANES]; 4]) {
    let registers = |limbs: [[u64; 3]; LANES]| [0, 1, 2].map(|i| each(limbs.map(|limbs| limbs[i])));
    let mut authenticators = authenticators([0; LANES], [0; LANES]);
    authenticators.accumulator = registers(x);
    // The first block is multiplied by r^4, the last by r.
    authenticators.powers = factors.map(|factor| Factor::new(registers(factor)));
    authenticators.blocks(&blocks.map(|block| pair(block)));
    let after = authenticators.accumulator.map(|limb| lanes(limb));
    for lane in 0..LANES {
        let mut expected = Number::ZERO;
        let mut accumulator = number_of(x[lane]);
        for (block, factor) in blocks.iter().zip(factors.iter().rev()) {
            let number = accumulator.plus(Number { low: block[lane], high: 1 });
            let factor = number_of(factor[lane]);
            // The factor has up to 130 bits: the bits above 128 are multiplied separately.
            let high = number.times(factor.high).times(1 << 127);
            expected = expected.plus(number.times(factor.low)).plus(high.plus(high));
            accumulator = Number::ZERO;
        }
        let limbs = after.map(|limb| limb[lane]);
        assert_eq!(number_of(limbs), expected, "{:x?}", x[lane]);
        assert!(limbs[0] < 1 << 44 && limbs[1] < (1 << 44) + (1 << 11) && limbs[2] < 1 << 42, "{limbs:x?}");
    }
}

#[test]
fn the_last_subtraction_is_made_from_the_prime_on_and_s_is_added_modulo_2_to_the_128() {
    if !is_there() {
        return;
    }
    let (limb, top, loose) = ((1 << 44) - 1, (1 << 42) - 1, (1 << 44) + (1 << 11) - 1);
    // The prime has all limbs at their maximum, except the lowest, which is 4 less.
    let around_the_prime = (limb - 20..=limb).map(|low| [low, limb, top]);
    let around_2_to_the_130 = (0..20).map(|low| [low, limb + 1, top]);
    let others = [
        [0, 0, 0],
        [1, limb + 1, 1],
        [4, 0, 0],
        [limb, loose, top],
        [limb, limb + 1, top - 1],
        [0, loose, 0],
    ];
    let s = [0, 1, 5, u128::from(u64::MAX), 1 << 64, u128::MAX, u128::MAX - 4, 1 << 127];
    for h in around_the_prime.chain(around_2_to_the_130).chain(others) {
        // SAFETY: `is_there` checked that the CPU has the features the functions enable.
        let tags = unsafe {
            let mut authenticators = authenticators([0; LANES], s);
            authenticators.accumulator = h.map(|limb| each([limb; LANES]));
            authenticators.finish()
        };
        assert_eq!(tags, s.map(|s| number_of(h).low.wrapping_add(s).to_le_bytes()), "{h:x?}");
    }
}

#[test]
fn sums_of_blocks_around_the_prime_are_reduced() {
    if !is_there() {
        return;
    }
    // With r = 1, three blocks add up to 3 * 2^128 plus their sum.
    for rest in 0..20 {
        let blocks = [[u128::MAX - 10; LANES], [rest / 2; LANES], [rest - rest / 2; LANES]];
        // The sum equals the prime when `rest` is 6.
        let expected = if rest < 6 { u128::MAX - 10 + rest } else { rest - 6 };
        assert_eq!(modelled(1, 0, &blocks.map(|block| block[0])), expected);
        for step in 1..=3 {
            // SAFETY: `is_there` checked that the CPU has the features the function enables.
            let tags = unsafe { by_lanes([1; LANES], [0; LANES], &blocks, step) };
            assert_eq!(tags, [expected.to_le_bytes(); LANES], "{rest}");
        }
    }
}
