//! An inside worker without TUN queue and thread, run step by step.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use arc_swap::ArcSwap;

use super::seal::Unstaged;
use super::{OwnAddresses, PacketWriter, RejectPolicy, Rejecter, Sealer, Turn};
use crate::drops::DropReason;
use crate::lane::channels::ActorChannel;
use crate::lane::peers::Snapshot;
use crate::lane::ring::batch::OutboundBatch;
use crate::lane::ring::custody::Holdings;
use crate::lane::ring::doorbell::Doorbell;
use crate::lane::ring::{Pool, Ring};
use crate::lane::shortcut::SendShortcut;
use crate::lane::sockets::LaneSockets;
use crate::lane::wait::sleep::Sleeper;
use crate::metrics::{InsideMetrics, Registry, SentShortcuts};
use crate::offload::{self, Superpacket};
use crate::packet::class::Dscp;
use crate::shutdown::Shutdown;
use crate::underlay::SocketOptions;
use crate::units::Nanos;
use crate::wireguard::lanes::LaneHash;

/// The sealing half of an inside worker. What it would write to the TUN is discarded.
pub(crate) struct Detached {
    sealer: Sealer,
    unstaged: Unstaged,
    writer: PacketWriter,
    rejecter: Rejecter,
    sleeper: Sleeper,
    holdings: Holdings,
    metrics: InsideMetrics,
    ring: Arc<Ring<OutboundBatch>>,
    returns: Arc<Ring<OutboundBatch>>,
}

impl Detached {
    /// Creates a worker with `batches` batches that sends its events to `actor`.
    pub(crate) fn new(batches: usize, actor: Arc<ActorChannel>, registry: &Registry) -> Self {
        let bell = || Arc::new(Doorbell::new().expect("a descriptor"));
        let shutdown = Arc::new(Shutdown::new().expect("a descriptor"));
        let (writer, rejecter, _) = offload::discarding(&shutdown);
        let pool = Pool::new(batches, bell(), OutboundBatch::new);
        let ring = Arc::new(Ring::new(batches, bell()));
        let returns = Arc::clone(pool.returns());
        // Never used, because nobody sleeps at the ring.
        let options = SocketOptions { buffer: 4096, ..SocketOptions::default() };
        let sockets = LaneSockets::open(0, LaneHash::default(), false, options).expect("a socket").remove(0);
        let shortcut =
            SendShortcut::new(Arc::new(ArcSwap::from_pointee(sockets)), SentShortcuts::register(registry, 0));
        let own: Arc<OwnAddresses> = Arc::default();
        let mtu = Arc::new(AtomicUsize::new(1420));
        Detached {
            sealer: Sealer::new(pool, Arc::clone(&ring), None, shortcut, actor, mtu, Dscp::default()),
            writer: PacketWriter::new(writer, Arc::new(Ring::new(1, bell())), Vec::new()),
            rejecter: Rejecter::new(rejecter, RejectPolicy::Drop, own),
            unstaged: Unstaged::default(),
            sleeper: Sleeper::new(bell(), shutdown),
            holdings: Holdings::default(),
            metrics: InsideMetrics::register(registry, 0),
            ring,
            returns,
        }
    }

    /// Runs a turn with this snapshot: seals staged packets that can be sent, then `packets`, which were
    /// read from the TUN.
    pub(crate) fn turn(&mut self, snapshot: &Snapshot, now: Nanos, packets: &[Superpacket<'_>]) {
        let Self { sealer, unstaged, writer, rejecter, sleeper, holdings, metrics, .. } = self;
        let mut turn = Turn { now, snapshot, writer, rejecter, sleeper, holdings, metrics };
        let never = "the router runs";
        while sealer.release_staged(unstaged, &mut turn).expect(never) {}
        for packet in packets {
            sealer.forward(packet, &mut turn).expect(never);
        }
        sealer.flush(snapshot, metrics);
        sealer.work(metrics);
    }

    /// Takes the batches that the outside worker would send, and passes each to `send`.
    pub(crate) fn take_sealed(&mut self, mut send: impl FnMut(&OutboundBatch)) {
        while let Some(mut batch) = self.ring.pop() {
            send(&batch);
            batch.runs.clear();
            assert!(self.returns.push(batch).is_ok(), "a return ring holds every batch of its pool");
        }
    }

    /// Returns how many packets were dropped for `reason` since the last call.
    pub(crate) fn take_drops(&mut self, count: impl FnMut(DropReason, u64)) {
        self.metrics.outbound_drops.tally().take(count);
    }
}
