//! Standing queues: decides when the senders of bulk flows must be told to slow down.
//!
//! TCP fills whatever queue is in front of the slowest worker: the TUN's, or the receive buffer of a UDP socket. Both
//! are first in, first out, and too long to lose anything, so each flow gets what it has in the queue: a flow that left
//! slow start early stays slow, and everybody waits for all. No queueing discipline helps, since the TUN takes packets
//! from it at once and has a ring of its own (`tun_net_xmit` in Linux's `drivers/net/tun.c`).
//!
//! A queue that does not run empty for an interval *stands*: what waits in it adds delay and no throughput. Packets of
//! bulk flows are then marked (ECN) or dropped, one at a time and ever more often, until the queue runs empty. The times
//! are those of CoDel (RFC 8289, section 3.3). CoDel compares the time that each packet has waited with a target. That
//! time is unknown here; the time since the queue was empty bounds it.

use std::mem;
use std::time::Duration;

use crate::units::Nanos;

/// Default of `LANEWAY_STANDING_QUEUE_MS`. CoDel's is 100 ms (RFC 8289, section 4.3), the longest usual round trip. With
/// that, shares of peers become even within seconds, and with this within a fraction of one.
pub const STANDING_AFTER: Duration = Duration::from_millis(20);

/// Maximum of `LANEWAY_STANDING_QUEUE_MS`.
pub const MAX_STANDING_AFTER: Duration = Duration::from_millis(1000);

/// A pause this many intervals long forgets how often signals were needed, as in CoDel.
const REMEMBERED: u32 = 16;

/// Whether one queue stands, and when the next signal is due.
#[derive(Clone, Debug)]
pub struct StandingQueue {
    /// How long a queue must not run empty to stand; zero if it never does.
    after: Duration,
    /// When the queue was first found not to be empty; never, if it was empty last.
    busy_since: Nanos,
    /// When the next signal is due; never, if there was none since the queue was empty.
    next: Nanos,
    /// The number of signals, which makes the next ones more frequent.
    signals: u32,
    /// When the next signal would have been due as the queue ran empty.
    ended: Nanos,
}

impl StandingQueue {
    /// Creates the record of an empty queue, which stands if it does not run empty for `after`, or never if that is zero.
    pub fn new(after: Duration) -> Self {
        let never = Nanos::NEVER;
        Self { after, busy_since: never, next: never, signals: 0, ended: never }
    }

    /// Records whether the queue was empty when it was last read, at `now`.
    #[inline]
    pub fn note(&mut self, is_empty: bool, now: Nanos) {
        if is_empty {
            self.busy_since = Nanos::NEVER;
            if self.next != Nanos::NEVER {
                self.ended = mem::replace(&mut self.next, Nanos::NEVER);
            }
        } else if self.busy_since == Nanos::NEVER {
            self.busy_since = now;
        }
    }

    /// Returns whether the sender of a bulk packet from the queue must be told to slow down: the caller marks or drops
    /// the packet.
    #[inline]
    pub fn must_signal(&mut self, now: Nanos) -> bool {
        self.busy_since != Nanos::NEVER
            && !self.after.is_zero()
            && now.since(self.busy_since) >= self.after
            && self.is_due(now)
    }

    #[cold]
    fn is_due(&mut self, now: Nanos) -> bool {
        if self.next == Nanos::NEVER {
            // Soon after the last time, begin with nearly the rate that was needed then.
            let is_recent = now.since(self.ended) < REMEMBERED * self.after;
            self.signals = if is_recent { self.signals.saturating_sub(2) } else { 0 };
            self.next = now;
        }
        if now < self.next {
            return false;
        }
        self.signals = self.signals.saturating_add(1);
        self.next = self.next.after(self.after.div_f64(f64::from(self.signals).sqrt()));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: u64 = 1_000_000;

    /// Returns the times in milliseconds from `from` to `to` at which a signal is due.
    fn signals(queue: &mut StandingQueue, from: u64, to: u64) -> Vec<u64> {
        (from..to).filter(|ms| queue.must_signal(Nanos(ms * MILLISECOND))).collect()
    }

    #[test]
    fn a_queue_that_runs_empty_now_and_then_does_not_stand() {
        let mut queue = StandingQueue::new(STANDING_AFTER);
        let after = STANDING_AFTER.as_millis() as u64;
        for round in 1..50 {
            let begin = round * after;
            queue.note(false, Nanos(begin * MILLISECOND));
            assert_eq!(signals(&mut queue, begin, begin + after), [0; 0]);
            queue.note(true, Nanos((begin + after - 1) * MILLISECOND));
        }
    }

    #[test]
    fn signals_become_more_frequent_until_the_queue_runs_empty() {
        let mut queue = StandingQueue::new(Duration::from_millis(100));
        queue.note(false, Nanos(1000 * MILLISECOND));
        queue.note(false, Nanos(1050 * MILLISECOND));
        // 100 ms divided by the roots of 1, 2, 3, 4.
        assert_eq!(signals(&mut queue, 1000, 1400), [1100, 1200, 1271, 1329, 1379]);
        queue.note(true, Nanos(1400 * MILLISECOND));
        assert_eq!(signals(&mut queue, 1400, 3000), [0; 0]);
        // Soon after that, the third interval comes first.
        queue.note(false, Nanos(1410 * MILLISECOND));
        assert_eq!(signals(&mut queue, 1410, 1650), [1510, 1560, 1605, 1646]);
        queue.note(true, Nanos(1650 * MILLISECOND));
        // Long after that, it begins anew.
        queue.note(false, Nanos(5000 * MILLISECOND));
        assert_eq!(signals(&mut queue, 5000, 5250), [5100, 5200]);
    }

    #[test]
    fn without_an_interval_no_queue_stands() {
        let mut queue = StandingQueue::new(Duration::ZERO);
        queue.note(false, Nanos(1));
        assert_eq!(signals(&mut queue, 1, 10_000), [0; 0]);
    }
}
