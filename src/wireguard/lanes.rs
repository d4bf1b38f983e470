//! Spreads peers evenly over the lanes that receive.
//!
//! All data messages of a peer must reach one lane, because lanes do not keep order among each other. A hash of
//! addresses and ports, the kernel's default, ensures that while they do not change, but is uneven: of 16 peers and two
//! lanes, a lane gets four peers or fewer in 8 cases of 100, and each of those peers then has three times the share of
//! the others. So the lane is a hash of the receiver index, which this end allocates: a peer is assigned to the lane
//! that has the fewest, and only indices of that lane are allocated to it. A program in the kernel evaluates the same
//! hash ([`reuseport`](crate::sys::reuseport)).
//!
//! A peer keeps its lane from its first index to the release of its last, so across new sessions, roaming and a
//! take-over: to change it would reorder flows. Lanes can therefore become uneven when peers leave.

use blake2::Blake2s256;
use blake2::digest::Digest as _;
use zeroize::Zeroizing;

use crate::sys::reuseport::IndexHash;
use crate::units::PeerId;

/// Maps receiver indices to lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneHash {
    /// The hash of an index.
    pub hash: IndexHash,
    /// Number of lanes, at least 1.
    pub lanes: u32,
}

impl LaneHash {
    /// Creates the hash for `lanes` lanes. `secret` is that of the session table.
    ///
    /// # Panics
    /// If `lanes` is zero.
    pub fn new(secret: &[u8; 8], lanes: usize) -> Self {
        const BYTES: usize = 12;
        assert!(lanes > 0, "a router has at least one lane");
        // Whoever finds the hash's secret must not learn the table's.
        let derived: Zeroizing<[u8; 32]> =
            Zeroizing::new(Blake2s256::new().chain_update("lanes").chain_update(secret).finalize().into());
        let first = derived.first_chunk::<BYTES>().expect("the digest is longer");
        LaneHash { hash: IndexHash::new(first), lanes: lanes as u32 }
    }

    /// Returns the lane of a receiver index.
    pub fn lane(&self, index: u32) -> u32 {
        self.hash.socket(index, self.lanes)
    }
}

impl Default for LaneHash {
    /// Returns the hash for one lane.
    fn default() -> Self {
        LaneHash { hash: IndexHash::new(&[0; 12]), lanes: 1 }
    }
}

/// The lanes to which peers are assigned.
pub(super) struct Lanes {
    hash: LaneHash,
    counts: Box<[Count]>,
    /// What each peer holds, by slot.
    held: Vec<Held>,
}

/// The peers of a lane.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Count {
    /// Number of peers that have a session. Compared first: the others may only try to reach a peer that never answers.
    with_session: u32,
    /// Number of peers that hold an index.
    all: u32,
}

/// What a peer holds.
#[derive(Clone, Copy, Default)]
struct Held {
    indices: u32,
    sessions: u32,
    /// The lane of these indices, if there are any.
    lane: u32,
}

impl Lanes {
    pub(super) fn new(hash: LaneHash) -> Self {
        Lanes { hash, counts: vec![Count::default(); hash.lanes as usize].into(), held: Vec::new() }
    }

    /// Returns the lane of `index`.
    pub(super) fn of(&self, index: u32) -> u32 {
        self.hash.lane(index)
    }

    /// Notes that `peer` is about to hold another index, and returns the lane that it must have. Of several lanes with the
    /// fewest peers, `random` selects one, so that it does not depend on the order of the peers.
    pub(super) fn allocate(&mut self, peer: PeerId, random: u32) -> u32 {
        let fewest = self.counts.iter().min().copied().unwrap_or_default();
        let all = (0..).zip(&self.counts).filter(|(_, count)| **count == fewest);
        let selected = random as usize % all.clone().count();
        let lane = all.map(|(lane, _)| lane).nth(selected).unwrap_or_default();
        self.note_index(peer, lane)
    }

    /// Notes that `peer` holds `index`, which another process has allocated.
    pub(super) fn adopt(&mut self, peer: PeerId, index: u32) {
        self.note_index(peer, self.of(index));
    }

    /// Notes that one of the indices of `peer` has a session.
    pub(super) fn note_session(&mut self, peer: PeerId) {
        let held = &mut self.held[peer.slot()];
        held.sessions += 1;
        if held.sessions == 1 {
            self.counts[held.lane as usize].with_session += 1;
        }
    }

    /// Notes that `peer` has released one of its indices, with its session if `has_session`.
    pub(super) fn release(&mut self, peer: PeerId, has_session: bool) {
        let held = &mut self.held[peer.slot()];
        let count = &mut self.counts[held.lane as usize];
        if has_session {
            held.sessions -= 1;
            count.with_session -= u32::from(held.sessions == 0);
        }
        held.indices -= 1;
        count.all -= u32::from(held.indices == 0);
    }

    /// Notes that `peer` holds another index, and assigns it to `lane` if it is the first. Returns its lane.
    fn note_index(&mut self, peer: PeerId, lane: u32) -> u32 {
        if self.held.len() <= peer.slot() {
            self.held.resize(peer.slot() + 1, Held::default());
        }
        let held = &mut self.held[peer.slot()];
        if held.indices == 0 {
            held.lane = lane;
            self.counts[lane as usize].all += 1;
        }
        held.indices += 1;
        held.lane
    }
}

#[cfg(test)]
mod tests {
    use super::super::permutation::Permutation;
    use super::*;

    const LANES: usize = 4;

    fn lanes() -> Lanes {
        Lanes::new(LaneHash::new(&[7; 8], LANES))
    }

    #[test]
    fn each_lane_gets_as_many_peers() {
        for random in [0, 1, u32::MAX] {
            let mut lanes = lanes();
            let mut peers = [0; LANES];
            for peer in 0..40 {
                peers[lanes.allocate(PeerId(peer), random) as usize] += 1;
            }
            assert_eq!(peers, [10; LANES]);
        }
    }

    #[test]
    fn a_peer_keeps_its_lane_until_it_holds_no_index() {
        let mut lanes = lanes();
        let assigned = [0, 1, 2].map(|peer| lanes.allocate(PeerId(peer), 0));
        assert_eq!(assigned, [0, 1, 2]);
        for _ in 0..10 {
            assert_eq!(lanes.allocate(PeerId(1), 0), 1);
            lanes.release(PeerId(1), false);
        }
        lanes.release(PeerId(0), false);
        lanes.release(PeerId(1), false);
        assert_eq!([1, 0].map(|peer| lanes.allocate(PeerId(peer), 0)), [0, 1], "the lanes were free again");
    }

    #[test]
    fn peers_without_a_session_hardly_count() {
        let mut lanes = lanes();
        // One peer in each lane has a session, but for the last lane, which has most of those without.
        for peer in 0..8 {
            assert_eq!(lanes.allocate(PeerId(peer), 0), peer as u32 % 4);
        }
        for peer in [0, 1, 2] {
            lanes.note_session(PeerId(peer));
            lanes.release(PeerId(peer + 4), false);
        }
        assert_eq!(lanes.allocate(PeerId(8), 0), 3);
        lanes.note_session(PeerId(8));
        lanes.allocate(PeerId(0), 0);
        lanes.note_session(PeerId(0));
        lanes.release(PeerId(0), true);
        assert_eq!(lanes.allocate(PeerId(9), 1), 1, "the first peer still has a session");
    }

    #[test]
    fn adopted_indices_keep_their_lane() {
        let mut lanes = lanes();
        let index = (0..1000).find(|index| lanes.of(*index) == 3).unwrap();
        lanes.adopt(PeerId(5), index);
        assert_eq!(lanes.allocate(PeerId(5), 0), 3);
        assert_eq!([6, 7, 8, 9].map(|peer| lanes.allocate(PeerId(peer), 0)), [0, 1, 2, 0]);
    }

    #[test]
    fn the_hash_is_even_and_depends_on_the_secret() {
        let hashes = [[1; 8], [2; 8]].map(|secret| LaneHash::new(&secret, LANES));
        let permuted = Permutation::new([9; 8]);
        // Indices are permuted places. Without the permutation the hash is as even.
        let sets: [fn(&Permutation, u32) -> u32; 2] =
            [|permuted, place| permuted.apply(place), |_, place| place];
        for set in sets {
            let mut counts = [[0; LANES]; 2];
            let mut equal = 0;
            for index in (0..4000).map(|place| set(&permuted, place)) {
                let met = hashes.map(|hash| hash.lane(index));
                counts[0][met[0] as usize] += 1;
                counts[1][met[1] as usize] += 1;
                equal += u32::from(met[0] == met[1]);
            }
            assert!(counts.iter().flatten().all(|count| (850..1150).contains(count)), "{counts:?}");
            assert!((850..1150).contains(&equal), "{equal}");
        }
    }
}
