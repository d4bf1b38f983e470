//! The outside worker: owner of a lane's UDP sockets, mostly one.
//!
//! Each turn it does as it is told ([`OutsideCommand`]), sends what its inbox holds ([`outbound`]),
//! receives and opens what has arrived ([`inbound`]), and sleeps if there was nothing. Sending comes
//! first: what waits there is finished work, and its slabs are what the inside worker needs next.

mod inbound;
mod outbound;
mod sockets;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
pub use inbound::Inbound;
pub use outbound::Outbound;
pub use sockets::LaneSockets;

use super::doorbell::Awaited;
use super::drain::{Drain, Served};
use super::mailbox::{CommandBox, OutsideCommand};
use super::peers::{Peers, Snapshot};
use super::sleep::{Sleeper, Stopped};
use super::spin::Spin;
use super::telemetry::OutsideTelemetry;
use super::worker::WorkerError;
use crate::drops::DropReason;
use crate::sys::clock;
use crate::underlay::DropWatch;

/// What an outside worker is made of. See the [module](self) for what it does.
pub struct OutsideWorker {
    /// Its sockets. Only this worker changes them; its inside worker may send from them, see
    /// [`shortcut`](super::shortcut).
    pub sockets: Arc<ArcSwap<LaneSockets>>,
    /// Sends what its inside worker sealed.
    pub outbound: Outbound,
    /// Opens what the socket receives, for the inside workers.
    pub inbound: Inbound,
    /// What the peer actor wants of it.
    pub commands: Arc<CommandBox>,
    /// Whose sessions and addresses are whose.
    pub peers: arc_swap::Cache<Arc<Peers>, Arc<Snapshot>>,
    /// Where its socket's drops are read from; it is told of every new socket.
    pub socket_drops: Arc<DropWatch>,
    /// How it sleeps.
    pub sleeper: Sleeper,
    /// How it stops.
    pub drain: Drain,
    /// How long it looks for work before it sleeps.
    pub spin: Duration,
    /// Its counters.
    pub telemetry: OutsideTelemetry,
}

impl OutsideWorker {
    /// Works until the router stops, and then sends what its inbox still holds.
    ///
    /// # Errors
    /// The socket is no good any more.
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

    /// Receives no more, and sends what comes until nothing can come any more.
    fn finish(&mut self) {
        self.sleeper.stop_all();
        let Self { sockets, inbound, outbound, peers, telemetry, drain, .. } = self;
        let sockets = sockets.load();
        drain.finish(|| {
            inbound.hand_on_held(clock::now(), telemetry);
            if !inbound.is_held() {
                drain.close();
            }
            match outbound.serve(&sockets, peers.load(), telemetry) {
                true => Served::Some,
                false if inbound.is_held() || !outbound.is_empty() => Served::Blocked,
                false => Served::Nothing,
            }
        });
        drain.close();
        telemetry.inbound_drops.add(DropReason::Shutdown, inbound.abandon());
        telemetry.outbound_drops.add(DropReason::Shutdown, outbound.drop_waiting());
        telemetry.publish();
    }

    /// Forgets what it was in the middle of, after a panic. Returns how many packets are lost.
    pub fn recover(&mut self) -> u64 {
        self.inbound.abandon() + self.outbound.abandon()
    }

    /// Obeys, sends, receives, and says whether there was anything to do.
    fn turn(&mut self) -> Result<bool, WorkerError> {
        self.sleeper.beat();
        let commanded = self.obey();
        let sockets = self.sockets.load();
        let sent = self.outbound.serve(&sockets, self.peers.load(), &mut self.telemetry);
        let mut received = false;
        for socket in sockets.iter() {
            received |= self.inbound.receive(socket, self.peers.load(), clock::now(), &mut self.telemetry)?;
        }
        let worked = commanded || sent || received;
        if worked {
            self.telemetry.publish();
        }
        Ok(worked)
    }

    fn obey(&mut self) -> bool {
        let mut obeyed = false;
        while let Some(command) = self.commands.pop() {
            obeyed = true;
            match command {
                OutsideCommand::Send { message, to } => {
                    let sockets = self.sockets.load();
                    self.outbound.send_control(&sockets.shared, &message, &to, &mut self.telemetry);
                }
                OutsideCommand::Rebind(sockets) => {
                    self.outbound.use_socket(&sockets.shared);
                    self.socket_drops.follow(&sockets.shared);
                    self.sockets.store(sockets);
                }
                OutsideCommand::Fwmark(mark) => {
                    if let Err(error) = self.sockets.load().set_fwmark(mark) {
                        tracing::warn!("the mark {mark:#x} cannot be set (it takes CAP_NET_ADMIN): {error}");
                    }
                }
            }
        }
        obeyed
    }

    fn sleep(&mut self) -> Result<(), Stopped> {
        let starved = self.inbound.is_starved();
        if starved {
            self.telemetry.pool_exhausted.add(1);
        }
        let held = self.inbound.is_held();
        let blocked = self.outbound.blocked();
        let sockets = self.sockets.load();
        let events = sockets.events(!starved && !held, blocked);
        let awaited = if starved || held { Awaited::ANY } else { Awaited::WORK };
        let limit = held.then_some(inbound::OFFER_AGAIN);
        self.sleeper.sleep(awaited, events, limit, || {
            (blocked.is_some() || self.outbound.is_empty())
                && self.commands.is_empty()
                && starved == self.inbound.is_starved()
        })?;
        self.telemetry.wakeups.add(1);
        Ok(())
    }
}
