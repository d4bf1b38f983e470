//! What a lane counts about its socket: plain numbers that it publishes once per batch.

use crate::errnos::ErrnoCounts;

/// The longest run that is counted by its own length, in segments: what the kernel allows at most in
/// one grouped send (`UDP_MAX_SEGMENTS`, 128 since Linux 6.9).
pub const COUNTED_SEGMENTS: usize = 128;

/// What a [`Sender`](super::Sender) has done since its tally was last published.
#[derive(Clone, Debug, Default)]
pub struct SendTally {
    /// Sends that the kernel took, by how many datagrams each held.
    pub runs: SegmentCounts,
    /// Bytes of the datagrams that the kernel took.
    pub bytes: u64,
    /// Sends that the kernel refused. One that did better when tried again is here too.
    pub errors: ErrnoCounts,
    /// How often grouped sends were given up, by the errno that led to it: at most one.
    pub gso_disabled: ErrnoCounts,
}

/// What a [`Receiver`](super::Receiver) has done since its tally was last published.
#[derive(Clone, Debug, Default)]
pub struct ReceiveTally {
    /// System calls that found something.
    pub batches: u64,
    /// Messages by how many datagrams the kernel had grouped in each. Empty and truncated messages
    /// are not here: the lane drops them, and counts them as drops.
    pub messages: SegmentCounts,
    /// Bytes of those datagrams.
    pub bytes: u64,
    /// Receives that failed. None of them stops the socket.
    pub errors: ErrnoCounts,
}

/// Counts by length in segments.
#[derive(Clone, Debug)]
pub struct SegmentCounts([u64; COUNTED_SEGMENTS + 1]);

impl Default for SegmentCounts {
    fn default() -> Self {
        SegmentCounts([0; COUNTED_SEGMENTS + 1])
    }
}

impl SegmentCounts {
    /// Counts one of `segments`. What is longer than [`COUNTED_SEGMENTS`] counts as that long.
    #[inline]
    pub fn add(&mut self, segments: usize) {
        self.0[segments.min(COUNTED_SEGMENTS)] += 1;
    }

    /// How many there were of `segments`, at most [`COUNTED_SEGMENTS`].
    pub fn of(&self, segments: usize) -> u64 {
        self.0[segments]
    }

    /// How many there were of any length.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Hands over, as segments and count, and clears every count that is not zero.
    pub fn take(&mut self, mut each: impl FnMut(usize, u64)) {
        for (segments, count) in self.0.iter_mut().enumerate() {
            if *count != 0 {
                each(segments, std::mem::take(count));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_longer_than_any_known_kernel_makes_is_still_counted() {
        let mut counts = SegmentCounts::default();
        counts.add(1);
        counts.add(COUNTED_SEGMENTS + 1);
        let mut taken = Vec::new();
        counts.take(|segments, n| taken.push((segments, n)));
        assert_eq!(taken, [(1, 1), (COUNTED_SEGMENTS, 1)]);
    }
}
