//! The test pattern the generator sends. Each byte is a function of its stream and offset, so the receiver
//! verifies a whole read with one `memcmp`.

/// Length of the pattern in bytes. A prime, so that data shifted by a whole number of segments, superpackets or
/// pages is detected.
const PERIOD: usize = 262_147;

/// Length of the slices that [`Pattern::at`] returns, in bytes.
pub const PIECE: usize = 128 * 1024;

/// One block of bytes shared by all streams; each stream starts at its own offset into it.
#[derive(Debug)]
pub struct Pattern {
    /// `PERIOD` bytes followed by the first `PIECE` of them again, so that every piece is contiguous.
    bytes: Vec<u8>,
}

impl Pattern {
    /// Generates the block: 384 KiB, the same in every process.
    pub fn new() -> Pattern {
        let mut state = 0_u64;
        let mut bytes: Vec<u8> =
            (0..PERIOD.div_ceil(8)).flat_map(|_| next(&mut state).to_le_bytes()).collect();
        bytes.truncate(PERIOD);
        bytes.extend_from_within(..PIECE);
        Pattern { bytes }
    }

    /// Returns the [`PIECE`] bytes that stream number `stream` carries from byte `offset` on.
    pub fn at(&self, stream: u16, offset: u64) -> &[u8] {
        let mut state = u64::from(stream);
        let start = next(&mut state) % PERIOD as u64;
        let phase = ((start + offset % PERIOD as u64) % PERIOD as u64) as usize;
        &self.bytes[phase..phase + PIECE]
    }

    /// Compares `found` with what stream `stream` carries from `offset` on. Returns the offset in the stream of the
    /// first byte that differs.
    ///
    /// # Panics
    /// If `found` is longer than [`PIECE`].
    pub fn first_wrong(&self, stream: u16, offset: u64, found: &[u8]) -> Option<u64> {
        let expected = &self.at(stream, offset)[..found.len()];
        if expected == found {
            return None;
        }
        let agree = expected.iter().zip(found).take_while(|(expected, found)| expected == found).count();
        Some(offset + agree as u64)
    }
}

impl Default for Pattern {
    fn default() -> Pattern {
        Pattern::new()
    }
}

/// The `SplitMix64` generator (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut word = *state;
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_join_into_one_stream(stream: u16, offset in 0..u64::from(u32::MAX), step in 0..PIECE) {
            let pattern = Pattern::new();
            let (here, there) = (pattern.at(stream, offset), pattern.at(stream, offset + step as u64));
            prop_assert_eq!(&here[step..], &there[..PIECE - step]);
        }

        #[test]
        fn a_single_wrong_bit_is_found_where_it_is(stream: u16, offset: u64, at in 0..PIECE, bit in 0..8_u8) {
            let (pattern, offset) = (Pattern::new(), offset >> 1);
            let mut piece = pattern.at(stream, offset).to_vec();
            prop_assert_eq!(pattern.first_wrong(stream, offset, &piece), None);
            piece[at] ^= 1 << bit;
            prop_assert_eq!(pattern.first_wrong(stream, offset, &piece), Some(offset + at as u64));
        }

        #[test]
        fn data_moved_by_whole_segments_or_taken_from_another_stream_is_seen(segments in 1..180_u64) {
            let pattern = Pattern::new();
            for size in [1_368, 1_420, 1_448, 4_096] {
                let moved = &pattern.at(0, segments * size)[..size as usize];
                prop_assert!(pattern.first_wrong(0, 0, moved).is_some());
            }
            let other = &pattern.at(segments as u16, 0)[..1_368];
            prop_assert!(pattern.first_wrong(0, 0, other).is_some());
        }
    }
}
