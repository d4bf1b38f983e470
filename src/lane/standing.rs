//! Standing queues: decides when the senders of bulk flows must be told to slow down.
//!
//! TCP fills whatever queue is in front of the slowest worker: the TUN's, or the receive buffer of a UDP socket. Both
//! are first in, first out, and too long to lose anything, so each flow gets what it has in the queue: a flow that left
//! slow start early stays slow, and every flow waits behind all others. No queueing discipline helps, since the TUN takes
//! packets from it at once and has a ring of its own (`tun_net_xmit` in Linux's `drivers/net/tun.c`).
//!
//! A queue that does not run empty for [`STANDING_AFTER`] *stands*: what waits in it adds delay and no throughput.
//! Packets of bulk flows are then marked (ECN) or dropped, one at a time and ever more often, until the queue runs empty.
//! The times are those of `CoDel` (RFC 8289, section 3.3), which compares the time that each packet has waited with a
//! target. That time is unknown here; the time since the queue was empty bounds it.
//!
//! A queue that runs empty costs wake-ups, and with them throughput, so this is off by default.

use std::mem;
use std::time::Duration;

use crate::units::{Nanos, PeerId};

/// How long a queue must not run empty to stand. `CoDel` has 100 ms (RFC 8289, section 4.3), the longest usual round
/// trip. With that, shares of peers take seconds to become even.
pub const STANDING_AFTER: Duration = Duration::from_millis(20);

/// How long a peer's bulk flow counts as present after its last packet. Longer than [`STANDING_AFTER`], since peers with
/// small shares have few packets in a queue.
const PRESENT: Duration = Duration::from_millis(100);

/// A pause this many intervals long forgets how often signals were needed, as in `CoDel`.
const REMEMBERED: u32 = 16;

/// Whether bulk flows are slowed down to keep queues short (`LANEWAY_SHORT_QUEUES`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShortQueues {
    /// While several peers have bulk flows in a queue.
    Auto,
    /// Always.
    On,
    /// Never.
    #[default]
    Off,
}

/// Whether one queue stands, and when the next signal is due.
#[derive(Clone, Debug)]
pub struct StandingQueue {
    policy: ShortQueues,
    /// When the queue was first found not to be empty; never, if it was empty last.
    busy_since: Nanos,
    /// The peer of the last bulk packet.
    peer: Option<PeerId>,
    /// When bulk packets of two peers last came one after the other.
    mixed: Nanos,
    /// When the next signal is due; never, if there was none since the queue was empty.
    next: Nanos,
    /// The number of signals, which makes the next ones more frequent.
    signals: u32,
    /// When the next signal would have been due as the queue ran empty.
    ended: Nanos,
}

impl StandingQueue {
    /// Creates the record of an empty queue.
    pub fn new(policy: ShortQueues) -> Self {
        let never = Nanos::NEVER;
        Self { policy, busy_since: never, peer: None, mixed: never, next: never, signals: 0, ended: never }
    }

    /// Records whether the queue was empty when it was last read, at `now`.
    #[inline]
    pub fn note(&mut self, is_empty: bool, now: Nanos) {
        if is_empty {
            self.busy_since = Nanos::NEVER;
            self.end();
        } else if self.busy_since == Nanos::NEVER {
            self.busy_since = now;
        }
    }

    /// Returns whether the sender of a bulk packet from or to `peer` must be told to slow down: the caller marks or drops
    /// the packet.
    #[inline]
    pub fn must_signal(&mut self, peer: PeerId, now: Nanos) -> bool {
        if self.policy == ShortQueues::Off {
            return false;
        }
        if self.peer.replace(peer).is_some_and(|last| last != peer) {
            self.mixed = now;
        }
        self.busy_since != Nanos::NEVER && now.since(self.busy_since) >= STANDING_AFTER && self.is_due(now)
    }

    #[cold]
    fn is_due(&mut self, now: Nanos) -> bool {
        let applies = self.policy == ShortQueues::On || now.since(self.mixed) < PRESENT;
        if !applies {
            self.end();
            return false;
        }
        // Without bulk packets for a while, signals that were due then are not made up for.
        if now.since(self.next) > STANDING_AFTER {
            self.end();
        }
        if self.next == Nanos::NEVER {
            // Soon after the last time, begin with nearly the rate that was needed then.
            let is_recent = now.since(self.ended) < REMEMBERED * STANDING_AFTER;
            self.signals = if is_recent { self.signals.saturating_sub(2) } else { 0 };
            self.next = now;
        }
        if now < self.next {
            return false;
        }
        self.signals = self.signals.saturating_add(1);
        self.next = self.next.after(STANDING_AFTER.div_f64(f64::from(self.signals).sqrt()));
        true
    }

    /// Ends a series of signals.
    fn end(&mut self) {
        if self.next != Nanos::NEVER {
            self.ended = mem::replace(&mut self.next, Nanos::NEVER);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A time in hundredths of [`STANDING_AFTER`].
    fn at(time: u64) -> Nanos {
        Nanos(1 << 40).after(STANDING_AFTER * time as u32 / 100)
    }

    /// Returns the times from `from` to `to` at which a signal is due to one peer, in hundredths of [`STANDING_AFTER`].
    fn signals(queue: &mut StandingQueue, from: u64, to: u64) -> Vec<u64> {
        (from..to).filter(|time| queue.must_signal(PeerId(1), at(*time))).collect()
    }

    #[test]
    fn a_queue_that_runs_empty_now_and_then_does_not_stand() {
        let mut queue = StandingQueue::new(ShortQueues::On);
        for begin in (100..5000).step_by(100) {
            queue.note(false, at(begin));
            assert_eq!(signals(&mut queue, begin, begin + 100), [0; 0]);
            queue.note(true, at(begin + 99));
        }
    }

    #[test]
    fn signals_become_more_frequent_until_the_queue_runs_empty() {
        let mut queue = StandingQueue::new(ShortQueues::On);
        queue.note(false, at(1000));
        queue.note(false, at(1050));
        // The interval divided by the roots of 1, 2, 3, 4.
        assert_eq!(signals(&mut queue, 1000, 1400), [1100, 1200, 1271, 1329, 1379]);
        queue.note(true, at(1400));
        assert_eq!(signals(&mut queue, 1400, 3000), [0; 0]);
    }

    #[test]
    fn the_rate_that_was_needed_is_remembered_for_a_while() {
        let mut queue = StandingQueue::new(ShortQueues::On);
        for (from, to, expected) in [
            (1000, 1400, &[1100, 1200, 1271, 1329, 1379][..]),
            (1410, 1650, &[1510, 1560, 1605, 1646]),
            (5000, 5250, &[5100, 5200]),
        ] {
            queue.note(false, at(from));
            assert_eq!(signals(&mut queue, from, to), expected);
            queue.note(true, at(to));
        }
    }

    #[test]
    fn with_auto_only_peers_that_share_a_queue_are_slowed_down() {
        let both = |policy| {
            let mut queue = StandingQueue::new(policy);
            queue.note(false, at(1000));
            let alone = signals(&mut queue, 1100, 2000).len();
            let mut shared = 0;
            for time in 2000..3000 {
                shared += usize::from(queue.must_signal(PeerId(time % 2), at(time)));
            }
            (alone > 0, shared > 0)
        };
        assert_eq!(both(ShortQueues::Auto), (false, true));
        assert_eq!(both(ShortQueues::On), (true, true));
        assert_eq!(both(ShortQueues::Off), (false, false));
    }

    #[test]
    fn signals_that_were_not_due_to_anyone_are_not_made_up_for() {
        for policy in [ShortQueues::Auto, ShortQueues::On] {
            let mut queue = StandingQueue::new(policy);
            queue.note(false, at(1000));
            let shared = |queue: &mut StandingQueue, from: u64, to: u64| {
                (from..to).filter(|time| queue.must_signal(PeerId(time % 2), at(*time))).count()
            };
            assert!(shared(&mut queue, 1000, 2000) > 5);
            // One peer alone with `auto`, or small packets alone.
            if policy == ShortQueues::Auto {
                signals(&mut queue, 2000, 52_000);
            }
            let after = shared(&mut queue, 52_000, 52_100);
            assert!(after <= 2, "{policy:?}: {after} signals in one interval");
        }
    }

    #[test]
    fn a_peer_is_present_for_a_while() {
        let mut queue = StandingQueue::new(ShortQueues::Auto);
        queue.note(false, at(1000));
        assert!(!queue.must_signal(PeerId(2), at(1000)));
        let last = signals(&mut queue, 1100, 3000).last().copied();
        let until = 1100 + PRESENT.as_nanos() as u64 * 100 / STANDING_AFTER.as_nanos() as u64;
        assert!(last.is_some_and(|last| last < until && last + 100 > until), "{last:?}, {until}");
    }
}
