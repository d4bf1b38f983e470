//! Allocation of local indices to peers. This is the protocol's side of the session table and its
//! only writer: an index is allocated when a handshake starts, before its session exists.

use std::collections::VecDeque;
use std::sync::Arc;

use super::keys::Entropy;
use super::lanes::{LaneHash, Lanes};
use super::session::Session;
use super::table::{PLACE_BITS, PLACES, SessionTable};
use crate::units::PeerId;

/// Number of free places held back before one is reused, while unused places are left.
const RESTING: usize = 256;

/// The local indices in use, at most one per place of the table.
pub(super) struct Indices {
    table: Arc<SessionTable>,
    /// For each place, its last index and the peer that holds it now.
    taken: Vec<(u32, Option<PeerId>)>,
    /// Free places, the longest free first, so that a late datagram for a removed session rarely
    /// reaches another session.
    free: VecDeque<u32>,
    lanes: Lanes,
}

impl Indices {
    pub(super) fn new(table: Arc<SessionTable>, hash: LaneHash) -> Self {
        Indices { table, taken: Vec::new(), free: VecDeque::new(), lanes: Lanes::new(hash) }
    }

    /// Allocates an index of the peer's lane for `peer`; returns `None` if all are in use.
    pub(super) fn take(&mut self, peer: PeerId, entropy: &mut dyn Entropy) -> Option<u32> {
        let place = if self.free.len() <= RESTING && self.taken.len() < PLACES {
            self.taken.push((0, None));
            self.taken.len() as u32 - 1
        } else {
            self.free.pop_front()?
        };
        let lane = self.lanes.allocate(peer, random(entropy));
        let index = self.index(place, lane, random(entropy));
        self.taken[place as usize] = (index, Some(peer));
        Some(index)
    }

    /// Returns an index for `place` that `lane` receives: the first one from the upper bits `above` on.
    fn index(&self, place: u32, lane: u32, above: u32) -> u32 {
        let first = above << PLACE_BITS | place;
        let numbers = (0..1 << (u32::BITS - PLACE_BITS)).map(|more| first.wrapping_add(more << PLACE_BITS));
        let mut indices = numbers.map(|number| self.table.index(number));
        // The same index is never used twice in a row, even if the random bits repeat.
        let last = self.taken[place as usize].0;
        let found = indices.find(|index| *index != last && self.lanes.of(*index) == lane);
        // Even with 256 lanes, there is none among 4096 indices in 1 of 10^7 cases. Flows may then be reordered, once.
        found.unwrap_or_else(|| self.table.index(first.wrapping_add(1 << PLACE_BITS)))
    }

    /// Allocates `index`, which another process has allocated under the same secret. Returns whether its place was
    /// free. [`end_adoption`](Self::end_adoption) must be called before another index is allocated.
    pub(super) fn adopt(&mut self, index: u32, peer: PeerId) -> bool {
        let place = self.table.place(index);
        if self.taken.len() <= place {
            self.taken.resize(place + 1, (0, None));
        }
        let slot = &mut self.taken[place];
        let was_free = slot.1.is_none();
        *slot = (index, Some(peer));
        if was_free {
            self.lanes.adopt(peer, index);
        }
        was_free
    }

    /// Makes the places between adopted indices available.
    pub(super) fn end_adoption(&mut self) {
        let places = (0..).zip(&self.taken);
        self.free = places.filter(|(_, (_, owner))| owner.is_none()).map(|(place, _)| place).collect();
    }

    /// Returns the peer that holds `index`.
    pub(super) fn owner(&self, index: u32) -> Option<PeerId> {
        let &(taken, owner) = self.taken.get(self.table.place(index))?;
        if taken == index { owner } else { None }
    }

    /// Makes `session` available to workers under its index, which was allocated before.
    pub(super) fn install(&mut self, session: Arc<Session>) {
        assert_eq!(self.owner(session.local_index()), Some(session.peer()), "the peer holds the index");
        self.lanes.note_session(session.peer());
        self.table.install(session);
    }

    /// Releases `index` and removes its session, if any, from the table.
    pub(super) fn release(&mut self, index: u32) {
        let peer = self.owner(index).expect("an index is released once");
        self.lanes.release(peer, self.table.remove(index));
        let place = self.table.place(index);
        self.taken[place].1 = None;
        self.free.push_back(place as u32);
    }
}

fn random(entropy: &mut dyn Entropy) -> u32 {
    let mut bytes = [0; 4];
    entropy.fill(&mut bytes);
    u32::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The worst case: always the same bytes.
    struct Constant;

    impl Entropy for Constant {
        fn fill(&mut self, dest: &mut [u8]) {
            dest.fill(0xff);
        }
    }

    fn indices(secret: [u8; 8]) -> Indices {
        Indices::new(Arc::new(SessionTable::new(&secret)), LaneHash::new(&secret, 4))
    }

    #[test]
    fn indices_do_not_show_the_order_of_their_allocation() {
        const TAKEN: usize = 1024;
        let taken = |secret: [u8; 8]| -> Vec<u32> {
            let mut indices = indices(secret);
            (0..TAKEN).map(|_| indices.take(PeerId(0), &mut Constant).unwrap()).collect()
        };
        let [one, other] = [[1; 8], [2; 8]].map(taken);
        for (bits, most) in [(PLACE_BITS, TAKEN / 64), (32, 0)] {
            let low = |index: &u32| u64::from(*index) % (1 << bits);
            let steps = one.windows(2).filter(|pair| low(&pair[1]).abs_diff(low(&pair[0])) == 1).count();
            let same = one.iter().zip(&other).filter(|(one, other)| low(one) == low(other)).count();
            assert!(steps <= most && same <= most, "{steps} steps, {same} equal in the low {bits} bits");
        }
    }

    #[test]
    fn an_index_that_was_given_back_names_nobody() {
        let mut indices = indices([7; 8]);
        let mut last = Vec::new();
        for round in 0..10 * RESTING as u32 {
            let index = indices.take(PeerId(round.into()), &mut Constant).unwrap();
            assert_eq!(indices.owner(index), Some(PeerId(round.into())));
            indices.release(index);
            assert_eq!(indices.owner(index), None);
            assert!(!last.contains(&index), "reused too soon");
            last.push(index);
            last.drain(..last.len().saturating_sub(RESTING));
        }
        assert!(indices.taken.len() <= RESTING + 1, "places are reused");
    }

    #[test]
    fn the_indices_of_a_peer_are_all_of_one_lane() {
        let (hash, mut indices) = (LaneHash::new(&[7; 8], 4), indices([7; 8]));
        let mut take = |peer| {
            let index = indices.take(PeerId(peer), &mut Constant).unwrap();
            let lane = hash.lane(index);
            // The peer's first index stays.
            if indices.taken.len() > 8 {
                indices.release(index);
            }
            lane
        };
        let lanes: Vec<_> = (0..8).map(&mut take).collect();
        let mut sorted = lanes.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 0, 1, 1, 2, 2, 3, 3]);
        for _ in 0..100 {
            assert_eq!((0..8).map(&mut take).collect::<Vec<_>>(), lanes);
        }
    }

    #[test]
    fn when_all_are_in_use_there_are_no_more() {
        let mut indices = indices([7; 8]);
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
