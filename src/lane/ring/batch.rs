//! Batches: the unit that rings carry. A batch is one slab of bytes plus the list of its runs or
//! segments.

use std::net::{Ipv4Addr, SocketAddr};

use arrayvec::ArrayVec;

use crate::lane::bounds::{BATCH_RUNS, BATCH_SEGMENTS, SLAB_BYTES};
use crate::lane::share::jobs::{Job, Tag};
use crate::lane::share::opening::Opening;
use crate::lane::share::sealing::Unsealed;
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
    /// The runs that are not sealed yet. None once the batch is in a ring.
    pub unsealed: Unsealed,
    /// Number of datagrams lost because sealing them panicked. Their runs are gone.
    pub lost: u64,
    tag: Tag,
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

impl Run {
    /// Returns the number of datagrams.
    pub fn datagrams(&self) -> u64 {
        u64::from(self.len.div_ceil(u32::from(self.stride)))
    }
}

impl OutboundBatch {
    /// Creates an empty batch.
    pub fn new() -> Self {
        Self {
            data: slab(),
            runs: ArrayVec::new(),
            unsealed: Unsealed::default(),
            lost: 0,
            tag: Tag::default(),
        }
    }

    /// Returns the number of datagrams in all runs.
    pub fn datagrams(&self) -> u64 {
        self.runs.iter().map(Run::datagrams).sum()
    }

    /// Returns how many bytes of the slab are in use.
    pub fn used(&self) -> usize {
        self.runs.last().map_or(0, |run| (run.start + run.len) as usize)
    }
}

impl Job for OutboundBatch {
    /// Seals the runs that are not sealed yet.
    fn run(&mut self) {
        self.unsealed.seal(&mut self.data);
    }

    /// Drops all runs: which of them have been sealed is unknown.
    fn fail(&mut self) {
        self.lost += self.datagrams();
        self.runs.clear();
        self.unsealed.clear();
    }

    fn tag(&mut self) -> &mut Tag {
        &mut self.tag
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
    /// The received message, while the outside worker has the batch.
    pub message: Message,
    /// The part of the message that is being opened, or has been opened and not yet judged.
    pub opening: Opening,
    /// Number of datagrams lost because opening them panicked.
    pub lost: u64,
    tag: Tag,
    /// The lane whose outside worker owns the batch.
    pub returns: usize,
}

/// One received message: one datagram, or several of `stride` bytes from one sender, the last possibly
/// shorter.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// Length in bytes.
    pub len: usize,
    /// Length of each datagram except the last, in bytes.
    pub stride: usize,
    /// The sender.
    pub from: Endpoint,
    /// The ECN field of the outer IP headers.
    pub ecn: u8,
    /// Number of bytes at the front that are in the batch's opening, or behind it.
    pub begun: usize,
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
        let nobody = Endpoint::new(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0));
        Self {
            data: slab(),
            segments: ArrayVec::new(),
            message: Message { len: 0, stride: 1, from: nobody, ecn: 0, begun: 0 },
            opening: Opening::default(),
            lost: 0,
            tag: Tag::default(),
            returns,
        }
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

impl Job for InboundBatch {
    /// Opens the datagrams of the opening.
    fn run(&mut self) {
        self.opening.open(&mut self.data);
    }

    /// Drops the datagrams of the opening: which of them are authentic is unknown.
    fn fail(&mut self) {
        self.lost += self.opening.datagrams() as u64;
        self.opening.clear();
    }

    fn tag(&mut self) -> &mut Tag {
        &mut self.tag
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
