//! Standing queues: decides when the sender of a bulk flow must be told to slow down.
//!
//! TCP fills whatever queue is in front of the slowest worker: a TUN's queue, whose length nobody outside the kernel
//! knows, or the receive buffer of a UDP socket. Neither is managed by a queueing discipline (`tun_net_xmit` in
//! Linux's `drivers/net/tun.c` has taken the packet from it, and drops only if its ring is full). A queue that does
//! not run empty for [`INTERVAL`] stands: it adds delay and carries nothing more. Then one packet after the other is
//! marked or dropped, at the rate of CoDel (RFC 8289, section 3.3), until the queue runs empty. CoDel compares the
//! time each packet has waited with a target, which here is unknown; the time since the queue was empty bounds it.

use std::time::Duration;

use crate::units::{Nanos, PeerId};

/// How long a queue may be without running empty (RFC 8289, section 4.3).
pub const INTERVAL: Duration = Duration::from_millis(100);

/// Packets shorter than this, in bytes, are not marked or dropped: they are acknowledgements, requests and the like,
/// whose loss costs more than it shortens the queue.
pub const BULK_BYTES: usize = 1000;

/// What is known about one queue.
#[derive(Clone, Debug, Default)]
pub struct StandingQueue {
    /// When the queue was last known to be empty; never while it is.
    busy_since: Nanos,
    /// When the next signal is due, while the queue stands.
    next: Nanos,
    /// Signals since the queue began to stand.
    signals: u32,
    interval: Duration,
    /// Bytes of each peer since `counted_since`, by slot modulo the length.
    shares: Shares,
    afd: bool,
}

#[derive(Clone, Debug)]
struct Shares {
    since: Nanos,
    bytes: [u64; 64],
    total: u64,
    peers: u64,
}

impl Default for Shares {
    fn default() -> Self {
        Self { since: Nanos::NEVER, bytes: [0; 64], total: 0, peers: 0 }
    }
}

impl Shares {
    /// Counts `bytes` of `peer`. Returns whether the peer has had at least its share.
    fn count(&mut self, peer: PeerId, bytes: usize, now: Nanos, interval: Duration) -> bool {
        if now.since(self.since) > interval {
            *self = Self { since: now, ..Self::default() };
        }
        let of_peer = &mut self.bytes[peer.slot() % 64];
        self.peers += u64::from(*of_peer == 0);
        *of_peer += bytes as u64;
        self.total += bytes as u64;
        *of_peer * self.peers >= self.total
    }
}

impl StandingQueue {
    pub fn from_env(name: &str) -> Self {
        let ms = std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        let afd = std::env::var("FAIR_AFD").is_ok();
        Self { interval: Duration::from_millis(ms), afd, ..Self::default() }
    }

    /// Records how reading the queue has ended: whether it was empty then.
    #[inline]
    pub fn note(&mut self, empty: bool, now: Nanos) {
        if empty {
            self.busy_since = Nanos::NEVER;
        } else if self.busy_since == Nanos::NEVER {
            self.busy_since = now;
        }
    }

    /// Returns whether the bulk packet in hand must be marked or dropped.
    #[inline]
    pub fn must_signal(&mut self, peer: PeerId, bytes: usize, now: Nanos) -> bool {
        if self.interval.is_zero() || self.busy_since == Nanos::NEVER {
            return false;
        }
        let due = self.shares.count(peer, bytes, now, self.interval) || !self.afd;
        if now.since(self.busy_since) < self.interval || !due {
            return false;
        }
        self.stands(now)
    }

    #[cold]
    fn stands(&mut self, now: Nanos) -> bool {
        if self.next < self.busy_since {
            // It stands again. If it did so a moment ago, the rate that helped then is resumed.
            let recently = self.busy_since.since(self.next) < 16 * self.interval;
            self.signals = if recently { self.signals.saturating_sub(2) } else { 0 };
            self.next = now;
        }
        if now < self.next {
            return false;
        }
        self.signals = self.signals.saturating_add(1);
        let pause = self.interval.as_nanos() as f64 / f64::from(self.signals).sqrt();
        self.next = self.next.after(Duration::from_nanos(pause as u64));
        true
    }
}
