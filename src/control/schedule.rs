//! When what about which peer is due.

use std::collections::BTreeSet;

use crate::units::{Nanos, PeerId};

/// At most one moment for each peer. A peer without one costs nothing.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    due: BTreeSet<(Nanos, PeerId)>,
    of_peer: Vec<Option<Nanos>>,
}

impl Schedule {
    /// Sets or, with `None`, ends what was set for `peer`.
    pub(super) fn set(&mut self, peer: PeerId, next: Option<Nanos>) {
        let index = peer.0 as usize;
        if self.of_peer.len() <= index {
            self.of_peer.resize(index + 1, None);
        }
        if let Some(previous) = std::mem::replace(&mut self.of_peer[index], next) {
            self.due.remove(&(previous, peer));
        }
        if let Some(next) = next {
            self.due.insert((next, peer));
        }
    }

    /// The next moment.
    pub(super) fn next(&self) -> Option<Nanos> {
        self.due.first().map(|(when, _)| *when)
    }

    /// A peer whose moment has come, which is forgotten with this.
    pub(super) fn take_due(&mut self, now: Nanos) -> Option<PeerId> {
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
