//! Batches: the unit that rings carry. A batch is one slab of bytes plus the list of its runs or
//! segments.
//!
//! A batch that is dropped, which happens if a worker panics with it in a local variable, goes back to its
//! pool, and the packets in it are counted as lost ([`Home`]). Workers that are done with a batch return it
//! explicitly, which is cheaper.

use std::mem;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Weak};

use arrayvec::ArrayVec;
use metrics::Counter;

use super::Ring;
use crate::faults::{self, Stage};
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

/// The pool that a batch goes back to when it is dropped.
#[derive(Debug)]
pub struct Home<T> {
    returns: Weak<Ring<T>>,
    /// Counts packets in dropped batches.
    lost: Counter,
}

impl<T> Home<T> {
    /// Creates a reference to the pool with the return ring `returns`. `lost` counts packets in dropped batches.
    pub fn new(returns: &Arc<Ring<T>>, lost: Counter) -> Self {
        Self { returns: Arc::downgrade(returns), lost }
    }

    /// Returns the return ring with the home itself, unless the router is gone.
    #[cold]
    fn open(self) -> Option<(Self, Arc<Ring<T>>)> {
        let returns = self.returns.upgrade()?;
        Some((self, returns))
    }
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
    home: Option<Home<OutboundBatch>>,
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
        self.len.div_ceil(self.stride.into()).into()
    }
}

impl OutboundBatch {
    /// Creates an empty batch.
    pub fn new() -> Self {
        Self::with(slab(), None)
    }

    fn with(data: Box<[u8]>, home: Option<Home<Self>>) -> Self {
        Self {
            data,
            runs: ArrayVec::new(),
            unsealed: Unsealed::default(),
            lost: 0,
            tag: Tag::default(),
            home,
        }
    }

    /// Sets the pool that the batch goes back to when it is dropped.
    pub fn set_home(&mut self, home: Home<Self>) {
        self.home = Some(home);
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
        if self.tag.is_helped() {
            faults::point(Stage::Help);
        }
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

impl Drop for OutboundBatch {
    fn drop(&mut self) {
        let Some((home, returns)) = self.home.take().and_then(Home::open) else { return };
        home.lost.increment(self.datagrams());
        let renewed = Self::with(mem::take(&mut self.data), Some(home));
        if let Err(mut surplus) = returns.push(Box::new(renewed)) {
            // Not reached: the ring holds every batch of the pool.
            surplus.home = None;
        }
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
    home: Option<Home<InboundBatch>>,
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
        Self::with(slab(), returns, None)
    }

    fn with(data: Box<[u8]>, returns: usize, home: Option<Home<Self>>) -> Self {
        let nobody = Endpoint::new(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0));
        Self {
            data,
            segments: ArrayVec::new(),
            message: Message { len: 0, stride: 1, from: nobody, ecn: 0, begun: 0 },
            opening: Opening::default(),
            lost: 0,
            tag: Tag::default(),
            returns,
            home,
        }
    }

    /// Sets the pool that the batch goes back to when it is dropped.
    pub fn set_home(&mut self, home: Home<Self>) {
        self.home = Some(home);
    }

    /// Returns the number of datagrams of the message that have not been judged.
    pub fn unjudged(&self) -> u64 {
        let Message { len, stride, begun, .. } = self.message;
        (self.opening.datagrams() + (len - begun).div_ceil(stride)) as u64
    }

    /// Removes the packets from the list and iterates over them, in order.
    pub fn drain(&mut self) -> impl Iterator<Item = &[u8]> {
        let data = &self.data;
        self.segments.drain(..).map(|s| &data[s.start as usize..(s.start + s.len) as usize])
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
        faults::point(Stage::OpenJob);
        if self.tag.is_helped() {
            faults::point(Stage::Help);
        }
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

impl Drop for InboundBatch {
    fn drop(&mut self) {
        let Some((home, returns)) = self.home.take().and_then(Home::open) else { return };
        home.lost.increment(self.segments.len() as u64);
        let renewed = Self::with(mem::take(&mut self.data), self.returns, Some(home));
        if let Err(mut surplus) = returns.push(Box::new(renewed)) {
            // Not reached: the ring holds every batch of the pool.
            surplus.home = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::ring::Pool;
    use crate::lane::ring::doorbell::Doorbell;
    use crate::metrics::exposition::Exposition;
    use crate::metrics::{Registry, lost_in_panics};

    #[test]
    fn a_dropped_batch_goes_back_to_its_pool_and_what_it_held_is_counted() {
        let registry = Registry::new();
        let lost = || lost_in_panics(&registry, 0, "inbound");
        let bell = || Arc::new(Doorbell::new().unwrap());
        let mut inbound = Pool::new(2, bell(), || InboundBatch::new(0))
            .adopting(|batch, returns| batch.set_home(Home::new(returns, lost())));
        let mut outbound = Pool::new(2, bell(), OutboundBatch::new)
            .adopting(|batch, returns| batch.set_home(Home::new(returns, lost())));
        for _ in 0..5 {
            let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let (mut inward, mut outward) = (inbound.take().unwrap(), outbound.take().unwrap());
                assert!(inward.append(&[1]) && inward.append(&[2]));
                let to = Endpoint::new(([192, 0, 2, 1], 9).into());
                outward.runs.push(Run { start: 0, len: 250, stride: 100, class: 0, to, peer: PeerId(0) });
                panic!("as the test intends");
            }));
            assert!(panic.is_err());
            assert_eq!((inbound.available(), outbound.available()), (2, 2));
        }
        let kept = inbound.take().unwrap();
        assert!(kept.segments.is_empty() && kept.data.len() == SLAB_BYTES);
        let shown = Exposition::parse(&registry.render()).unwrap();
        assert!(
            (shown.sum("laneway_dropped_packets_total", &[("reason", "worker_restart")]) - 25.0).abs() < 0.5
        );
        // A batch that outlives its router is freed.
        let weak = Arc::downgrade(inbound.returns());
        drop(inbound);
        drop(kept);
        assert_eq!(weak.strong_count(), 0);
    }

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
