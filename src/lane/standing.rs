//! Standing queues: decides when the senders of bulk flows must be told to slow down.
//!
//! TCP fills whatever queue is in front of the slowest worker: the TUN's, or the receive buffer of a UDP socket. Both
//! are first in, first out, and too long to lose anything, so each flow gets what it has in the queue: a flow that left
//! slow start early stays slow, and every flow waits behind all others. No queueing discipline helps, since the TUN takes
//! packets from it at once and has a ring of its own (`tun_net_xmit` in Linux's `drivers/net/tun.c`).
//!
//! A queue that does not run empty for [`STANDING_AFTER`] *stands*: what waits in it adds delay and no throughput.
//! Packets of bulk flows are then marked (ECN) or dropped:
//!
//! - By default, those of peers that take more than their share, as `fairness.rs` finds, and of flows that react: TCP and
//!   ECN-capable ones.
//! - On request, those of all flows, one at a time and ever more often, until the queue runs empty. The times are those of
//!   `CoDel` (RFC 8289, section 3.3), which compares the time that each packet has waited with a target. That time is
//!   unknown here; the time since the queue was empty bounds it. A queue that runs empty costs wake-ups, and with them
//!   throughput.

use std::mem;
use std::time::Duration;

use super::fairness::Fairness;
use crate::packet::class::{ECN, traffic_class};
use crate::packet::{ip, protocol};
use crate::units::{Nanos, PeerId};

/// How long a queue must not run empty to stand. `CoDel` has 100 ms (RFC 8289, section 4.3), the longest usual round
/// trip.
pub const STANDING_AFTER: Duration = Duration::from_millis(20);

/// A pause this many intervals long forgets how often signals were needed, as in `CoDel`.
const REMEMBERED: u32 = 16;

/// Which bulk flows are slowed down while a queue stands (`LANEWAY_SHORT_QUEUES`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShortQueues {
    /// Those of peers that take more than their share.
    #[default]
    Auto,
    /// All, until the queue runs empty.
    On,
    /// None.
    Off,
}

/// Whether one queue stands, and when the next signal is due.
#[derive(Clone, Debug)]
pub struct StandingQueue {
    policy: ShortQueues,
    /// When the queue was first found not to be empty; never, if it was empty last.
    busy_since: Nanos,
    fairness: Fairness,
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
        Self { policy, busy_since: never, fairness: Fairness::new(), next: never, signals: 0, ended: never }
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

    /// Counts `bytes` from or to `peer`, and returns whether their sender must be told to slow down: the caller marks or
    /// drops one packet. Only bulk flows are told.
    #[inline]
    pub fn must_signal(&mut self, peer: PeerId, bytes: u64, is_bulk: bool, now: Nanos) -> bool {
        match self.policy {
            ShortQueues::Off => false,
            ShortQueues::On => is_bulk && self.stands(now) && self.is_due(now),
            ShortQueues::Auto => {
                self.fairness.count(peer, bytes, now);
                is_bulk && self.stands(now) && self.fairness.is_above(peer)
            }
        }
    }

    /// Returns whether `packet`, from or to a `peer` that must be told, is the one to mark or drop. By default it must be one
    /// that its sender reacts to: other flows would only lose packets.
    pub fn signals_by(&mut self, peer: PeerId, packet: &[u8]) -> bool {
        let reacts = self.policy == ShortQueues::On
            || traffic_class(packet) & ECN != 0
            || ip::transport(packet).is_some_and(|transport| transport.protocol == protocol::TCP);
        if reacts {
            self.fairness.note_told(peer);
        }
        reacts
    }

    #[inline]
    fn stands(&self, now: Nanos) -> bool {
        self.busy_since != Nanos::NEVER && now.since(self.busy_since) >= STANDING_AFTER
    }

    #[cold]
    fn is_due(&mut self, now: Nanos) -> bool {
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

    /// IPv4 headers of packets that are not ECN-capable.
    const TCP: [u8; 20] = header(6);
    const UDP: [u8; 20] = header(17);

    const fn header(protocol: u8) -> [u8; 20] {
        [0x45, 0, 0, 20, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]
    }

    /// A time in hundredths of [`STANDING_AFTER`].
    fn at(time: u64) -> Nanos {
        Nanos(1 << 40).after(STANDING_AFTER * time as u32 / 100)
    }

    /// Returns the times from `from` to `to` at which a bulk packet of one peer is signalled, in hundredths of
    /// [`STANDING_AFTER`].
    fn signals(queue: &mut StandingQueue, from: u64, to: u64) -> Vec<u64> {
        (from..to).filter(|time| is_told(queue, 1, 1 << 16, at(*time), &TCP)).collect()
    }

    /// Returns whether the sender of `packet`, one of a bulk flow, is told.
    fn is_told(queue: &mut StandingQueue, peer: u64, bytes: u64, now: Nanos, packet: &[u8]) -> bool {
        queue.must_signal(PeerId(peer), bytes, true, now) && queue.signals_by(PeerId(peer), packet)
    }

    /// Returns how many bulk packets are signalled of peers that send `bytes` each, all the time, into a queue that
    /// does not run empty.
    fn signals_of(policy: ShortQueues, bytes: &[u64]) -> Vec<usize> {
        let mut queue = StandingQueue::new(policy);
        let mut signals = vec![0; bytes.len()];
        for time in 0..10_000 {
            queue.note(false, at(time));
            for (peer, bytes) in bytes.iter().enumerate() {
                signals[peer] += usize::from(is_told(&mut queue, peer as u64, *bytes, at(time), &TCP));
            }
        }
        signals
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
    fn by_default_only_peers_above_their_share_are_slowed_down() {
        let auto = |bytes: &[u64]| signals_of(ShortQueues::Auto, bytes);
        // 2 s, that is 19 windows after the first.
        assert_eq!(auto(&[60_000, 9_000, 9_000]), [19, 0, 0]);
        assert_eq!(auto(&[9_000, 10_000, 9_000]), [0, 0, 0]);
        assert_eq!(auto(&[60_000]), [0]);
        assert_eq!(signals_of(ShortQueues::Off, &[60_000, 9_000, 9_000]), [0, 0, 0]);
        assert!(signals_of(ShortQueues::On, &[60_000])[0] > 100);
    }

    #[test]
    fn flows_that_do_not_react_are_not_told_in_place_of_those_that_do() {
        let mut queue = StandingQueue::new(ShortQueues::Auto);
        let mut told = [0, 0];
        for time in 0..10_000 {
            queue.note(false, at(time));
            told[0] += usize::from(is_told(&mut queue, 1, 60_000, at(time), &UDP));
            told[1] += usize::from(is_told(&mut queue, 1, 1_000, at(time), &TCP));
            assert!(!is_told(&mut queue, 2, 9_000, at(time), &TCP));
        }
        assert_eq!(told, [0, 19]);
        let mut marked = UDP;
        marked[1] = 1;
        queue.note(false, at(10_000));
        assert!((10_000..10_600).any(|time| is_told(&mut queue, 1, 60_000, at(time), &marked)));
    }

    #[test]
    fn small_packets_are_counted_and_never_signalled() {
        for policy in [ShortQueues::Auto, ShortQueues::On] {
            let mut queue = StandingQueue::new(policy);
            queue.note(false, at(0));
            for time in 0..10_000 {
                assert!(!queue.must_signal(PeerId(1), 60_000, false, at(time)), "{policy:?}");
                assert!(!queue.must_signal(PeerId(2), 9_000, false, at(time)), "{policy:?}");
            }
        }
    }

    #[test]
    fn nobody_is_slowed_down_while_the_queue_runs_empty() {
        let mut queue = StandingQueue::new(ShortQueues::Auto);
        for time in 0..10_000 {
            queue.note(time % 50 == 0, at(time));
            assert!(!queue.must_signal(PeerId(1), 60_000, true, at(time)));
            assert!(!queue.must_signal(PeerId(2), 9_000, true, at(time)));
        }
    }

    #[test]
    fn signals_that_were_not_due_to_anyone_are_not_made_up_for() {
        let mut queue = StandingQueue::new(ShortQueues::On);
        queue.note(false, at(1000));
        assert!(signals(&mut queue, 1000, 2000).len() > 5);
        // Then small packets alone.
        for time in 2000..52_000 {
            queue.must_signal(PeerId(1), 100, false, at(time));
        }
        let after = signals(&mut queue, 52_000, 52_100).len();
        assert!(after <= 2, "{after} signals in one interval");
    }
}
