//! What workers tell the protocol about a peer's traffic, without telling it anything: a few
//! atomics that they touch once per batch and that the timers are derived from when the protocol
//! looks (whitepaper, section 6). An idle peer costs nothing and a busy one sets no timer.
//!
//! All accesses are relaxed. The moments are compared with spans of seconds, so a batch that is
//! seen late or lost to a race between two workers changes nothing that anyone could observe.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam::utils::CachePadded;

use crate::units::Nanos;

/// The traffic of one peer, over all its sessions.
#[derive(Debug, Default)]
pub struct Activity {
    sent: CachePadded<Direction>,
    received: CachePadded<Direction>,
}

/// One direction, written mostly by the workers that serve it.
#[derive(Debug, Default)]
struct Direction {
    last: AtomicU64,
    /// The first data since the other direction last had an authenticated packet; 0 = none.
    waiting_since: AtomicU64,
}

/// What [`Activity`] held at one moment. [`Nanos::NEVER`] stands for "has not happened".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ActivityTimes {
    /// When the first data was sent since anything authenticated was received.
    pub unanswered_since: Nanos,
    /// When the first data was received since anything authenticated was sent.
    pub unacknowledged_since: Nanos,
    /// When anything authenticated was last sent.
    pub last_sent: Nanos,
    /// When anything authenticated was last received.
    pub last_received: Nanos,
}

impl Activity {
    /// Data was sealed and handed to the socket.
    #[inline]
    pub fn sent_data(&self, now: Nanos) {
        self.sent_keepalive(now);
        self.sent.starts_waiting(now);
    }

    /// A keepalive was sealed and handed to the socket.
    #[inline]
    pub fn sent_keepalive(&self, now: Nanos) {
        self.sent.last.store(now.0, Relaxed);
        self.received.stops_waiting();
    }

    /// Data was opened and found authentic.
    #[inline]
    pub fn received_data(&self, now: Nanos) {
        self.received_keepalive(now);
        self.received.starts_waiting(now);
    }

    /// A keepalive was opened and found authentic.
    #[inline]
    pub fn received_keepalive(&self, now: Nanos) {
        self.received.last.store(now.0, Relaxed);
        self.sent.stops_waiting();
    }

    /// What it holds now.
    pub fn snapshot(&self) -> ActivityTimes {
        ActivityTimes {
            unanswered_since: Nanos(self.sent.waiting_since.load(Relaxed)),
            unacknowledged_since: Nanos(self.received.waiting_since.load(Relaxed)),
            last_sent: Nanos(self.sent.last.load(Relaxed)),
            last_received: Nanos(self.received.last.load(Relaxed)),
        }
    }

    /// A handshake message went out, which acknowledges what was received as data would.
    pub(super) fn sent_handshake(&self, now: Nanos) {
        self.sent_keepalive(now);
    }

    /// An authenticated handshake message came in, which answers what was sent as data would.
    pub(super) fn received_handshake(&self, now: Nanos) {
        self.received_keepalive(now);
    }

    /// The protocol acts on the missing answer: the next data starts the wait anew.
    pub(super) fn forget_unanswered(&self) {
        self.sent.stops_waiting();
    }
}

impl Direction {
    // Both look before they write: in steady traffic there is nothing to write, and the cache line
    // stays with the worker that serves this direction.

    fn starts_waiting(&self, now: Nanos) {
        if self.waiting_since.load(Relaxed) == 0 {
            self.waiting_since.store(now.0, Relaxed);
        }
    }

    fn stops_waiting(&self) {
        if self.waiting_since.load(Relaxed) != 0 {
            self.waiting_since.store(0, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_unanswered_data_counts_not_the_last() {
        let activity = Activity::default();
        activity.sent_data(Nanos(10));
        activity.sent_data(Nanos(20));
        assert_eq!(activity.snapshot().unanswered_since, Nanos(10));
        assert_eq!(activity.snapshot().last_sent, Nanos(20));
        activity.received_keepalive(Nanos(30));
        assert_eq!(activity.snapshot().unanswered_since, Nanos::NEVER);
        assert_eq!(activity.snapshot().unacknowledged_since, Nanos::NEVER, "a keepalive wants no answer");
    }

    #[test]
    fn a_keepalive_acknowledges_data_and_asks_for_nothing() {
        let activity = Activity::default();
        activity.received_data(Nanos(10));
        activity.received_data(Nanos(20));
        assert_eq!(activity.snapshot().unacknowledged_since, Nanos(10));
        activity.sent_keepalive(Nanos(30));
        assert_eq!(
            activity.snapshot(),
            ActivityTimes { last_sent: Nanos(30), last_received: Nanos(20), ..Default::default() }
        );
    }
}
