//! Fairness between peers: finds those that take more than their share of a queue.
//!
//! All peers share the kernel's queues, which are first in, first out, and rarely overflow. The rate of a TCP flow is
//! then proportional to the bytes that it has in the queue. A flow that left slow start because the queue was long already
//! has few, and takes minutes to get more. A queue per peer would be fair by itself, but the kernel has none.
//!
//! So peers above their share are slowed down, by one packet in each [`WINDOW`], while the queue stands. It becomes shorter,
//! which makes the other peers faster at once. Unlike signals until the queue runs empty, this costs no throughput: once
//! the shares are even, there are no more signals.

use std::time::Duration;

use crate::units::{Nanos, PeerId};

/// How long bytes are counted until shares are judged. Shares of several superpackets (64 KiB) say something, and a loss
/// needs a round trip to be felt.
const WINDOW: Duration = Duration::from_millis(100);

/// How many counters there are. More peers have them in common, so that two of them can be taken for one with twice
/// the share.
const COUNTERS: usize = 64;

/// The bytes in a window from which a peer counts, 1.3 Mbit/s: peers that only exchange small packets must not
/// lower the mean.
const COUNTED: u64 = 16 * 1024;

/// How many bytes peers have sent through one queue, and which of them take more than their share.
#[derive(Clone, Debug)]
pub(super) struct Fairness {
    bytes: Box<[u64; COUNTERS]>,
    /// A bit for each counter of a peer that has not been told since it was found above its share.
    above: u64,
    /// When the window began.
    since: Nanos,
}

impl Fairness {
    /// Creates the counters of an unused queue.
    pub(super) fn new() -> Self {
        Self { bytes: Box::new([0; COUNTERS]), above: 0, since: Nanos::NEVER }
    }

    /// Counts `bytes` of `peer`.
    #[inline]
    pub(super) fn count(&mut self, peer: PeerId, bytes: u64, now: Nanos) {
        if self.since == Nanos::NEVER || now.since(self.since) >= WINDOW {
            self.judge(now);
        }
        self.bytes[counter(peer)] += bytes;
    }

    /// Returns whether `peer` was above its share in the last window, and has not been told.
    #[inline]
    pub(super) fn is_above(&self, peer: PeerId) -> bool {
        self.above & (1 << counter(peer)) != 0
    }

    /// Notes that `peer` has been told.
    pub(super) fn note_told(&mut self, peer: PeerId) {
        self.above &= !(1 << counter(peer));
    }

    /// Ends a window: peers with more than 5/4 of the mean are above their share.
    #[cold]
    fn judge(&mut self, now: Nanos) {
        let counted = self.bytes.iter().filter(|bytes| **bytes >= COUNTED);
        let (peers, total) = counted.fold((0, 0), |(peers, total), bytes| (peers + 1, total + bytes));
        // A window that was not judged in time says nothing about now.
        let timely = self.since != Nanos::NEVER && now.since(self.since) < 2 * WINDOW;
        self.above = 0;
        for (index, bytes) in self.bytes.iter_mut().enumerate() {
            if timely && *bytes >= COUNTED && *bytes * peers * 4 > total * 5 {
                self.above |= 1 << index;
            }
            *bytes = 0;
        }
        self.since = now;
    }
}

/// Returns the index of the counter of `peer`.
fn counter(peer: PeerId) -> usize {
    peer.0 as usize % COUNTERS
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEGABYTE: u64 = 1 << 20;

    /// Lets peers 1, 2, … send `bytes` each through a window, and returns those above their share in it.
    fn above(fairness: &mut Fairness, from: Nanos, bytes: &[u64]) -> Vec<u64> {
        for (peer, bytes) in (1..).zip(bytes) {
            fairness.count(PeerId(peer), *bytes, from);
        }
        fairness.count(PeerId(1), 0, from.after(WINDOW));
        (1..=bytes.len() as u64).filter(|peer| fairness.is_above(PeerId(*peer))).collect()
    }

    #[test]
    fn peers_with_more_than_five_quarters_of_the_mean_are_found() {
        let begin = Nanos(1 << 40);
        for (bytes, expected) in [
            (&[4 * MEGABYTE, MEGABYTE, MEGABYTE, MEGABYTE][..], &[1][..]),
            (&[3 * MEGABYTE, 3 * MEGABYTE, MEGABYTE / 2, MEGABYTE / 2, MEGABYTE / 2], &[1, 2]),
            (&[MEGABYTE, MEGABYTE, MEGABYTE], &[]),
            (&[4 * MEGABYTE, 5 * MEGABYTE], &[]),
            (&[9 * MEGABYTE], &[]),
        ] {
            assert_eq!(above(&mut Fairness::new(), begin, bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn peers_that_send_little_do_not_count() {
        let little = COUNTED - 1;
        assert_eq!(above(&mut Fairness::new(), Nanos(1 << 40), &[9 * MEGABYTE, little, little]), [0; 0]);
    }

    #[test]
    fn a_peer_is_above_its_share_once_a_window() {
        let (mut fairness, begin) = (Fairness::new(), Nanos(1 << 40));
        let bytes = [4 * MEGABYTE, MEGABYTE, MEGABYTE];
        assert_eq!(above(&mut fairness, begin, &bytes), [1]);
        fairness.note_told(PeerId(1));
        assert!(!fairness.is_above(PeerId(1)));
        assert_eq!(above(&mut fairness, begin.after(WINDOW), &bytes), [1]);
    }

    #[test]
    fn shares_of_long_ago_are_not_judged() {
        let (mut fairness, begin) = (Fairness::new(), Nanos(1 << 40));
        fairness.count(PeerId(1), 9 * MEGABYTE, begin);
        fairness.count(PeerId(2), MEGABYTE, begin);
        fairness.count(PeerId(3), MEGABYTE, begin.after(2 * WINDOW));
        assert!(!fairness.is_above(PeerId(1)));
    }

    #[test]
    fn more_peers_than_counters_share_them() {
        let mut fairness = Fairness::new();
        let begin = Nanos(1 << 40);
        for peer in 0..10 * COUNTERS as u64 {
            fairness.count(PeerId(peer), MEGABYTE, begin);
        }
        fairness.count(PeerId(0), 0, begin.after(WINDOW));
        assert!((0..10 * COUNTERS as u64).all(|peer| !fairness.is_above(PeerId(peer))));
    }
}
