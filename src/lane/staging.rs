//! Bounded queues of packets that wait for a handshake, allocated at startup. The oldest packet is
//! dropped first.
//!
//! An inside worker stages packets for a peer without a session as they were read (a superpacket whole,
//! with its virtio header) and takes them out in order once there is a session. The bytes are in chunks
//! shared by all peers and chained per peer: a waiting SYN takes one chunk, a waiting superpacket up to
//! seventeen.

use std::collections::HashMap;
use std::mem;

use crate::faults::{self, Stage};
use crate::units::PeerId;

/// Size of a chunk in bytes.
const CHUNK: usize = 4096;

/// Number of chunks of one lane: 1 MiB in total.
const CHUNKS: usize = 256;

/// Maximum number of peers with staged packets: each takes at least one chunk.
pub const MAX_QUEUES: usize = CHUNKS;

/// Maximum number of packets staged per peer, as in the kernel
/// (`MAX_STAGED_PACKETS`, `drivers/net/wireguard/queueing.h`).
const MAX_PACKETS: usize = 128;

const NIL: u16 = u16::MAX;
const LENGTH: usize = 4;
const _: () = assert!(CHUNKS < NIL as usize);

/// A staged packet as plain data, for a process that takes over.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct StagedPacket {
    /// The peer.
    pub peer: PeerId,
    /// The peer's count of failed handshakes when the packet was staged.
    pub attempt: u32,
    /// The virtio header in its long form, and the packet.
    pub bytes: Vec<u8>,
}

/// The packets of one lane that wait for a handshake.
#[derive(Clone, Debug)]
pub struct Staging {
    bytes: Box<[u8]>,
    next: Box<[u16]>,
    free: u16,
    free_chunks: usize,
    queues: HashMap<PeerId, Queue>,
    /// Packets dropped by a [`push`](Self::push) that has not returned.
    dropped: u64,
}

/// One peer's packets: a chain of chunks that holds length-prefixed packets.
#[derive(Clone, Copy, Debug)]
struct Queue {
    head: u16,
    tail: u16,
    read_at: usize,
    write_at: usize,
    packets: usize,
    attempt: u32,
}

impl Queue {
    fn new(chunk: u16, attempt: u32) -> Self {
        Queue { head: chunk, tail: chunk, read_at: 0, write_at: 0, packets: 0, attempt }
    }
}

impl Staging {
    /// Allocates 1 MiB, for at most [`MAX_QUEUES`] peers.
    pub fn new() -> Self {
        let next = (1..=CHUNKS as u16).map(|n| if n == CHUNKS as u16 { NIL } else { n }).collect();
        Self {
            bytes: vec![0; CHUNK * CHUNKS].into_boxed_slice(),
            next,
            free: 0,
            free_chunks: CHUNKS,
            queues: HashMap::with_capacity(CHUNKS),
            dropped: 0,
        }
    }

    /// Returns whether no packet is staged.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// Returns whether packets are staged for `peer`.
    pub fn holds(&self, peer: PeerId) -> bool {
        self.queues.contains_key(&peer)
    }

    /// Iterates over the peers with staged packets, each with the `attempt` of its first packet.
    pub fn peers(&self) -> impl Iterator<Item = (PeerId, u32)> {
        self.queues.iter().map(|(peer, queue)| (*peer, queue.attempt))
    }

    /// Returns the number of packets staged for `peer`.
    pub fn packets(&self, peer: PeerId) -> usize {
        self.queues.get(&peer).map_or(0, |queue| queue.packets)
    }

    /// Appends a packet, given as two parts, to `peer`'s queue. `attempt` is the peer's count of failed
    /// handshakes, which tells the caller later whether the handshake this packet waits for has failed.
    ///
    /// Returns the number of packets dropped: older ones of this peer to make room, and the packet
    /// itself if there is still no room.
    pub fn push(&mut self, peer: PeerId, attempt: u32, parts: [&[u8]; 2]) -> u64 {
        let len = parts[0].len() + parts[1].len();
        while !self.fits(peer, len) {
            if !self.skip(peer) {
                return mem::take(&mut self.dropped) + 1;
            }
            self.dropped += 1;
        }
        let mut queue = match self.queues.get(&peer) {
            Some(queue) => *queue,
            None => Queue::new(self.acquire(), attempt),
        };
        self.append(&mut queue, &(len as u32).to_ne_bytes());
        for part in parts {
            faults::point(Stage::Stage);
            self.append(&mut queue, part);
        }
        queue.packets += 1;
        self.queues.insert(peer, queue);
        mem::take(&mut self.dropped)
    }

    /// Removes the oldest packet of `peer` and copies it to `out`. Returns its length in bytes.
    ///
    /// # Panics
    /// If `out` is shorter than the packet.
    pub fn pop(&mut self, peer: PeerId, out: &mut [u8]) -> Option<usize> {
        let before = *self.queues.get(&peer)?;
        let mut queue = before;
        let len = self.read_length(&mut queue);
        let mut done = 0;
        self.advance(&mut queue, len, |piece| {
            out[done..done + piece.len()].copy_from_slice(piece);
            done += piece.len();
        });
        self.finish_packet(peer, &before, queue);
        Some(len)
    }

    /// Returns copies of all packets, those of each peer in order.
    pub fn copies(&self) -> Vec<StagedPacket> {
        let mut copies = Vec::new();
        if self.is_empty() {
            return copies;
        }
        let mut rest = self.clone();
        let mut buffer = vec![0; CHUNK * CHUNKS];
        for (peer, attempt) in self.peers() {
            while let Some(len) = rest.pop(peer, &mut buffer) {
                copies.push(StagedPacket { peer, attempt, bytes: buffer[..len].to_vec() });
            }
        }
        copies
    }

    /// Copies the oldest packet of `peer`, or as much of it as fits, to `out`. Returns its length in bytes.
    pub fn peek(&self, peer: PeerId, out: &mut [u8]) -> Option<usize> {
        let mut queue = *self.queues.get(&peer)?;
        let len = self.read_length(&mut queue);
        let mut done = 0;
        self.advance(&mut queue, len.min(out.len()), |piece| {
            out[done..done + piece.len()].copy_from_slice(piece);
            done += piece.len();
        });
        Some(len)
    }

    /// Drops all packets of `peer`. Returns their number.
    pub fn clear(&mut self, peer: PeerId) -> u64 {
        let Some(queue) = self.queues.remove(&peer) else { return 0 };
        self.release_chain(queue.head, queue.tail);
        self.release(queue.tail);
        queue.packets as u64
    }

    /// Frees the chunks that no queue uses, after a panic in one of the other methods: these change a queue last, and
    /// at once. Returns the number of packets that were dropped but not reported.
    pub fn repair(&mut self) -> u64 {
        let mut used = [false; CHUNKS];
        for queue in self.queues.values() {
            let mut chunk = queue.head;
            used[chunk as usize] = true;
            while chunk != queue.tail {
                chunk = self.next[chunk as usize];
                used[chunk as usize] = true;
            }
        }
        (self.free, self.free_chunks) = (NIL, 0);
        for chunk in (0..CHUNKS as u16).filter(|chunk| !used[*chunk as usize]) {
            self.release(chunk);
        }
        mem::take(&mut self.dropped)
    }

    fn fits(&self, peer: PeerId, len: usize) -> bool {
        let queue = self.queues.get(&peer);
        let tail_room = queue.map_or(0, |q| CHUNK - q.write_at);
        queue.is_none_or(|q| q.packets < MAX_PACKETS) && LENGTH + len <= tail_room + self.free_chunks * CHUNK
    }

    /// Drops `peer`'s oldest packet. Returns false if there is none.
    fn skip(&mut self, peer: PeerId) -> bool {
        let Some(before) = self.queues.get(&peer).copied() else { return false };
        let mut queue = before;
        let len = self.read_length(&mut queue);
        self.advance(&mut queue, len, |_| {});
        self.finish_packet(peer, &before, queue);
        true
    }

    /// Stores `peer`'s queue after a packet was read from it, and frees the chunks it no longer needs.
    fn finish_packet(&mut self, peer: PeerId, before: &Queue, mut after: Queue) {
        after.packets -= 1;
        if after.packets == 0 {
            self.clear(peer);
        } else {
            self.queues.insert(peer, after);
            self.release_chain(before.head, after.head);
        }
    }

    fn append(&mut self, queue: &mut Queue, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if queue.write_at == CHUNK {
                let chunk = self.acquire();
                self.next[queue.tail as usize] = chunk;
                (queue.tail, queue.write_at) = (chunk, 0);
            }
            let n = bytes.len().min(CHUNK - queue.write_at);
            let at = queue.tail as usize * CHUNK + queue.write_at;
            self.bytes[at..at + n].copy_from_slice(&bytes[..n]);
            queue.write_at += n;
            bytes = &bytes[n..];
        }
    }

    /// Reads the length in bytes of `queue`'s oldest packet.
    fn read_length(&self, queue: &mut Queue) -> usize {
        let (mut length, mut done) = ([0; LENGTH], 0);
        self.advance(queue, LENGTH, |piece| {
            length[done..done + piece.len()].copy_from_slice(piece);
            done += piece.len();
        });
        u32::from_ne_bytes(length) as usize
    }

    /// Advances the read position of `queue` by `len` bytes and passes each piece to `piece`.
    fn advance(&self, queue: &mut Queue, mut len: usize, mut piece: impl FnMut(&[u8])) {
        while len > 0 {
            if queue.read_at == CHUNK {
                assert_ne!(queue.head, queue.tail, "a staged packet ends before its length");
                (queue.head, queue.read_at) = (self.next[queue.head as usize], 0);
            }
            let n = len.min(CHUNK - queue.read_at);
            let at = queue.head as usize * CHUNK + queue.read_at;
            piece(&self.bytes[at..at + n]);
            queue.read_at += n;
            len -= n;
        }
    }

    fn acquire(&mut self) -> u16 {
        let chunk = self.free;
        assert_ne!(chunk, NIL, "room was checked before");
        self.free = mem::replace(&mut self.next[chunk as usize], NIL);
        self.free_chunks -= 1;
        chunk
    }

    /// Frees the chunks from `first` to the one before `end`.
    fn release_chain(&mut self, first: u16, end: u16) {
        let mut chunk = first;
        while chunk != end {
            let next = self.next[chunk as usize];
            self.release(chunk);
            chunk = next;
        }
    }

    fn release(&mut self, chunk: u16) {
        self.next[chunk as usize] = self.free;
        self.free = chunk;
        self.free_chunks += 1;
    }
}

impl Default for Staging {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Arc;

    use crate::faults::Faults;

    #[test]
    fn the_oldest_packet_of_a_peer_makes_room_for_the_newest() {
        let mut staging = Staging::new();
        let peer = PeerId(1);
        for n in 0..MAX_PACKETS as u8 + 2 {
            let dropped = staging.push(peer, 0, [&[n], &[n; 9]]);
            assert_eq!(dropped, u64::from(usize::from(n) >= MAX_PACKETS));
        }
        let mut out = [0; 16];
        assert_eq!(staging.pop(peer, &mut out), Some(10));
        assert_eq!(out[..10], [2; 10]);
        assert_eq!(staging.clear(peer), MAX_PACKETS as u64 - 1);
        assert!(staging.is_empty());
    }

    #[test]
    fn superpackets_never_take_more_than_the_lane_has() {
        let mut staging = Staging::new();
        let big = vec![1; 65_545];
        let dropped: u64 = (0..40).map(|_| staging.push(PeerId(1), 0, [&big, &[]])).sum();
        assert_eq!(dropped, 40 - (CHUNK * CHUNKS / (big.len() + LENGTH)) as u64);
        // No room is left for another peer, and the first peer's packets are not dropped for it.
        assert_eq!(staging.push(PeerId(2), 0, [&big, &[]]), 1);
        assert!(!staging.holds(PeerId(2)));
    }

    #[test]
    #[cfg(debug_assertions)]
    fn a_panic_in_a_push_leaves_the_queues_as_they_were() {
        let (mut staging, big) = (Staging::new(), vec![1; 65_545]);
        for n in 0..40 {
            assert_eq!(staging.push(PeerId(1), 0, [&[n], &[n; 999]]), 0);
        }
        let plan = Arc::new(Faults::new());
        faults::install(Some(Arc::clone(&plan)));
        for n in 0..CHUNKS {
            plan.arm(Stage::Stage, 1);
            let peer = PeerId(1 + n as u64 % 2);
            let push = AssertUnwindSafe(|| staging.push(peer, 0, [&big, &[]]));
            assert!(catch_unwind(push).is_err());
            staging.repair();
        }
        faults::install(None);
        assert!(!staging.holds(PeerId(2)));
        let mut out = [0; 1000];
        for n in 0..40 {
            assert_eq!(staging.pop(PeerId(1), &mut out), Some(1000));
            assert_eq!(out, [n; 1000]);
        }
        assert!(staging.is_empty());
        assert_eq!(staging.free_chunks, CHUNKS);
    }

    #[test]
    fn copies_can_be_staged_again_in_the_same_order() {
        let mut staging = Staging::new();
        for n in 0..20_u8 {
            staging.push(PeerId(u64::from(n % 2)), 7, [&[n], &[n; 5000]]);
        }
        let mut again = Staging::new();
        for StagedPacket { peer, attempt, bytes } in staging.copies() {
            assert_eq!((attempt, again.push(peer, attempt, [&bytes, &[]])), (7, 0));
        }
        let mut out = [0; 5001];
        for n in 0..20_u8 {
            let peer = PeerId(u64::from(n % 2));
            for staging in [&mut staging, &mut again] {
                assert_eq!(staging.pop(peer, &mut out), Some(5001));
                assert_eq!(out, [n; 5001]);
            }
        }
    }

    proptest! {
        #[test]
        fn packets_come_out_as_they_went_in(
            steps in prop::collection::vec((0_u64..3, prop::option::of(0_usize..9000)), 0..200),
        ) {
            let mut staging = Staging::new();
            let mut model: HashMap<u64, VecDeque<Vec<u8>>> = HashMap::new();
            let mut out = vec![0; 9000];
            for (n, (peer, step)) in steps.into_iter().enumerate() {
                let queue = model.entry(peer).or_default();
                if let Some(len) = step {
                    let packet = vec![n as u8; len];
                    let dropped = staging.push(PeerId(peer), 0, [&packet[..len / 3], &packet[len / 3..]]);
                    queue.push_back(packet);
                    queue.drain(..dropped as usize);
                } else {
                    let mut head = [0; 100];
                    let peeked = staging.peek(PeerId(peer), &mut head);
                    let got = staging.pop(PeerId(peer), &mut out).map(|len| out[..len].to_vec());
                    prop_assert_eq!(peeked, got.as_ref().map(Vec::len));
                    prop_assert!(got.iter().all(|got| got.iter().zip(head).all(|(byte, peeked)| *byte == peeked)));
                    prop_assert_eq!(got, queue.pop_front());
                }
            }
            for (peer, mut queue) in model {
                while let Some(expected) = queue.pop_front() {
                    let len = staging.pop(PeerId(peer), &mut out);
                    prop_assert_eq!(len.map(|len| out[..len].to_vec()), Some(expected));
                }
            }
            prop_assert!(staging.is_empty());
            prop_assert_eq!(staging.free_chunks, CHUNKS);
        }
    }
}
