//! The inside worker, which owns one TUN queue.
//!
//! Each turn it writes the packets in its ring to the queue ([`write`]), then drains the queue and
//! seals what it reads ([`seal`]) or answers the sender ([`reject`]). If there was nothing to do, it
//! sleeps. The ring comes first because nothing else empties it, while the kernel's queue pushes back on
//! its senders.

#[cfg(any(test, fuzzing))]
mod detached;
mod handover;
mod reject;
mod seal;
mod write;

use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::poll::PollFlags;

#[cfg(any(test, fuzzing))]
pub(crate) use detached::Detached;
use handover::Handover;
pub use reject::{OwnAddresses, REJECT_BURST, REJECTS_PER_SECOND, RejectPolicy, Rejecter};
pub use seal::{Sealer, Unstaged};
pub use write::PacketWriter;

use super::WorkerError;
use super::peers::{PeerRecord, Peers, Snapshot};
use super::ring::Pool;
use super::ring::batch::OutboundBatch;
use super::ring::custody::Holdings;
use super::ring::doorbell::Awaited;
use super::share::helpers::Helper;
use super::wait::pause::{Look, Paused};
use super::wait::quiesce::{self, Quiesce, Served};
use super::wait::sleep::{Sleeper, Spin, Stopped};
use crate::clock;
use crate::drops::DropReason;
use crate::metrics::{Dropped, InsideMetrics};
use crate::offload::{DrainEnd, QueueReader, Read, Superpacket};
use crate::packet::reject::Cause;
use crate::units::Nanos;

/// An inside worker. See the [module documentation](self).
pub struct InsideWorker {
    /// Reads from the TUN queue.
    pub reader: QueueReader,
    /// Writes packets from the ring to the TUN queue.
    pub writer: PacketWriter,
    /// Seals packets from the TUN queue for the outside worker.
    pub sealer: Sealer,
    /// Holds the staged packet that is being sealed.
    pub unstaged: Unstaged,
    /// Answers packets that are not sent.
    pub rejecter: Rejecter,
    /// The current peers and allowed IPs.
    pub peers: arc_swap::Cache<Arc<Peers>, Arc<Snapshot>>,
    /// Takes other workers' jobs, if sharing is on.
    pub helper: Option<Helper>,
    /// The batches held while the worker sleeps.
    pub holdings: Arc<Holdings>,
    /// Blocks the thread while there is no work.
    pub sleeper: Sleeper,
    /// The shutdown protocol.
    pub quiesce: Quiesce,
    /// Pauses the worker.
    pub paused: Paused,
    /// Maximum number of TUN reads per wake.
    pub drain_cap: usize,
    /// How long to poll for work before sleeping.
    pub spin: Duration,
    /// The worker's metrics.
    pub metrics: InsideMetrics,
}

impl InsideWorker {
    /// Runs until the router stops, then writes what the ring still holds.
    ///
    /// # Errors
    /// If the TUN queue fails, for example because the device was deleted.
    pub fn run(&mut self) -> Result<(), WorkerError> {
        let outcome = self.work();
        self.finish();
        match outcome {
            Err(WorkerError::Stopped) => Ok(()),
            outcome => outcome,
        }
    }

    fn work(&mut self) -> Result<(), WorkerError> {
        let mut spin = Spin::new(self.spin);
        self.metrics.gso_enabled.set(f64::from(u8::from(self.writer.merges())));
        while !self.sleeper.stopped() {
            if self.paused.is_wanted() {
                self.hold();
            } else if self.turn()? || self.help() {
                spin.worked();
            } else if !spin.goes_on() {
                self.sleep()?;
                spin.worked();
            }
        }
        Ok(())
    }

    /// Stops reading, passes on what was read and writes what the ring brings, until the pause ends.
    #[cold]
    fn hold(&mut self) {
        let Self { writer, sealer, peers, metrics, paused, sleeper, .. } = self;
        sealer.flush(peers.load(), metrics);
        let sealer = std::cell::RefCell::new(sealer);
        paused.hold(
            || {
                sleeper.beat();
                if sleeper.stopped() {
                    return None;
                }
                let mut sealer = sealer.borrow_mut();
                let handover = sealer.handover();
                let worked = handover.work(metrics) | writer.serve(metrics);
                metrics.publish();
                Some(Look { worked, closed: handover.is_empty(), empty: writer.is_empty() })
            },
            || sealer.borrow().staged(),
        );
    }

    /// Stops reading, and writes what the ring brings until the outside workers have closed.
    fn finish(&mut self) {
        self.sleeper.stop_all();
        let Self { writer, sealer, peers, metrics, quiesce, .. } = self;
        sealer.flush(peers.load(), metrics);
        let handover = sealer.handover();
        quiesce.wait(|| {
            let worked = handover.work(metrics) | writer.serve(metrics);
            if handover.is_empty() { None } else { Some(worked) }
        });
        metrics.outbound_drops.add(DropReason::Shutdown, handover.discard());
        metrics.outbound_drops.add(DropReason::Shutdown, sealer.drop_staged());
        quiesce.close();
        quiesce.finish(|| if writer.serve(metrics) { Served::Some } else { Served::Nothing });
        metrics.inbound_drops.add(DropReason::Shutdown, writer.drop_waiting());
        metrics.publish();
    }

    /// Discards the packets in hand after a panic and counts them as lost.
    pub fn recover(&mut self) {
        self.holdings.rise();
        let outbound = self.reader.recover() + self.sealer.recover();
        let inbound = self.writer.recover(&mut self.metrics);
        self.metrics.outbound_drops.add(DropReason::WorkerRestart, outbound);
        self.metrics.inbound_drops.add(DropReason::WorkerRestart, inbound);
    }

    /// Runs one turn. Returns whether there was anything to do.
    fn turn(&mut self) -> Result<bool, WorkerError> {
        self.sleeper.beat();
        let wrote = self.writer.serve(&mut self.metrics);
        let worked = self.seal()? || wrote;
        if worked {
            self.metrics.publish();
        }
        Ok(worked)
    }

    /// Does a job of another worker, if this one was called. Returns whether there was one.
    fn help(&mut self) -> bool {
        self.helper.as_ref().is_some_and(|helper| helper.help(&mut self.metrics.jobs.calls))
    }

    /// Seals staged packets that now have a session, then drains the TUN queue. Returns whether there was
    /// anything to do.
    ///
    /// Both use the same snapshot. With two, a packet could overtake an earlier one of its flow that is
    /// still staged for the previous owner of the allowed IPs.
    fn seal(&mut self) -> Result<bool, WorkerError> {
        let Self {
            reader,
            writer,
            sealer,
            unstaged,
            rejecter,
            peers,
            sleeper,
            holdings,
            metrics,
            drain_cap,
            ..
        } = self;
        let snapshot = peers.load();
        let mut turn = Turn { now: clock::now(), snapshot, writer, rejecter, sleeper, holdings, metrics };
        let passed = sealer.pass_on(turn.metrics);
        let released = sealer.release_staged(unstaged, &mut turn)?;
        let mut packets = 0;
        let end = loop {
            if packets == *drain_cap {
                break DrainEnd::Cap;
            }
            if sealer.is_starved() {
                break DrainEnd::Headroom;
            }
            match reader.read()? {
                Read::Empty => break DrainEnd::Empty,
                Read::Malformed(reason) => {
                    packets += 1;
                    turn.metrics.outbound_drops.add(reason, 1);
                    break DrainEnd::Malformed;
                }
                Read::Packet(superpacket) => {
                    packets += 1;
                    turn.metrics.note_read(&superpacket);
                    sealer.forward(&superpacket, &mut turn)?;
                }
            }
        };
        sealer.flush(turn.snapshot, turn.metrics);
        sealer.note_drain(end == DrainEnd::Empty, turn.now);
        if packets > 0 {
            metrics.note_drain(packets, end);
        }
        // More to read comes before sealing: the batches wait for whoever has time.
        let worked = end != DrainEnd::Cap && sealer.work(metrics);
        Ok(passed || released || worked || packets > 0)
    }

    fn sleep(&mut self) -> Result<(), Stopped> {
        let starved = self.sealer.is_starved();
        if starved {
            self.metrics.pool_exhausted.add(1);
        }
        // Without a free batch the queue is not read: it fills up, and the kernel blocks its senders.
        let queue = (!starved).then(|| (self.reader.as_fd(), PollFlags::POLLIN));
        let awaited = if starved { Awaited::ANY } else { Awaited::WORK };
        let awaited = if self.sealer.has_staged() { awaited.with(Awaited::ROUTES) } else { awaited };
        let awaited = self.sealer.handover().awaited(awaited);
        let awaited = self.helper.as_ref().map_or(awaited, |helper| helper.awaited(awaited));
        let peers = self.peers.arc_swap();
        self.holdings.rest(0, self.sealer.batches());
        let Self { writer, sealer, helper, .. } = self;
        let slept = self.sleeper.sleep(awaited, queue, None, || {
            writer.is_empty()
                && starved == sealer.is_starved()
                && (starved || !sealer.has_releasable(&peers.load(), clock::now()))
                && sealer.handover().must_wait()
                && !helper.as_ref().is_some_and(Helper::is_called)
        });
        self.holdings.rise();
        slept?;
        self.metrics.wakeups.add(1);
        Ok(())
    }
}

/// The state the outbound path uses during one turn.
struct Turn<'w> {
    now: Nanos,
    snapshot: &'w Snapshot,
    writer: &'w mut PacketWriter,
    rejecter: &'w mut Rejecter,
    sleeper: &'w Sleeper,
    holdings: &'w Holdings,
    metrics: &'w mut InsideMetrics,
}

impl Turn<'_> {
    /// Counts `packet`, to `peer` if there is one, as dropped for `reason`.
    fn note_drop(&mut self, packet: &Superpacket<'_>, reason: DropReason, peer: Option<&PeerRecord>) {
        self.metrics.outbound_drops.add_described(reason, packet.segments() as u64, || {
            Dropped::packet(packet.packet()).with_peer(peer.map(|peer| peer.public_key))
        });
    }

    /// Drops `packet`, counted under `reason`, and answers its sender with `cause`.
    fn refuse(
        &mut self,
        packet: &Superpacket<'_>,
        reason: DropReason,
        peer: Option<&PeerRecord>,
        cause: Cause,
    ) {
        self.note_drop(packet, reason, peer);
        self.rejecter.reject(packet, cause, self.now, self.metrics);
    }

    /// Waits for a free batch of `pool`. Serves the ring meanwhile, so that this worker and an outside
    /// worker cannot wait for each other's batches.
    fn batch(
        &mut self,
        pool: &mut Pool<OutboundBatch>,
        handover: &mut Handover,
    ) -> Result<Box<OutboundBatch>, Stopped> {
        if let Some(batch) = pool.take() {
            return Ok(batch);
        }
        self.metrics.pool_exhausted.add(1);
        loop {
            if let Some(batch) = pool.take() {
                return Ok(batch);
            }
            if self.sleeper.stopped() {
                return self.last_batch(pool, handover);
            }
            if !self.writer.serve(self.metrics) && !handover.work(self.metrics) {
                let awaited = handover.awaited(Awaited::ANY);
                // The worker holds no batch here: its pool is empty, and the full one was handed over. The loop
                // checks for a stop itself.
                self.holdings.rest(0, pool.kept() + handover.batches());
                let _ = self.sleeper.sleep(awaited, None, None, || {
                    self.writer.is_empty() && pool.is_empty() && handover.must_wait()
                });
                self.holdings.rise();
            }
        }
    }

    /// Waits for a free batch during shutdown, for at most half of [`LIMIT`](quiesce::LIMIT). The outside
    /// worker still sends what is in its ring, which frees batches unless its socket is blocked.
    #[cold]
    fn last_batch(
        &mut self,
        pool: &mut Pool<OutboundBatch>,
        handover: &mut Handover,
    ) -> Result<Box<OutboundBatch>, Stopped> {
        let start = clock::now();
        loop {
            if let Some(batch) = pool.take() {
                return Ok(batch);
            }
            if clock::now().since(start) > quiesce::LIMIT / 2 {
                return Err(Stopped);
            }
            if !self.writer.serve(self.metrics) && !handover.work(self.metrics) {
                thread::sleep(quiesce::PAUSE);
            }
        }
    }
}
