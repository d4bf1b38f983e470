//! Which local indices are in use, and by which peer. The protocol's own side of the session
//! table, and the only one that writes to it: an index is taken when a handshake starts, before
//! there is a session.

use std::collections::VecDeque;
use std::sync::Arc;

use super::keys::Entropy;
use super::session::Session;
use super::table::{PLACE_BITS, PLACES, SessionTable};
use crate::units::PeerId;

/// As many free places rest before one is used again, while there are others.
const RESTING: usize = 256;

/// The local indices in use. Bounded by the places of the table.
pub(super) struct Indices {
    table: Arc<SessionTable>,
    /// By place: the last index that was here, and who has it now.
    taken: Vec<(u32, Option<PeerId>)>,
    /// Places that are free again, the longest free first, so that a late datagram for a session
    /// that is gone rarely meets another one.
    free: VecDeque<u32>,
}

impl Indices {
    pub(super) fn new(table: Arc<SessionTable>) -> Self {
        Indices { table, taken: Vec::new(), free: VecDeque::new() }
    }

    /// Takes an index for `peer`; `None` if all are in use.
    pub(super) fn take(&mut self, peer: PeerId, entropy: &mut dyn Entropy) -> Option<u32> {
        let mut random = [0; 4];
        entropy.fill(&mut random);
        let above = u32::from_le_bytes(random) << PLACE_BITS;
        if self.free.len() <= RESTING && self.taken.len() < PLACES {
            let index = above | self.taken.len() as u32;
            self.taken.push((index, Some(peer)));
            return Some(index);
        }
        let place = self.free.pop_front()?;
        let slot = &mut self.taken[place as usize];
        // Not the same index twice in a row, whatever chance says.
        let step = if above | place == slot.0 { 1 << PLACE_BITS } else { 0 };
        *slot = ((above | place).wrapping_add(step), Some(peer));
        Some(slot.0)
    }

    /// The peer that has `index`.
    pub(super) fn owner(&self, index: u32) -> Option<PeerId> {
        let &(taken, owner) = self.taken.get(index as usize % PLACES)?;
        if taken == index { owner } else { None }
    }

    /// Lets workers find `session` by its index, which was taken before.
    pub(super) fn install(&self, session: Arc<Session>) {
        assert_eq!(self.owner(session.local_index()), Some(session.peer()), "the index is the session's own");
        self.table.install(session);
    }

    /// Gives `index` back. Its session, if it came to one, is not found any more.
    pub(super) fn release(&mut self, index: u32) {
        assert!(self.owner(index).is_some(), "an index is given back once");
        self.table.remove(index);
        let place = index as usize % PLACES;
        self.taken[place].1 = None;
        self.free.push_back(place as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The worst there can be: always the same.
    struct Constant;

    impl Entropy for Constant {
        fn fill(&mut self, dest: &mut [u8]) {
            dest.fill(0xff);
        }
    }

    #[test]
    fn an_index_that_was_given_back_names_nobody() {
        let mut indices = Indices::new(Arc::default());
        let mut last = Vec::new();
        for round in 0..10 * RESTING as u32 {
            let index = indices.take(PeerId(round), &mut Constant).unwrap();
            assert_eq!(indices.owner(index), Some(PeerId(round)));
            indices.release(index);
            assert_eq!(indices.owner(index), None);
            assert!(!last.contains(&index), "used again too soon");
            last.push(index);
            last.drain(..last.len().saturating_sub(RESTING));
        }
        assert!(indices.taken.len() <= RESTING + 1, "places are used again");
    }

    #[test]
    fn when_all_are_in_use_there_are_no_more() {
        let mut indices = Indices::new(Arc::default());
        let first = indices.take(PeerId(0), &mut Constant).unwrap();
        for _ in 1..PLACES {
            indices.take(PeerId(0), &mut Constant).unwrap();
        }
        assert_eq!(indices.take(PeerId(0), &mut Constant), None);
        indices.release(first);
        let again = indices.take(PeerId(1), &mut Constant).unwrap();
        assert_ne!(again, first);
        assert_eq!(indices.owner(first), None);
    }
}
