//! Counts of sends and receives on a lane's socket, published once per batch.

use crate::counts::Counts;
use crate::errnos::ErrnoCounts;

/// Highest number of datagrams per send or message that has a counter of its own: the kernel's limit for
/// one GSO send (`UDP_MAX_SEGMENTS`, 128 since Linux 6.9).
pub const COUNTED_SEGMENTS: usize = 128;

/// Counts of a [`Sender`](super::Sender) since they were last published.
#[derive(Clone, Debug, Default)]
pub struct SendTally {
    /// Completed sends, by number of datagrams.
    pub runs: SegmentCounts,
    /// Bytes of the datagrams sent.
    pub bytes: u64,
    /// Refused sends by errno, including those that succeeded when retried.
    pub errors: ErrnoCounts,
    /// Times that GSO was disabled, by errno: at most once per sender.
    pub gso_disabled: ErrnoCounts,
}

/// Counts of a [`Receiver`](super::Receiver) since they were last published.
#[derive(Clone, Debug, Default)]
pub struct ReceiveTally {
    /// Receives that returned at least one message.
    pub batches: u64,
    /// Messages by number of datagrams. Empty and truncated messages are excluded: the lane counts them
    /// as drops.
    pub messages: SegmentCounts,
    /// Bytes of the datagrams in these messages.
    pub bytes: u64,
    /// Receives that failed, by errno, with the socket still usable.
    pub errors: ErrnoCounts,
}

/// Counts by number of datagrams.
#[derive(Clone, Debug, Default)]
pub struct SegmentCounts(Counts<{ COUNTED_SEGMENTS + 1 }>);

impl SegmentCounts {
    /// Counts one send or message of `segments` datagrams, or of [`COUNTED_SEGMENTS`] if there are more.
    #[inline]
    pub fn add(&mut self, segments: usize) {
        self.0.add(segments.min(COUNTED_SEGMENTS), 1);
    }

    /// Returns the count for `segments` datagrams.
    ///
    /// # Panics
    /// If `segments` is more than [`COUNTED_SEGMENTS`].
    pub fn of(&self, segments: usize) -> u64 {
        self.0.of(segments)
    }

    /// Returns the sum of all counts.
    pub fn total(&self) -> u64 {
        self.0.total()
    }

    /// Calls `each` with the number of datagrams and the count, for every nonzero count, and resets it to
    /// zero.
    pub fn take(&mut self, each: impl FnMut(usize, u64)) {
        self.0.take(each);
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
        assert_eq!(counts.total(), 0);
    }
}
