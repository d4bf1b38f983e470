//! UDP to TUN, second half: coalesces opened segments into superpackets and writes them.
//!
//! A coalescing window covers only the batches that wait at the same time: a segment is never delayed
//! in the hope that more will come.

use std::sync::Arc;

use arrayvec::ArrayVec;

use crate::faults::{self, Stage};
use crate::lane::bounds::WINDOW_BATCHES;
use crate::lane::ring::Ring;
use crate::lane::ring::batch::InboundBatch;
use crate::metrics::InsideMetrics;
use crate::offload::{QueueWriter, Window};

/// Number of segments at which a window is written. Beyond a superpacket's worth, waiting only evicts
/// the bytes from the cache before they are copied.
const WRITE_AT: usize = 32;

/// The writing half of an inside worker.
pub struct PacketWriter {
    writer: QueueWriter,
    ring: Arc<Ring<InboundBatch>>,
    returns: Vec<Arc<Ring<InboundBatch>>>,
    /// Packets taken out of batches since the writer's counts were last published.
    taken: u64,
}

impl PacketWriter {
    /// Creates a writer of the batches in `ring` to the TUN queue `writer`. `returns` are the return
    /// rings, by the lane that owns the batch.
    pub fn new(
        writer: QueueWriter,
        ring: Arc<Ring<InboundBatch>>,
        returns: Vec<Arc<Ring<InboundBatch>>>,
    ) -> Self {
        Self { writer, ring, returns, taken: 0 }
    }

    /// Returns whether no batch waits.
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// Returns whether the queue accepts superpackets.
    pub fn merges(&self) -> bool {
        self.writer.limits().merges()
    }

    /// Coalesces and writes up to [`WINDOW_BATCHES`] waiting batches and returns them to their pools.
    /// Returns whether there were any.
    ///
    /// # Panics
    /// If a return ring is full, that is, if there are more batches than the pool owns.
    pub fn serve(&mut self, metrics: &mut InsideMetrics) -> bool {
        let mut batches: ArrayVec<Box<InboundBatch>, WINDOW_BATCHES> = ArrayVec::new();
        while !batches.is_full()
            && let Some(batch) = self.ring.pop()
        {
            batches.push(batch);
        }
        if batches.is_empty() {
            return false;
        }
        faults::point(Stage::Take);
        self.write(&mut batches);
        faults::point(Stage::Return);
        self.publish(metrics);
        for batch in batches {
            let returns = &self.returns[batch.returns];
            assert!(returns.push(batch).is_ok(), "a return ring holds every batch of its pool");
        }
        true
    }

    /// Publishes the writer's counts after a panic. Returns the number of packets that were neither written nor
    /// counted as dropped.
    pub(super) fn recover(&mut self, metrics: &mut InsideMetrics) -> u64 {
        let tally = self.writer.tally();
        let lost = self.taken.saturating_sub(tally.packets + tally.drops.total());
        self.publish(metrics);
        lost
    }

    fn publish(&mut self, metrics: &mut InsideMetrics) {
        self.taken = 0;
        metrics.note_writes(self.writer.tally());
    }

    /// Drops the waiting batches. Returns the number of packets dropped.
    pub(super) fn drop_waiting(&mut self) -> u64 {
        let mut lost = 0;
        while let Some(mut batch) = self.ring.pop() {
            lost += batch.segments.len() as u64;
            batch.segments.clear();
        }
        lost
    }

    /// Coalesces and writes the packets of `batches`, in order, and empties the batches.
    fn write(&mut self, batches: &mut [Box<InboundBatch>]) {
        let mut window = Window::new(self.writer.limits());
        for batch in batches {
            self.taken += batch.segments.len() as u64;
            for packet in batch.drain() {
                if window.is_full() {
                    window.flush(&mut self.writer);
                }
                window.push(packet);
            }
            if window.len() >= WRITE_AT {
                window.flush(&mut self.writer);
            }
        }
        window.flush(&mut self.writer);
    }
}
