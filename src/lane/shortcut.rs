//! Shortcuts: a lone packet is written out by the worker that read it if the lane's other worker
//! sleeps.
//!
//! To hand over a batch is to wake a thread, which takes longer than to send one datagram or to write
//! one packet. Under load the other worker is awake, batches are longer, and each worker keeps its
//! part; so what is spared is the time of packets that come one by one: pings, questions and answers,
//! acknowledgements.
//!
//! Nothing is overtaken. Only the owner of a pool fills its batches, and a batch comes home after all
//! that was in it has been sent or written. If all others are at home, everything the owner has
//! ever handed over is out, and the packet in hand is the next ([`Pool::is_home_but_one`]).

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::batch::{InboundBatch, OutboundBatch};
use super::inbox::{Inbox, Pool};
use super::outside::LaneSockets;
use super::peers::Snapshot;
use super::telemetry::{SentShortcuts, WrittenShortcuts};
use crate::offload::QueueShortcut;

/// From an inside worker to its lane's sockets.
pub struct SendShortcut {
    sockets: Arc<ArcSwap<LaneSockets>>,
    sent: SentShortcuts,
}

impl SendShortcut {
    /// To whatever `sockets` the lane has at the time.
    pub fn new(sockets: Arc<ArcSwap<LaneSockets>>, sent: SentShortcuts) -> Self {
        Self { sockets, sent }
    }

    /// Sends `batch`, which is about to be put into `outbox`, if it is one datagram and may pass; whether
    /// it was sent. What the kernel refuses goes the usual way, where that is dealt with.
    pub fn send(
        &mut self,
        batch: &OutboundBatch,
        pool: &Pool<OutboundBatch>,
        outbox: &Inbox<OutboundBatch>,
        snapshot: &Snapshot,
    ) -> bool {
        let [run] = &batch.runs[..] else { return false };
        if run.len > u32::from(run.stride) || !outbox.would_wake() || !pool.is_home_but_one() {
            return false;
        }
        let datagram = &batch.data[run.start as usize..(run.start + run.len) as usize];
        let sockets = self.sockets.load();
        let port = sockets.towards(snapshot.peer(run.peer).map(Arc::as_ref));
        let sent = sockets.on(port).send_one(datagram, &run.to).is_ok();
        if sent {
            self.sent.count();
        }
        sent
    }
}

/// From an outside worker to one of the TUN queues.
pub struct WriteShortcut {
    queue: QueueShortcut,
    written: WrittenShortcuts,
}

impl WriteShortcut {
    /// To `queue`.
    pub fn new(queue: QueueShortcut, written: WrittenShortcuts) -> Self {
        Self { queue, written }
    }

    /// Writes `batch`, which is about to be put into `inbox`, if it is one packet and may pass; whether it
    /// was written.
    pub fn write(
        &mut self,
        batch: &InboundBatch,
        pool: &Pool<InboundBatch>,
        inbox: &Inbox<InboundBatch>,
    ) -> bool {
        if batch.segments.len() != 1 || !inbox.would_wake() || !pool.is_home_but_one() {
            return false;
        }
        let written = batch.packets().next().filter(|packet| self.queue.write(packet));
        if let Some(packet) = written {
            self.written.count(packet.len());
        }
        written.is_some()
    }
}
