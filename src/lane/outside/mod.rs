//! The outside worker, which owns a lane's UDP sockets (usually one).
//!
//! Each turn it executes commands ([`OutsideCommand`]), sends the batches in its ring ([`send`]), and
//! receives and opens datagrams ([`open`]). If there was nothing to do, it sleeps. Sending comes before
//! receiving because waiting batches are finished work, and the inside worker needs them back.

mod open;
mod send;

use std::mem;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
pub use open::Opener;
pub use send::{BatchSender, HANDSHAKE_CLASS};

use super::WorkerError;
use super::channels::{CommandChannel, OutsideCommand};
use super::peers::{Peers, Snapshot};
use super::ring::custody::Holdings;
use super::ring::doorbell::Awaited;
use super::share::helpers::Helper;
use super::sockets::LaneSockets;
use super::wait::pause::{Look, Paused};
use super::wait::quiesce::{Quiesce, Served};
use super::wait::sleep::{Sleeper, Spin, Stopped};
use crate::clock;
use crate::drops::DropReason;
use crate::faults::{self, Stage};
use crate::metrics::OutsideMetrics;
use crate::underlay::DropWatch;

/// An outside worker. See the [module documentation](self).
pub struct OutsideWorker {
    /// The lane's sockets. Only this worker replaces them; the inside worker may send through them (see
    /// [`shortcut`](super::shortcut)).
    pub sockets: Arc<ArcSwap<LaneSockets>>,
    /// Sends the datagrams that the inside worker sealed.
    pub sender: BatchSender,
    /// Receives and opens datagrams for the inside workers.
    pub opener: Opener,
    /// Whether a control message is being sent. Initially none is.
    pub sends_control: bool,
    /// The channel of commands from the peer actor.
    pub commands: Arc<CommandChannel>,
    /// The current peers and allowed IPs.
    pub peers: arc_swap::Cache<Arc<Peers>, Arc<Snapshot>>,
    /// Reads the socket's drop counter. It must be told of every new socket.
    pub socket_drops: Arc<DropWatch>,
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
    /// How long to poll for work before sleeping.
    pub spin: Duration,
    /// The worker's metrics.
    pub metrics: OutsideMetrics,
}

impl OutsideWorker {
    /// Runs until the router stops, then sends what the ring still holds.
    ///
    /// # Errors
    /// If the UDP socket fails.
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

    /// Stops receiving, passes on what was received and sends what the ring brings, until the pause ends. Carries out
    /// commands meanwhile.
    #[cold]
    fn hold(&mut self) {
        let paused = self.paused.clone();
        paused.hold(
            || {
                self.sleeper.beat();
                if self.sleeper.stopped() {
                    return None;
                }
                let commanded = self.obey();
                let sockets = self.sockets.load();
                let Self { opener, sender, peers, metrics, commands, .. } = self;
                let now = clock::now();
                opener.hand_on_held(now, metrics);
                let opened = opener.work(peers.load(), now, metrics);
                let sent = sender.serve(&sockets, peers.load(), metrics);
                metrics.publish();
                Some(Look {
                    worked: commanded || opened || sent,
                    closed: !opener.is_held() && opener.is_idle(),
                    empty: sender.is_empty() && commands.is_empty(),
                })
            },
            Vec::new,
        );
    }

    /// Stops receiving, and sends what the ring brings until the inside workers have closed.
    fn finish(&mut self) {
        self.sleeper.stop_all();
        let Self { sockets, opener, sender, peers, metrics, quiesce, .. } = self;
        let sockets = sockets.load();
        quiesce.finish(|| {
            let now = clock::now();
            opener.hand_on_held(now, metrics);
            let opened = opener.work(peers.load(), now, metrics);
            let has_more = opener.is_held() || !opener.is_idle();
            if !has_more {
                quiesce.close();
            }
            match sender.serve(&sockets, peers.load(), metrics) || opened {
                true => Served::Some,
                false if has_more || !sender.is_empty() => Served::Blocked,
                false => Served::Nothing,
            }
        });
        quiesce.close();
        metrics.inbound_drops.add(DropReason::Shutdown, opener.drop_waiting() + opener.drop_unjudged());
        metrics.outbound_drops.add(DropReason::Shutdown, sender.drop_waiting());
        metrics.publish();
    }

    /// Discards the packets in hand after a panic and counts them as lost.
    pub fn recover(&mut self) {
        self.holdings.rise();
        let outbound = self.sender.recover() + u64::from(mem::take(&mut self.sends_control));
        let inbound = self.opener.recover();
        self.metrics.outbound_drops.add(DropReason::WorkerRestart, outbound);
        self.metrics.inbound_drops.add(DropReason::WorkerRestart, inbound);
    }

    /// Runs one turn. Returns whether there was anything to do.
    fn turn(&mut self) -> Result<bool, WorkerError> {
        self.sleeper.beat();
        let commanded = self.obey();
        let sockets = self.sockets.load();
        let sent = self.sender.serve(&sockets, self.peers.load(), &mut self.metrics);
        let mut received = false;
        for socket in sockets.iter() {
            received |= self.opener.receive(socket, self.peers.load(), clock::now(), &mut self.metrics)?;
        }
        self.opener.note_queues(clock::now());
        // More to receive comes before opening: the messages wait for whoever has time.
        let opened = !received && self.opener.work(self.peers.load(), clock::now(), &mut self.metrics);
        let worked = commanded || sent || received || opened;
        if worked {
            self.metrics.publish();
        }
        Ok(worked)
    }

    /// Does a job of another worker, if this one was called. Returns whether there was one.
    fn help(&mut self) -> bool {
        self.helper.as_ref().is_some_and(|helper| helper.help(&mut self.metrics.jobs.calls))
    }

    /// Executes all waiting commands. Returns whether there were any.
    fn obey(&mut self) -> bool {
        let mut obeyed = false;
        while let Some(command) = self.commands.pop() {
            obeyed = true;
            self.sends_control = matches!(command, OutsideCommand::Send { .. });
            faults::point(Stage::Command);
            match command {
                OutsideCommand::Send { message, to, peer } => {
                    let (sockets, snapshot) = (self.sockets.load(), self.peers.load());
                    let peer = peer.and_then(|peer| snapshot.peer(peer)).map(Arc::as_ref);
                    self.sender.send_control(&sockets.shared, &message, &to, peer, &mut self.metrics);
                }
                OutsideCommand::Rebind(sockets) => {
                    self.sender.use_socket(&sockets.shared);
                    self.socket_drops.follow(&sockets.shared);
                    self.sockets.store(sockets);
                }
                OutsideCommand::Fwmark(mark) => {
                    if let Err(error) = self.sockets.load().set_fwmark(mark) {
                        tracing::warn!("cannot set firewall mark {mark:#x} (needs CAP_NET_ADMIN): {error}");
                    }
                }
            }
            self.sends_control = false;
        }
        obeyed
    }

    fn sleep(&mut self) -> Result<(), Stopped> {
        let starved = self.opener.is_starved();
        if starved {
            self.metrics.pool_exhausted.add(1);
        }
        let held = self.opener.is_held();
        let blocked = self.sender.blocked();
        let sockets = self.sockets.load();
        let events = sockets.events(!starved && !held, blocked);
        let awaited = if starved || held { Awaited::ANY } else { Awaited::WORK };
        let awaited = self.opener.awaited(awaited);
        let awaited = self.helper.as_ref().map_or(awaited, |helper| helper.awaited(awaited));
        let limit = held.then_some(open::OFFER_AGAIN);
        self.holdings.rest(self.opener.batches(), self.sender.batches());
        let Self { sender, opener, commands, helper, .. } = self;
        let slept = self.sleeper.sleep(awaited, events, limit, || {
            (blocked.is_some() || sender.is_empty())
                && commands.is_empty()
                && starved == opener.is_starved()
                && opener.must_wait()
                && !helper.as_ref().is_some_and(Helper::is_called)
        });
        self.holdings.rise();
        slept?;
        self.metrics.wakeups.add(1);
        Ok(())
    }
}
