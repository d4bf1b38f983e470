//! Shortcuts: if the worker that should write out a lone packet sleeps, the worker that read the packet
//! writes it out itself.
//!
//! Handing over a batch to a sleeping worker means waking a thread, which takes longer than sending one
//! datagram or writing one packet. Under load the other worker is awake and batches are longer, so no
//! shortcut is taken. Shortcuts reduce the latency of packets that come one at a time: pings, requests
//! and replies, acknowledgements.
//!
//! A shortcut does not reorder packets. Only the owner of a pool fills its batches, and a batch is
//! returned only after everything in it has been sent or written. If all other batches are free,
//! everything handed over earlier has left, and the packet in hand is next
//! ([`Pool::all_returned_but_one`]).

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::peers::Snapshot;
use super::ring::batch::{InboundBatch, OutboundBatch};
use super::ring::{Pool, Ring};
use super::sockets::LaneSockets;
use crate::faults::{self, Stage};
use crate::metrics::{SentShortcuts, WrittenShortcuts};
use crate::offload::QueueShortcut;

/// Sends lone datagrams from an inside worker directly to its lane's sockets.
pub struct SendShortcut {
    sockets: Arc<ArcSwap<LaneSockets>>,
    sent: SentShortcuts,
}

impl SendShortcut {
    /// Creates the shortcut to `sockets`, the lane's current sockets.
    pub fn new(sockets: Arc<ArcSwap<LaneSockets>>, sent: SentShortcuts) -> Self {
        Self { sockets, sent }
    }

    /// Sends `batch` instead of pushing it to `ring`, if it is one datagram, the outside
    /// worker sleeps, and nothing would be reordered. Returns whether it was sent.
    ///
    /// If the kernel refuses, the caller hands the batch over as usual, and the outside worker handles
    /// the error.
    pub fn send(
        &mut self,
        batch: &OutboundBatch,
        pool: &Pool<OutboundBatch>,
        ring: &Ring<OutboundBatch>,
        snapshot: &Snapshot,
    ) -> bool {
        let [run] = &batch.runs[..] else { return false };
        if run.len > u32::from(run.stride) || !ring.would_wake() || !pool.all_returned_but_one() {
            return false;
        }
        faults::point(Stage::SendShortcut);
        let datagram = &batch.data[run.start as usize..(run.start + run.len) as usize];
        let sockets = self.sockets.load();
        let peer = snapshot.peer(run.peer).map(Arc::as_ref);
        let sent = sockets.on(sockets.towards(peer)).send_one(datagram, &run.to, run.class).is_ok();
        if sent {
            if let Some(peer) = peer {
                peer.note_sent(datagram.len());
            }
            self.sent.count();
        }
        sent
    }
}

/// Writes lone packets from an outside worker directly to one of the TUN queues.
pub struct WriteShortcut {
    queue: QueueShortcut,
    written: WrittenShortcuts,
}

impl WriteShortcut {
    /// Creates the shortcut to `queue`.
    pub fn new(queue: QueueShortcut, written: WrittenShortcuts) -> Self {
        Self { queue, written }
    }

    /// Writes `batch` instead of pushing it to `ring`, if it is one packet, the inside worker
    /// sleeps, and nothing would be reordered. Returns whether it was written.
    pub fn write(
        &mut self,
        batch: &InboundBatch,
        pool: &Pool<InboundBatch>,
        ring: &Ring<InboundBatch>,
    ) -> bool {
        if batch.segments.len() != 1 || !ring.would_wake() || !pool.all_returned_but_one() {
            return false;
        }
        faults::point(Stage::WriteShortcut);
        let written = batch.packets().next().filter(|packet| self.queue.write(packet));
        if let Some(packet) = written {
            self.written.count(packet.len());
        }
        written.is_some()
    }
}
