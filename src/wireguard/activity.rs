//! Records of a peer's traffic: a few atomics that workers update once per batch, and from which the
//! protocol derives its deadlines when polled (whitepaper, section 6). An idle peer costs nothing,
//! and a busy one arms no timers.
//!
//! All accesses are relaxed. The times are compared with durations of seconds, so an update that is
//! seen late, or lost to a race between two workers, has no observable effect.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crossbeam::utils::CachePadded;

use crate::units::Nanos;

/// Times of a peer's traffic, across all its sessions.
#[derive(Debug, Default)]
pub struct Activity {
    sent: CachePadded<LastData>,
    received: CachePadded<LastData>,
}

/// One direction, mostly written by the workers that serve it.
#[derive(Debug, Default)]
struct LastData {
    last: AtomicU64,
    /// Time of the first data since the last authenticated packet in the other direction; 0 if none.
    waiting_since: AtomicU64,
}

/// A snapshot of [`Activity`]. [`Nanos::NEVER`] stands for "has not happened".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ActivityTimes {
    /// When data was first sent since the last authenticated message was received.
    pub unanswered_since: Nanos,
    /// When data was first received since the last authenticated message was sent.
    pub unacknowledged_since: Nanos,
    /// When an authenticated message was last sent.
    pub last_sent: Nanos,
    /// When an authenticated message was last received.
    pub last_received: Nanos,
}

impl Activity {
    /// Records that data was sealed and handed to the socket.
    #[inline]
    pub fn sent_data(&self, now: Nanos) {
        self.sent_keepalive(now);
        self.sent.starts_waiting(now);
    }

    /// Records that a keepalive was sealed and handed to the socket.
    #[inline]
    pub fn sent_keepalive(&self, now: Nanos) {
        self.sent.last.store(now.0, Relaxed);
        self.received.stops_waiting();
    }

    /// Records that authentic data was received.
    #[inline]
    pub fn received_data(&self, now: Nanos) {
        self.received_keepalive(now);
        self.received.starts_waiting(now);
    }

    /// Records that an authentic keepalive was received.
    #[inline]
    pub fn received_keepalive(&self, now: Nanos) {
        self.received.last.store(now.0, Relaxed);
        self.sent.stops_waiting();
    }

    /// Returns a snapshot of the recorded times.
    pub fn snapshot(&self) -> ActivityTimes {
        ActivityTimes {
            unanswered_since: Nanos(self.sent.waiting_since.load(Relaxed)),
            unacknowledged_since: Nanos(self.received.waiting_since.load(Relaxed)),
            last_sent: Nanos(self.sent.last.load(Relaxed)),
            last_received: Nanos(self.received.last.load(Relaxed)),
        }
    }

    /// Sets the recorded times to those of `times`.
    pub(super) fn restore(&self, times: ActivityTimes) {
        self.sent.waiting_since.store(times.unanswered_since.0, Relaxed);
        self.received.waiting_since.store(times.unacknowledged_since.0, Relaxed);
        self.sent.last.store(times.last_sent.0, Relaxed);
        self.received.last.store(times.last_received.0, Relaxed);
    }

    /// Records that a handshake message was sent. It acknowledges received data as data would.
    pub(super) fn sent_handshake(&self, now: Nanos) {
        self.sent_keepalive(now);
    }

    /// Records that an authenticated handshake message was received. It answers sent data as data
    /// would.
    pub(super) fn received_handshake(&self, now: Nanos) {
        self.received_keepalive(now);
    }

    /// Stops waiting for an answer. The next data sent starts a new wait.
    pub(super) fn forget_unanswered(&self) {
        self.sent.stops_waiting();
    }
}

impl LastData {
    // Both load before storing: steady traffic in both directions then writes nothing, and the cache
    // line stays with the worker that serves this direction.

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
        assert_eq!(activity.snapshot().unacknowledged_since, Nanos::NEVER, "a keepalive is not acknowledged");
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
