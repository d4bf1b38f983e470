//! The supervisor: opens what a router needs, starts its threads, watches them and stops them.
//!
//! [`Router::start`] opens everything first and starts threads last, so a failure leaves nothing
//! behind: the device and the sockets go with their descriptors. All of it happens in the network
//! namespace of the calling thread, and the threads stay there.
//!
//! A worker that panics is restarted on its open descriptors, a bounded number of times; what it was
//! in the middle of is lost and counted. A worker whose device or socket is gone ends the router. One that does
//! not end when it is told to is left behind ([`stopping`]).

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;
use std::{io, mem};

use thiserror::Error;

use super::actor::PeerActor;
use super::config::RouterConfig;
use super::device::DeviceHandle;
use super::metrics::ThreadMetrics;
use super::parts::{self, Lanes};
use super::readiness::Readiness;
use super::roll::{Member, Roll};
use super::stopping::{self, StopError};
use crate::drops::DropReason;
use crate::lane::inside::{InsideWorker, OwnAddresses};
use crate::lane::outside::OutsideWorker;
use crate::lane::peers::Peers;
use crate::lane::pinning::{self, LaneCpus, NotAllowed};
use crate::lane::sleep::Sleeper;
use crate::lane::telemetry::Registry;
use crate::lane::worker::WorkerError;
use crate::offload::{OpenError, QueueError, Shutdown};
use crate::sys::scheduling::Scheduling;
use crate::underlay::BindError;
use crate::wireguard::aead::Backend;
use crate::wireguard::keys::PublicKey;

/// How often a worker that panicked is restarted before the router gives up.
const MAX_RESTARTS: u32 = 8;

/// A running router. Dropping it stops it.
#[derive(Debug)]
pub struct Router {
    interface: String,
    device: DeviceHandle,
    registry: Arc<Registry>,
    mtu: Arc<AtomicUsize>,
    own: Arc<OwnAddresses>,
    peers: Arc<Peers>,
    ready_peer: Option<PublicKey>,
    aead: Backend,
    scheduling: Scheduling,
    roll: Arc<Roll>,
    shutdown: Arc<Shutdown>,
    failure: Arc<Mutex<Option<String>>>,
    threads: Vec<JoinHandle<()>>,
}

/// Why a router did not start. Nothing is left of it.
#[derive(Debug, Error)]
pub enum StartError {
    /// No TUN device.
    #[error(transparent)]
    Tun(#[from] OpenError),
    /// No UDP sockets.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The interface could not be set up.
    #[error(transparent)]
    Netlink(#[from] super::netlink::NetlinkError),
    /// A worker was to run where it may not.
    #[error(transparent)]
    Pinning(#[from] NotAllowed),
    /// The configuration asks for what cannot be.
    #[error("{0}")]
    Config(String),
    /// Threads, descriptors or randomness ran out.
    #[error("the system lacks what a router needs: {0}")]
    System(#[from] io::Error),
}

impl Router {
    /// Opens and starts everything `config` says in the calling thread's network namespace. `tun`
    /// is a queue of an interface that someone else has made.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left behind.
    pub fn start(config: &RouterConfig, tun: Option<OwnedFd>) -> Result<Router, StartError> {
        Self::start_with(config, tun, Arc::new(Shutdown::new()?))
    }

    /// The same for a router that can be told to stop while it starts: by `shutdown`, at any time.
    ///
    /// # Errors
    /// See [`StartError`]; nothing is left behind.
    pub fn start_with(
        config: &RouterConfig,
        tun: Option<OwnedFd>,
        shutdown: Arc<Shutdown>,
    ) -> Result<Router, StartError> {
        let parts::Parts { interface, lanes, mut actor, device, registry, mtu, own, peers } =
            parts::open(config, tun, &shutdown)?;
        actor.apply(config.update.clone()).map_err(|errno| {
            StartError::Config(format!("the configuration of {interface} cannot be applied: {errno}"))
        })?;
        let mut router = Router {
            interface,
            device,
            registry,
            mtu,
            own,
            peers,
            ready_peer: config.ready_peer,
            aead: config.aead,
            scheduling: config.scheduling,
            roll: Arc::default(),
            shutdown,
            failure: Arc::default(),
            threads: Vec::with_capacity(2 * lanes.len() + 1),
        };
        router.registry.collect_from(ThreadMetrics(Arc::clone(&router.roll)));
        // From here on an error drops the router, which stops what runs already.
        router.spawn_lanes(lanes)?;
        router.spawn_actor(actor)?;
        Ok(router)
    }

    /// The interface's name.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// The way to the peer actor.
    pub fn device(&self) -> &DeviceHandle {
        &self.device
    }

    /// Its metrics.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Whether it can be given traffic, and has a session with the peer that its configuration waits for.
    pub fn readiness(&self) -> Readiness {
        Readiness::new(Arc::clone(&self.peers), self.ready_peer, Arc::clone(&self.shutdown))
    }

    /// Its threads.
    pub fn roll(&self) -> &Arc<Roll> {
        &self.roll
    }

    /// Is signalled when the router stops, whoever stops it.
    pub fn shutdown(&self) -> &Arc<Shutdown> {
        &self.shutdown
    }

    /// How it is told about its interface.
    pub fn bulletin(&self) -> Bulletin {
        Bulletin { mtu: Arc::clone(&self.mtu), own: Arc::clone(&self.own) }
    }

    /// Its metrics in the Prometheus text format.
    pub fn metrics_text(&self) -> String {
        self.registry.render()
    }

    /// Stops it and waits for its threads, [`stopping::THREADS`] at the most.
    ///
    /// # Errors
    /// What ended it before it was told to stop, or who did not stop.
    pub fn stop(self) -> Result<(), StopError> {
        self.stop_until(Instant::now() + stopping::THREADS)
    }

    /// The same, but waits for its threads until `deadline`.
    ///
    /// # Errors
    /// What ended it before it was told to stop, or who did not stop.
    pub fn stop_until(mut self, deadline: Instant) -> Result<(), StopError> {
        let stuck = self.finish(deadline);
        let failure = self.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        match failure {
            Some(failure) => Err(StopError::Failed(failure)),
            None if stuck.is_empty() => Ok(()),
            None => Err(StopError::Stuck(stuck)),
        }
    }

    /// Waits for the threads; those that have not ended.
    fn finish(&mut self, deadline: Instant) -> Vec<String> {
        self.shutdown.signal();
        let mut stuck = Vec::new();
        for thread in mem::take(&mut self.threads) {
            // A thread's own panic was caught and reported where it happened.
            if let Err(left) = stopping::join_until(thread, deadline) {
                stuck.push(stopping::name_of(&left));
            }
        }
        stuck
    }

    fn spawn_lanes(&mut self, lanes: Lanes) -> io::Result<()> {
        for (lane, (inside, outside, cpus)) in lanes.into_iter().enumerate() {
            let LaneCpus { inside: inside_cpu, outside: outside_cpu } = cpus;
            let enlist = |kind, sleeper: &Sleeper| {
                self.roll.enlist(Some(lane), kind, Some(Arc::clone(sleeper.pulse())))
            };
            let members = (enlist("inside", &inside.sleeper), enlist("outside", &outside.sleeper));
            self.spawn(members.0, inside_cpu, inside)?;
            self.spawn(members.1, outside_cpu, outside)?;
        }
        Ok(())
    }

    fn spawn_actor(&mut self, mut actor: PeerActor) -> io::Result<()> {
        let member = self.roll.enlist(None, "peers", Some(Arc::clone(actor.sleeper.pulse())));
        let end = self.ending(member.name());
        let aead = self.aead;
        let thread = thread::Builder::new().name(member.name()).spawn(move || {
            member.begin();
            aead.prepare_thread();
            let outcome = catch_unwind(AssertUnwindSafe(|| actor.run()));
            end.report(outcome.map_err(|_| "it panicked".into()));
        })?;
        self.threads.push(thread);
        Ok(())
    }

    fn spawn(&mut self, member: Arc<Member>, cpu: Option<usize>, mut worker: impl Worker) -> io::Result<()> {
        let name = member.name();
        let end = self.ending(name.clone());
        let (aead, scheduling) = (self.aead, self.scheduling);
        let thread = thread::Builder::new().name(name.clone()).spawn(move || {
            member.begin();
            if let Some(cpu) = cpu
                && !pinning::pin(cpu)
            {
                tracing::warn!("{name} cannot be pinned to CPU {cpu} and runs where the scheduler puts it");
            }
            if let Err(error) = scheduling.apply() {
                tracing::warn!("{name} keeps the scheduling that it has: {error}");
            }
            aead.prepare_thread();
            end.report(supervise(&name, &mut worker));
        })?;
        self.threads.push(thread);
        Ok(())
    }

    fn ending(&self, name: String) -> Ending {
        Ending { name, shutdown: Arc::clone(&self.shutdown), failure: Arc::clone(&self.failure) }
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        let stuck = self.finish(Instant::now() + stopping::THREADS);
        if !stuck.is_empty() {
            tracing::error!("{}", StopError::Stuck(stuck));
        }
    }
}

/// The news about its interface that a router acts on, whoever brings them.
#[derive(Clone, Debug)]
pub struct Bulletin {
    mtu: Arc<AtomicUsize>,
    own: Arc<OwnAddresses>,
}

impl Bulletin {
    /// The interface has these addresses from now on.
    pub fn set_addresses(&self, own: &[IpAddr]) {
        self.own.store(Arc::new(own.to_vec()));
    }

    /// The interface has another MTU from now on.
    pub fn set_mtu(&self, mtu: usize) {
        self.mtu.store(mtu, Ordering::Relaxed);
    }
}

/// What the supervisor needs of a worker.
trait Worker: Send + 'static {
    fn run(&mut self) -> Result<(), WorkerError>;
    /// Makes it fit to run again after a panic, and counts what is lost and that it happened.
    fn recover(&mut self);
}

impl Worker for InsideWorker {
    fn run(&mut self) -> Result<(), WorkerError> {
        InsideWorker::run(self)
    }

    fn recover(&mut self) {
        let lost = InsideWorker::recover(self);
        self.telemetry.outbound_drops.add(DropReason::WorkerRestart, lost);
        self.telemetry.restarts.add(1);
    }
}

impl Worker for OutsideWorker {
    fn run(&mut self) -> Result<(), WorkerError> {
        OutsideWorker::run(self)
    }

    fn recover(&mut self) {
        let lost = OutsideWorker::recover(self);
        self.telemetry.inbound_drops.add(DropReason::WorkerRestart, lost);
        self.telemetry.restarts.add(1);
    }
}

/// Runs a worker, and runs it again when it panics.
fn supervise(name: &str, worker: &mut impl Worker) -> Result<(), String> {
    for _ in 0..=MAX_RESTARTS {
        match catch_unwind(AssertUnwindSafe(|| worker.run())) {
            Ok(Ok(())) => return Ok(()),
            // `ip link del` is how people end a WireGuard interface: no failure.
            Ok(Err(WorkerError::Queue(QueueError::Closed))) => {
                tracing::info!("stopping: the TUN interface was deleted");
                return Ok(());
            }
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => {
                tracing::error!("{name} panicked and is restarted; please report this");
                worker.recover();
            }
        }
    }
    Err(format!("it panicked {MAX_RESTARTS} times"))
}

/// What a thread does with its end: the first failure is kept, and the router stops.
struct Ending {
    name: String,
    shutdown: Arc<Shutdown>,
    failure: Arc<Mutex<Option<String>>>,
}

impl Ending {
    fn report(self, outcome: Result<(), String>) {
        if let Err(error) = outcome {
            let mut failure = self.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            failure.get_or_insert_with(|| format!("{} stopped: {error}", self.name));
        }
        self.shutdown.signal();
    }
}
