//! The inside worker: owner of one TUN queue.
//!
//! Each turn it first writes what its inbox holds ([`inbound`]), then drains the TUN queue and
//! seals what it reads ([`outbound`]) or tells the sender why not ([`reject`]), then sleeps if there
//! was neither. The inbox comes first
//! because nothing else empties it, while the kernel's queue pushes back on its senders.

mod inbound;
mod outbound;
mod reject;

use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::poll::PollFlags;

pub use inbound::Inbound;
pub use outbound::Outbound;
pub use reject::{OwnAddresses, REJECT_BURST, REJECTS_PER_SECOND, RejectPolicy, Rejects};

use super::batch::OutboundBatch;
use super::doorbell::Awaited;
use super::drain::{self, Drain, Served};
use super::inbox::Pool;
use super::peers::{Peers, Snapshot};
use super::sleep::{Sleeper, Stopped};
use super::spin::Spin;
use super::telemetry::InsideTelemetry;
use super::worker::WorkerError;
use crate::drops::DropReason;
use crate::offload::{DrainEnd, QueueReader, Read, Superpacket};
use crate::packet::reject::Cause;
use crate::sys::clock;
use crate::units::Nanos;

/// What an inside worker is made of. See the [module](self) for what it does.
pub struct InsideWorker {
    /// The reading end of its TUN queue.
    pub reader: QueueReader,
    /// Writes packets from its inbox to the queue.
    pub inbound: Inbound,
    /// Seals packets from the queue for its outside worker.
    pub outbound: Outbound,
    /// Answers packets that are not sent.
    pub rejects: Rejects,
    /// Whose packets are whose.
    pub peers: arc_swap::Cache<Arc<Peers>, Arc<Snapshot>>,
    /// How it sleeps.
    pub sleeper: Sleeper,
    /// How it stops.
    pub drain: Drain,
    /// TUN reads after one wake, at the most.
    pub drain_cap: usize,
    /// How long it looks for work before it sleeps.
    pub spin: Duration,
    /// Its counters.
    pub telemetry: InsideTelemetry,
}

impl InsideWorker {
    /// Works until the router stops, and then writes what its inbox still holds.
    ///
    /// # Errors
    /// The queue is gone: its device was deleted, or the kernel refuses to read it.
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
        self.telemetry.gso_enabled.set(f64::from(u8::from(self.inbound.merges())));
        while !self.sleeper.stopped() {
            if self.turn()? {
                spin.worked();
            } else if !spin.goes_on() {
                self.sleep()?;
                spin.worked();
            }
        }
        Ok(())
    }

    /// Reads no more, and writes what comes until nothing can come any more.
    fn finish(&mut self) {
        self.sleeper.stop_all();
        let Self { inbound, outbound, peers, telemetry, drain, .. } = self;
        outbound.flush(peers.load(), telemetry);
        telemetry.outbound_drops.add(DropReason::Shutdown, outbound.drop_staged());
        drain.close();
        drain.finish(|| if inbound.serve(telemetry) { Served::Some } else { Served::Nothing });
        telemetry.inbound_drops.add(DropReason::Shutdown, inbound.drop_waiting());
        telemetry.publish();
    }

    /// Forgets what it was in the middle of, after a panic. Returns how many sealed or half sealed
    /// datagrams are lost with it.
    pub fn recover(&mut self) -> u64 {
        self.outbound.abandon()
    }

    /// Writes, reads, and says whether there was anything to do.
    fn turn(&mut self) -> Result<bool, WorkerError> {
        self.sleeper.beat();
        let wrote = self.inbound.serve(&mut self.telemetry);
        let now = clock::now();
        let released = self.release_staged(now)?;
        let read = self.drain(now)?;
        let worked = wrote || released || read;
        if worked {
            self.telemetry.publish();
        }
        Ok(worked)
    }

    /// Reads until the queue is empty or something else ends the drain; whether it read anything.
    fn drain(&mut self, now: Nanos) -> Result<bool, WorkerError> {
        let Self { reader, inbound, outbound, rejects, peers, sleeper, telemetry, drain_cap, .. } = self;
        let mut turn = Turn { now, snapshot: peers.load(), inbound, rejects, sleeper, telemetry };
        let mut packets = 0;
        let end = loop {
            if packets == *drain_cap {
                break DrainEnd::Cap;
            }
            if outbound.is_starved() {
                break DrainEnd::Headroom;
            }
            match reader.read()? {
                Read::Empty => break DrainEnd::Empty,
                Read::Malformed(reason) => {
                    packets += 1;
                    turn.telemetry.outbound_drops.add(reason, 1);
                    break DrainEnd::Malformed;
                }
                Read::Packet(superpacket) => {
                    packets += 1;
                    turn.telemetry.note_read(&superpacket);
                    outbound.forward(&superpacket, &mut turn)?;
                }
            }
        };
        outbound.flush(turn.snapshot, turn.telemetry);
        if packets > 0 {
            telemetry.note_drain(packets, end);
        }
        Ok(packets > 0)
    }

    /// Seals what waited for a handshake that is done, and drops what waited for one that failed.
    fn release_staged(&mut self, now: Nanos) -> Result<bool, WorkerError> {
        let Self { inbound, outbound, rejects, peers, sleeper, telemetry, .. } = self;
        if outbound.nothing_staged() {
            return Ok(false);
        }
        let mut turn = Turn { now, snapshot: peers.load(), inbound, rejects, sleeper, telemetry };
        let released = outbound.release_staged(&mut turn)?;
        outbound.flush(turn.snapshot, turn.telemetry);
        Ok(released)
    }

    fn sleep(&mut self) -> Result<(), Stopped> {
        let starved = self.outbound.is_starved();
        if starved {
            self.telemetry.pool_exhausted.add(1);
        }
        // Without a slab the queue is not read: it fills, and the kernel makes its senders wait.
        let queue = (!starved).then(|| (self.reader.as_fd(), PollFlags::POLLIN));
        let awaited = if starved { Awaited::ANY } else { Awaited::WORK };
        self.sleeper.sleep(awaited, queue, None, || {
            self.inbound.is_empty() && starved == self.outbound.is_starved()
        })?;
        self.telemetry.wakeups.add(1);
        Ok(())
    }
}

/// What the outbound path works with during one turn.
struct Turn<'w> {
    now: Nanos,
    snapshot: &'w Snapshot,
    inbound: &'w mut Inbound,
    rejects: &'w mut Rejects,
    sleeper: &'w Sleeper,
    telemetry: &'w mut InsideTelemetry,
}

impl Turn<'_> {
    /// Drops `packet` for `reason` and tells its sender the `cause`.
    fn refuse(&mut self, packet: &Superpacket<'_>, reason: DropReason, cause: Cause) {
        self.telemetry.outbound_drops.add(reason, packet.segments() as u64);
        self.rejects.reject(packet, cause, self.now, self.telemetry);
    }

    /// Waits until a slab of `pool` is free, and writes what the inbox brings meanwhile: an outside
    /// worker that waits for those slabs must never wait for this one's.
    fn slab(&mut self, pool: &mut Pool<OutboundBatch>) -> Result<Box<OutboundBatch>, Stopped> {
        if let Some(batch) = pool.take() {
            return Ok(batch);
        }
        self.telemetry.pool_exhausted.add(1);
        loop {
            if let Some(batch) = pool.take() {
                return Ok(batch);
            }
            if self.sleeper.stopped() {
                return self.last_slab(pool);
            }
            if !self.inbound.serve(self.telemetry) {
                // Whether it was told to stop shows at the next turn.
                let _ = self
                    .sleeper
                    .sleep(Awaited::ANY, None, None, || self.inbound.is_empty() && pool.is_empty());
            }
        }
    }

    /// The router stops: the outside worker still sends what it was given, and that frees slabs for the
    /// packet in hand, unless its socket takes nothing any more.
    #[cold]
    fn last_slab(&mut self, pool: &mut Pool<OutboundBatch>) -> Result<Box<OutboundBatch>, Stopped> {
        let start = clock::now();
        loop {
            if let Some(batch) = pool.take() {
                return Ok(batch);
            }
            if clock::now().since(start) > drain::LIMIT / 2 {
                return Err(Stopped);
            }
            if !self.inbound.serve(self.telemetry) {
                thread::sleep(drain::PAUSE);
            }
        }
    }
}
