//! Spreads peers evenly over the lanes that receive.
//!
//! All data messages of a peer must reach one lane, because lanes do not keep order among each other. A hash of
//! addresses and ports, the kernel's default, ensures that, but is uneven: of 16 peers and two lanes, a lane gets four
//! peers or fewer in 8 cases of 100, and each of those peers then has three times the share of the others. So the lane
//! is a hash of the receiver index, which this end allocates: a peer is assigned to the lane that has the fewest, and
//! only indices of that lane are allocated to it. A program in the kernel evaluates the same hash
//! ([`reuseport`](crate::sys::reuseport)).
//!
//! A peer keeps its lane from its first index to the release of its last, so across new sessions, roaming and a
//! take-over.

use super::permutation::Permutation;
use crate::units::PeerId;

/// Maps receiver indices to lanes.
///
/// The hash has a secret, so that the indices do not show an observer which sessions have a lane in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneHash {
    /// Factor of the index, odd.
    pub factor: u32,
    /// Number of lanes, at least 1.
    pub lanes: u32,
}

impl LaneHash {
    /// Number of low bits of the product that are not used.
    pub const SHIFT: u32 = 16;

    /// Creates the hash for `lanes` lanes. `secret` is that of the session table.
    ///
    /// # Panics
    /// If `lanes` is zero.
    pub fn new(secret: &[u8; 8], lanes: usize) -> Self {
        assert!(lanes > 0, "a router has at least one lane");
        // Another key than the table's, so that the factor says nothing about indices.
        let key = secret.map(|byte| !byte);
        LaneHash { factor: Permutation::new(key).apply(0) | 1, lanes: lanes as u32 }
    }

    /// Returns the lane of a receiver index.
    ///
    /// The bytes of the index, little-endian in the message, are read as big-endian, because classic BPF can do no
    /// other.
    pub fn lane(&self, index: u32) -> u32 {
        (index.swap_bytes().wrapping_mul(self.factor) >> Self::SHIFT) % self.lanes
    }
}

impl Default for LaneHash {
    /// Returns the hash for one lane.
    fn default() -> Self {
        LaneHash { factor: 1, lanes: 1 }
    }
}

/// The lanes to which peers are assigned.
pub(super) struct Lanes {
    hash: LaneHash,
    /// Number of peers of each lane.
    peers: Box<[u32]>,
    /// What each peer holds, by slot.
    held: Vec<Held>,
}

/// The indices that a peer holds.
#[derive(Clone, Copy, Default)]
struct Held {
    count: u32,
    /// The lane of these indices, if there are any.
    lane: u32,
}

impl Lanes {
    pub(super) fn new(hash: LaneHash) -> Self {
        Lanes { hash, peers: vec![0; hash.lanes as usize].into(), held: Vec::new() }
    }

    /// Returns the lane of `index`.
    pub(super) fn of(&self, index: u32) -> u32 {
        self.hash.lane(index)
    }

    /// Notes that another index is allocated to `peer`, and returns the lane that it must have.
    pub(super) fn allocate(&mut self, peer: PeerId) -> u32 {
        // The first of those with the fewest peers.
        let fewest = (0..).zip(&self.peers).min_by_key(|(_, peers)| **peers).map_or(0, |(lane, _)| lane);
        self.note(peer, fewest)
    }

    /// Notes that `peer` holds `index`, which another process has allocated.
    pub(super) fn adopt(&mut self, peer: PeerId, index: u32) {
        self.note(peer, self.of(index));
    }

    /// Notes that `peer` holds another index, and assigns it to `lane` if it is the first. Returns its lane.
    fn note(&mut self, peer: PeerId, lane: u32) -> u32 {
        if self.held.len() <= peer.slot() {
            self.held.resize(peer.slot() + 1, Held::default());
        }
        let held = &mut self.held[peer.slot()];
        if held.count == 0 {
            held.lane = lane;
            self.peers[lane as usize] += 1;
        }
        held.count += 1;
        held.lane
    }

    /// Notes that `peer` has released one of its indices.
    pub(super) fn release(&mut self, peer: PeerId) {
        let held = &mut self.held[peer.slot()];
        held.count -= 1;
        if held.count == 0 {
            self.peers[held.lane as usize] -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LANES: usize = 4;

    fn lanes() -> Lanes {
        Lanes::new(LaneHash::new(&[7; 8], LANES))
    }

    #[test]
    fn each_lane_gets_as_many_peers() {
        let mut lanes = lanes();
        let mut peers = [0; LANES];
        for peer in 0..40 {
            peers[lanes.allocate(PeerId(peer)) as usize] += 1;
        }
        assert_eq!(peers, [10; LANES]);
    }

    #[test]
    fn a_peer_keeps_its_lane_until_it_holds_no_index() {
        let mut lanes = lanes();
        let assigned = [0, 1, 2].map(|peer| lanes.allocate(PeerId(peer)));
        assert_eq!(assigned, [0, 1, 2]);
        for _ in 0..10 {
            assert_eq!(lanes.allocate(PeerId(1)), 1);
            lanes.release(PeerId(1));
        }
        lanes.release(PeerId(0));
        lanes.release(PeerId(1));
        assert_eq!([1, 0].map(|peer| lanes.allocate(PeerId(peer))), [0, 1], "the lanes were free again");
    }

    #[test]
    fn adopted_indices_keep_their_lane() {
        let mut lanes = lanes();
        let index = (0..1000).find(|index| lanes.of(*index) == 3).unwrap();
        lanes.adopt(PeerId(5), index);
        assert_eq!(lanes.allocate(PeerId(5)), 3);
        assert_eq!([6, 7, 8, 9].map(|peer| lanes.allocate(PeerId(peer))), [0, 1, 2, 0]);
    }

    #[test]
    fn the_hash_is_even_and_depends_on_the_secret() {
        let hashes = [[1; 8], [2; 8]].map(|secret| LaneHash::new(&secret, LANES));
        // Indices are permuted places, so any numbers will do.
        let numbers = Permutation::new([9; 8]);
        let mut counts = [[0; LANES]; 2];
        let mut equal = 0;
        for index in (0..4000).map(|place| numbers.apply(place)) {
            let met = hashes.map(|hash| hash.lane(index));
            counts[0][met[0] as usize] += 1;
            counts[1][met[1] as usize] += 1;
            equal += u32::from(met[0] == met[1]);
        }
        assert!(counts.iter().flatten().all(|count| (850..1150).contains(count)), "{counts:?}");
        assert!((850..1150).contains(&equal), "{equal}");
    }
}
