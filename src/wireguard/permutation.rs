//! A secret permutation of 32-bit numbers, which hides how session indices are allocated.
//!
//! Places in the session table are allocated one after the other. If they were visible in the indices, an
//! observer could link sessions of one peer across a change of its address, and count the sessions of a
//! router. The permutation is the block cipher Speck32/64 (Beaulieu et al., "The SIMON and SPECK Families
//! of Lightweight Block Ciphers", IACR ePrint 2013/404): it has exactly the size of an index and costs some
//! 20 nanoseconds, once per run of datagrams. Nothing else depends on its strength.

use zeroize::Zeroizing;

const ROUNDS: usize = 22;

/// A permutation chosen by a 64-bit key.
pub(super) struct Permutation(Zeroizing<[u16; ROUNDS]>);

impl Permutation {
    /// Expands `key`.
    pub(super) fn new(key: [u8; 8]) -> Self {
        let word = |at: usize| u16::from_le_bytes([key[at], key[at + 1]]);
        let mut rounds = Zeroizing::new([0; ROUNDS]);
        let mut others = [word(2), word(4), word(6)];
        let mut round = word(0);
        for (i, slot) in rounds.iter_mut().enumerate() {
            *slot = round;
            let other = &mut others[i % 3];
            *other = round.wrapping_add(other.rotate_right(7)) ^ i as u16;
            round = round.rotate_left(2) ^ *other;
        }
        Permutation(rounds)
    }

    /// Returns the image of `number`.
    pub(super) fn apply(&self, number: u32) -> u32 {
        let (mut x, mut y) = ((number >> 16) as u16, number as u16);
        for round in self.0.iter() {
            x = x.rotate_right(7).wrapping_add(y) ^ round;
            y = y.rotate_left(2) ^ x;
        }
        u32::from(x) << 16 | u32::from(y)
    }

    /// Returns the number whose image is `image`.
    #[inline]
    pub(super) fn invert(&self, image: u32) -> u32 {
        let (mut x, mut y) = ((image >> 16) as u16, image as u16);
        for round in self.0.iter().rev() {
            y = (y ^ x).rotate_right(2);
            x = (x ^ round).wrapping_sub(y).rotate_left(7);
        }
        u32::from(x) << 16 | u32::from(y)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_is_speck() {
        // Appendix C of the paper, Speck32/64: words from the last key word to the first.
        let words: [u16; 4] = [0x0100, 0x0908, 0x1110, 0x1918];
        let mut key = [0; 8];
        for (bytes, word) in key.chunks_exact_mut(2).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        assert_eq!(Permutation::new(key).apply(0x6574_694c), 0xa868_42f2);
    }

    proptest! {
        #[test]
        fn it_can_be_inverted(key: [u8; 8], number: u32) {
            let permutation = Permutation::new(key);
            prop_assert_eq!(permutation.invert(permutation.apply(number)), number);
        }
    }
}
