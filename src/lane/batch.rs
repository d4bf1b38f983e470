//! Batches: what one inbox slot carries. Each owns one slab of bytes and a list of what is in it.

use arrayvec::ArrayVec;

use super::bounds::{BATCH_RUNS, BATCH_SEGMENTS, SLAB_BYTES};
use crate::underlay::Endpoint;
use crate::units::PeerId;

/// A slab of zeroes whose pages the kernel hands out when they are first touched.
fn slab() -> Box<[u8]> {
    vec![0; SLAB_BYTES].into_boxed_slice()
}

/// Sealed datagrams on their way from an inside worker to its socket.
#[derive(Debug)]
pub struct OutboundBatch {
    /// The datagrams of all runs, back to back.
    pub data: Box<[u8]>,
    /// What to send, in order.
    pub runs: ArrayVec<Run, BATCH_RUNS>,
}

/// Datagrams for one destination that one GSO send can carry: all `stride` bytes long, the last
/// one maybe shorter.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// First byte in the slab.
    pub start: u32,
    /// Bytes of all its datagrams.
    pub len: u32,
    /// Bytes of each datagram but the last.
    pub stride: u16,
    /// Where it goes.
    pub to: Endpoint,
    /// Whose it is.
    pub peer: PeerId,
}

impl OutboundBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self { data: slab(), runs: ArrayVec::new() }
    }

    /// Bytes that are taken.
    pub fn used(&self) -> usize {
        self.runs.last().map_or(0, |run| (run.start + run.len) as usize)
    }
}

impl Default for OutboundBatch {
    fn default() -> Self {
        Self::new()
    }
}

/// Opened packets on their way from an outside worker to a TUN queue.
#[derive(Debug)]
pub struct InboundBatch {
    /// Received bytes; what lies between the segments is of no use to anyone.
    pub data: Box<[u8]>,
    /// Where the packets are, in the order they came.
    pub segments: ArrayVec<Segment, BATCH_SEGMENTS>,
    /// The lane whose outside worker owns the slab.
    pub home: usize,
}

/// One inner IP packet, trimmed to its own length.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// First byte in the slab.
    pub start: u32,
    /// Bytes.
    pub len: u32,
}

impl InboundBatch {
    /// An empty batch that belongs to lane `home`.
    pub fn new(home: usize) -> Self {
        Self { data: slab(), segments: ArrayVec::new(), home }
    }

    /// The packets, in order.
    pub fn packets(&self) -> impl Iterator<Item = &[u8]> {
        self.segments.iter().map(|s| &self.data[s.start as usize..(s.start + s.len) as usize])
    }

    /// Copies a packet behind the last one; false if there is no room for it.
    #[must_use]
    pub fn append(&mut self, packet: &[u8]) -> bool {
        let start = self.segments.last().map_or(0, |s| (s.start + s.len) as usize);
        let Some(room) = self.data.get_mut(start..start + packet.len()) else { return false };
        if self.segments.is_full() {
            return false;
        }
        room.copy_from_slice(packet);
        self.segments.push(Segment { start: start as u32, len: packet.len() as u32 });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inbound_batch_takes_packets_until_it_is_full() {
        let mut batch = InboundBatch::new(0);
        let packet = [7; 1000];
        let mut taken = 0;
        while batch.append(&packet) {
            taken += 1;
        }
        assert_eq!(taken, SLAB_BYTES / 1000);
        assert!(batch.packets().all(|p| p == packet));
        let mut many = InboundBatch::new(0);
        assert_eq!((0..1000).filter(|_| many.append(&[1])).count(), BATCH_SEGMENTS);
    }
}
