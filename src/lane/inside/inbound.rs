//! Socket to TUN, second half: opened segments become superpackets again.
//!
//! One coalescing window reaches over the batches that wait together, and no further: nothing is
//! ever held back for more to come.

use std::sync::Arc;

use arrayvec::ArrayVec;

use crate::lane::batch::InboundBatch;
use crate::lane::bounds::WINDOW_BATCHES;
use crate::lane::inbox::Inbox;
use crate::lane::telemetry::InsideTelemetry;
use crate::offload::{Limits, QueueWriter, Window};

/// Segments in a window that are worth a write at once: past a superpacket's worth, more waiting
/// only pushes the bytes out of the cache before they are copied.
const WRITE_AT: usize = 32;

/// The writing half of an inside worker.
pub struct Inbound {
    writer: QueueWriter,
    inbox: Arc<Inbox<InboundBatch>>,
    homes: Vec<Arc<Inbox<InboundBatch>>>,
}

impl Inbound {
    /// Writes what comes in at `inbox` to `writer`, and sends emptied slabs back on the return
    /// ring of the lane they belong to.
    pub fn new(
        writer: QueueWriter,
        inbox: Arc<Inbox<InboundBatch>>,
        homes: Vec<Arc<Inbox<InboundBatch>>>,
    ) -> Self {
        Self { writer, inbox, homes }
    }

    /// Whether no batch waits.
    pub fn is_empty(&self) -> bool {
        self.inbox.is_empty()
    }

    /// Whether the queue takes superpackets.
    pub fn merges(&self) -> bool {
        self.writer.limits() != Limits::NONE
    }

    /// Coalesces and writes the batches that wait, up to a bound; whether there were any.
    ///
    /// # Panics
    /// If a return ring is full: there are more batches than were made.
    pub fn serve(&mut self, telemetry: &mut InsideTelemetry) -> bool {
        let mut batches: ArrayVec<Box<InboundBatch>, WINDOW_BATCHES> = ArrayVec::new();
        while !batches.is_full()
            && let Some(batch) = self.inbox.pop()
        {
            batches.push(batch);
        }
        if batches.is_empty() {
            return false;
        }
        self.write(&batches);
        telemetry.note_writes(self.writer.tally());
        for mut batch in batches {
            batch.segments.clear();
            let home = &self.homes[batch.home];
            assert!(home.push(batch).is_ok(), "a return ring holds every batch of its pool");
        }
        true
    }

    /// Drops the batches that wait: how many packets.
    pub(super) fn drop_waiting(&mut self) -> u64 {
        let mut lost = 0;
        while let Some(batch) = self.inbox.pop() {
            lost += batch.segments.len() as u64;
        }
        lost
    }

    /// Coalesces and writes what is in `batches`, in order.
    fn write(&mut self, batches: &[Box<InboundBatch>]) {
        let mut window = Window::new(self.writer.limits());
        for batch in batches {
            for packet in batch.packets() {
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
