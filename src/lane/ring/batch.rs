//! Batches: the unit that rings carry. A batch is one slab of bytes plus the list of its runs or
//! segments.

use arrayvec::ArrayVec;

use crate::lane::bounds::{BATCH_RUNS, BATCH_SEGMENTS, SLAB_BYTES};
use crate::underlay::Endpoint;
use crate::units::PeerId;

/// Allocates a zeroed slab. The kernel backs its pages with memory on first touch.
fn slab() -> Box<[u8]> {
    vec![0; SLAB_BYTES].into_boxed_slice()
}

/// Sealed datagrams, passed from an inside worker to its outside worker.
#[derive(Debug)]
pub struct OutboundBatch {
    /// The datagrams of all runs, back to back.
    pub data: Box<[u8]>,
    /// The runs, in sending order.
    pub runs: ArrayVec<Run, BATCH_RUNS>,
}

/// The datagrams of one GSO send: one destination and traffic class, each `stride` bytes long except the last, which may
/// be shorter.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Offset in the slab, in bytes.
    pub start: u32,
    /// Total length of the datagrams, in bytes.
    pub len: u32,
    /// Length of each datagram except the last, in bytes.
    pub stride: u16,
    /// The traffic class of the outer IP headers.
    pub class: u8,
    /// The destination.
    pub to: Endpoint,
    /// The peer the datagrams are sealed for.
    pub peer: PeerId,
}

impl OutboundBatch {
    /// Creates an empty batch.
    pub fn new() -> Self {
        Self { data: slab(), runs: ArrayVec::new() }
    }

    /// Returns how many bytes of the slab are in use.
    pub fn used(&self) -> usize {
        self.runs.last().map_or(0, |run| (run.start + run.len) as usize)
    }
}

impl Default for OutboundBatch {
    fn default() -> Self {
        Self::new()
    }
}

/// Opened packets, passed from an outside worker to an inside worker.
#[derive(Debug)]
pub struct InboundBatch {
    /// The slab. Only the bytes that `segments` lists are meaningful.
    pub data: Box<[u8]>,
    /// The packets, in order of arrival.
    pub segments: ArrayVec<Segment, BATCH_SEGMENTS>,
    /// The lane whose outside worker owns the batch.
    pub returns: usize,
}

/// One inner IP packet, without WireGuard's padding.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// Offset in the slab, in bytes.
    pub start: u32,
    /// Length in bytes.
    pub len: u32,
}

impl InboundBatch {
    /// Creates an empty batch owned by lane `returns`.
    pub fn new(returns: usize) -> Self {
        Self { data: slab(), segments: ArrayVec::new(), returns }
    }

    /// Iterates over the packets, in order.
    pub fn packets(&self) -> impl Iterator<Item = &[u8]> {
        self.segments.iter().map(|s| &self.data[s.start as usize..(s.start + s.len) as usize])
    }

    /// Copies `packet` behind the last one. Returns false, without copying, if it does not fit.
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
