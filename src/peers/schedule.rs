//! Per-peer timer queue.

use std::collections::{BTreeSet, HashMap};

use crate::units::{Nanos, PeerId};

/// At most one timer for each peer. A peer without a timer costs nothing.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    due: BTreeSet<(Nanos, PeerId)>,
    of_peer: HashMap<PeerId, Nanos>,
}

impl Schedule {
    /// Sets the timer of `peer`, or cancels it with `None`.
    pub(crate) fn set(&mut self, peer: PeerId, next: Option<Nanos>) {
        let previous = match next {
            Some(next) => {
                self.due.insert((next, peer));
                self.of_peer.insert(peer, next)
            }
            None => self.of_peer.remove(&peer),
        };
        if let Some(previous) = previous.filter(|previous| Some(*previous) != next) {
            self.due.remove(&(previous, peer));
        }
    }

    /// Returns when the next timer expires.
    pub(crate) fn next(&self) -> Option<Nanos> {
        self.due.first().map(|(when, _)| *when)
    }

    /// Takes the next timer that has expired at `now`. Returns its peer.
    pub(crate) fn take_due(&mut self, now: Nanos) -> Option<PeerId> {
        let (when, peer) = *self.due.first()?;
        if when > now {
            return None;
        }
        self.set(peer, None);
        Some(peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_come_in_the_order_of_their_moments_and_the_last_word_counts() {
        let mut schedule = Schedule::default();
        for (peer, when) in [(7, 30), (1, 10), (2, 20), (1, 40)] {
            schedule.set(PeerId(peer), Some(Nanos(when)));
        }
        schedule.set(PeerId(2), None);
        assert_eq!(schedule.next(), Some(Nanos(30)));
        assert_eq!(schedule.take_due(Nanos(29)), None);
        let order: Vec<_> = std::iter::from_fn(|| schedule.take_due(Nanos(99))).collect();
        assert_eq!((order, schedule.next()), (vec![PeerId(7), PeerId(1)], None));
    }
}
