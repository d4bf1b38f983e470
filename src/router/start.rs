//! The supervisor: opens a router's device and sockets, starts its threads, restarts and stops them.
//!
//! [`Router::start`] opens everything first and starts threads last, so a failure leaves nothing behind: the
//! device and the sockets are closed with their descriptors. Everything is opened in the network namespace of
//! the calling thread, and the threads stay in it.
//!
//! A worker that panics is restarted with its open descriptors ([`restarts`]). What that costs is the packets in its
//! hands, which are counted as lost; batches go back to their pools ([`batch`](crate::lane::ring::batch)). A worker whose device or socket is gone stops the router. A thread that
//! does not end when told to stop is left behind ([`stopping`]).

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;
use std::{io, mem};

use tokio::sync::watch;

use super::continuing::{apply, continue_from, follow};
use super::mtu::{ChosenMtu, MtuMetrics};
use super::paths::Paths;
use super::readiness::Readiness;
use super::restarts::{self, RestartedWorker};
use super::stopping::{self, StopError};
use super::takeover::predecessor::Estate;
use super::takeover::successor::{Carried, Inherited, Successor};
use super::threads::{ThreadEntry, ThreadMetrics, ThreadRegistry};
pub use super::wiring::StartError;
use super::wiring::summary::Summary;
use super::wiring::{self, Access, Given, Lanes, Wiring};
use crate::clock;
use crate::config::RouterConfig;
use crate::cpus::pinning::{self, LaneCpus};
use crate::faults::{self, TakeOverStep};
use crate::lane::inside::OwnAddresses;
use crate::lane::wait::sleep::Sleeper;
use crate::metrics::Registry;
use crate::offload::{Lifetime, TunnelsSeen};
use crate::peers::actor::PeerActor;
use crate::peers::handle::{ActorHandle, Listening};
use crate::shutdown::Shutdown;
use crate::underlay::MarkedSockets;
use crate::wireguard::keys::PublicKey;

/// What a router starts from.
#[derive(Debug)]
pub enum Origin {
    /// Its configuration.
    Nothing,
    /// A TUN queue that another program created.
    Queue(OwnedFd),
    /// The descriptors of a router that has ended.
    Inherited(Inherited),
    /// A running router, which it takes over.
    Predecessor(Successor),
}

/// A running router. Dropping it stops it.
#[derive(Debug)]
pub struct Router {
    pub(super) access: Access,
    chosen_mtu: Arc<ChosenMtu>,
    lanes: usize,
    ready_peer: Option<PublicKey>,
    threads: Arc<ThreadRegistry>,
    shutdown: Arc<Shutdown>,
    failure: Arc<Mutex<Option<String>>>,
    handles: Vec<JoinHandle<()>>,
}

impl Router {
    /// Starts a router with `config` in the calling thread's network namespace. `tun`, if given, is a queue
    /// of an interface that another program created.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(config: &RouterConfig, tun: Option<OwnedFd>) -> Result<Router, StartError> {
        Self::start_with(config, tun, Arc::new(Shutdown::new()?), |_| {})
    }

    /// Like [`start`](Self::start), for a router that `shutdown` can stop at any time, even while it starts. Calls
    /// `bound` once the interface exists and the sockets are bound, before anything is sent.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start_with(
        config: &RouterConfig,
        tun: Option<OwnedFd>,
        shutdown: Arc<Shutdown>,
        bound: impl FnOnce(Listening),
    ) -> Result<Router, StartError> {
        Self::start_from(config, tun.map_or(Origin::Nothing, Origin::Queue), shutdown, bound)
    }

    /// Like [`start_with`](Self::start_with), for a router that may continue another one. If it does so with its
    /// sessions, errors in applying `config` are only logged.
    ///
    /// # Errors
    /// See [`StartError`]. A router that was to be taken over goes on.
    pub fn start_from(
        config: &RouterConfig,
        origin: Origin,
        shutdown: Arc<Shutdown>,
        bound: impl FnOnce(Listening),
    ) -> Result<Router, StartError> {
        let (given, mut successor, stored) = match origin {
            Origin::Nothing => (Given::Nothing, None, None),
            Origin::Queue(queue) => (Given::Queue(queue), None, None),
            Origin::Inherited(mut inherited) => {
                let stored = inherited.sessions.take();
                inherited.secret = stored.as_ref().map(|stored| stored.secret);
                (Given::Inherited(inherited), None, stored)
            }
            Origin::Predecessor(mut successor) => {
                successor.check(config)?;
                (Given::Inherited(mem::take(successor.descriptors())), Some(successor), None)
            }
        };
        let Wiring { mut lanes, mut actor, custody, access } = wiring::open(config, given, &shutdown)?;
        bound(*access.device.listening().borrow());
        let chosen_mtu = Arc::new(ChosenMtu::new(config, Arc::clone(&access.mtu)));
        access.registry.collect_from(MtuMetrics(Arc::clone(&chosen_mtu)));
        let mut paused = None;
        let carried = match (&mut successor, stored) {
            (Some(successor), _) => Some(successor.take_state()?),
            (None, Some(stored)) => Some(Carried::State(Box::new(stored.state))),
            (None, None) => None,
        };
        match carried {
            Some(Carried::State(state)) => {
                paused = Some(state.paused);
                continue_from(*state, &mut actor, &mut lanes)?;
                if successor.is_none() {
                    follow(config, &access, &mut actor)?;
                }
            }
            fresh => {
                if let Some(Carried::Fresh(why)) = fresh {
                    tracing::warn!("sessions with peers start again: {why}");
                }
                apply(config.update.clone(), &access, &mut actor)?;
            }
        }
        faults::step(TakeOverStep::Imported);
        if let Some(successor) = &mut successor {
            successor.accept(paused.is_none())?;
        }
        let threads = Arc::new(ThreadRegistry::new(custody));
        access.registry.collect_from(ThreadMetrics(Arc::clone(&threads)));
        let mut router = Router {
            access,
            chosen_mtu,
            lanes: lanes.len(),
            ready_peer: config.ready_peer,
            threads,
            shutdown,
            failure: Arc::default(),
            handles: Vec::with_capacity(2 * lanes.len() + 1),
        };
        // After this point an error drops the router, which stops the threads that already run.
        router.spawn_lanes(lanes)?;
        router.spawn_actor(actor)?;
        faults::step(TakeOverStep::Started);
        if successor.is_some() || paused.is_some() {
            router.note_take_over(paused);
        }
        if let Some(mut successor) = successor {
            // Lets the predecessor end.
            successor.running();
            router.follow_after_take_over(config, paused.is_some());
        }
        Ok(router)
    }

    /// Returns the interface's name.
    pub fn interface(&self) -> &str {
        &self.access.interface
    }

    /// Returns what the log says about the router once it is up.
    pub fn summary(&self) -> &Summary {
        &self.access.summary
    }

    /// Returns the handle to the peer actor.
    pub fn device(&self) -> &ActorHandle {
        &self.access.device
    }

    /// Returns the router's metrics.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.access.registry
    }

    /// Returns the conditions for readiness, including a session with the peer that the configuration awaits.
    pub fn readiness(&self) -> Readiness {
        let (peers, has_key) = (Arc::clone(&self.access.peers), Arc::clone(&self.access.has_key));
        Readiness::new(peers, self.ready_peer, has_key, Arc::clone(&self.shutdown))
    }

    /// Returns the sockets that carry the router's mark besides those of its lanes.
    pub fn marked(&self) -> &MarkedSockets {
        &self.access.marked
    }

    /// Returns the current UDP port, and follows its changes, if several lanes share it, so that other processes
    /// of the same user can bind it too.
    pub fn shared_port(&self) -> Option<watch::Receiver<Listening>> {
        (self.lanes > 1).then(|| self.access.device.listening())
    }

    /// Returns what a successor continues with.
    pub(crate) fn estate(&self) -> &Estate {
        &self.access.estate
    }

    /// Returns the MTU that the router has set.
    pub fn chosen_mtu(&self) -> &Arc<ChosenMtu> {
        &self.chosen_mtu
    }

    /// Returns what the admin thread needs to follow the routes to the peers.
    pub fn paths(&self) -> Paths {
        Paths {
            peers: Arc::clone(&self.access.peers),
            actor: self.access.device.clone(),
            changed: Arc::default(),
        }
    }

    /// Returns what knows where the interface is.
    pub fn lifetime(&self) -> &Lifetime {
        &self.access.lifetime
    }

    /// Returns the record of superpackets inside UDP tunnels.
    pub fn tunnels(&self) -> TunnelsSeen {
        self.access.tunnels.clone()
    }

    /// Returns the registry of the router's threads.
    pub fn threads(&self) -> &Arc<ThreadRegistry> {
        &self.threads
    }

    /// Returns the signal that the router stops, whatever the cause. Signalling it stops the router.
    pub fn shutdown(&self) -> &Arc<Shutdown> {
        &self.shutdown
    }

    /// Returns a handle through which the router learns of changes to its interface.
    pub fn interface_updates(&self) -> InterfaceUpdates {
        InterfaceUpdates { mtu: Arc::clone(&self.access.mtu), own: Arc::clone(&self.access.own) }
    }

    /// Keeps the interface with its addresses and routes if this process crashes or is killed. While no process has
    /// the interface open, the kernel drops all packets for it. `ip link del` removes it. Returns what reverts this.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn outlive_process(&self) -> Result<&Lifetime, StartError> {
        self.access.lifetime.outlive_process()?;
        Ok(&self.access.lifetime)
    }

    /// Renders the router's metrics in the Prometheus text format.
    pub fn metrics_text(&self) -> String {
        self.access.registry.render()
    }

    /// Stops the router and waits for its threads, up to [`stopping::THREADS`].
    ///
    /// # Errors
    /// Returns the failure that stopped the router earlier, or the names of threads that did not end.
    pub fn stop(self) -> Result<(), StopError> {
        self.stop_until(Instant::now() + stopping::THREADS)
    }

    /// Like [`stop`](Self::stop), but waits for the threads until `deadline`.
    ///
    /// # Errors
    /// Returns the failure that stopped the router earlier, or the names of threads that did not end.
    pub fn stop_until(mut self, deadline: Instant) -> Result<(), StopError> {
        let stuck = self.finish(deadline);
        let failure = self.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        match failure {
            Some(failure) => Err(StopError::Failed(failure)),
            None if stuck.is_empty() => Ok(()),
            None => Err(StopError::Stuck(stuck)),
        }
    }

    /// Stops the threads and waits for them. Returns the names of those that did not end.
    fn finish(&mut self, deadline: Instant) -> Vec<String> {
        self.shutdown.signal();
        let mut stuck = Vec::new();
        for thread in mem::take(&mut self.handles) {
            // Panics were already caught and reported on the thread itself.
            if let Err(left) = stopping::join_until(thread, deadline) {
                stuck.push(stopping::name_of(&left));
            }
        }
        stuck
    }

    fn spawn_lanes(&mut self, lanes: Lanes) -> io::Result<()> {
        for (lane, (inside, outside, cpus)) in lanes.into_iter().enumerate() {
            let LaneCpus { inside: inside_cpu, outside: outside_cpu } = cpus;
            let register = |kind, sleeper: &Sleeper| {
                self.threads.register(Some(lane), kind, Some(Arc::clone(sleeper.heartbeat())))
            };
            let entries = (register("inside", &inside.sleeper), register("outside", &outside.sleeper));
            self.spawn(entries.0, inside_cpu, inside)?;
            self.spawn(entries.1, outside_cpu, outside)?;
        }
        Ok(())
    }

    fn spawn_actor(&mut self, mut actor: PeerActor) -> io::Result<()> {
        let entry = self.threads.register(None, "peers", Some(Arc::clone(actor.sleeper.heartbeat())));
        let end = self.ending(entry.name());
        let thread = thread::Builder::new().name(entry.name()).spawn(move || {
            entry.begin();
            let outcome = catch_unwind(AssertUnwindSafe(|| actor.run()));
            end.report(outcome.map_err(|_| "panicked".into()));
        })?;
        self.handles.push(thread);
        Ok(())
    }

    fn spawn(
        &mut self,
        entry: Arc<ThreadEntry>,
        cpu: Option<usize>,
        mut worker: impl RestartedWorker,
    ) -> io::Result<()> {
        let name = entry.name();
        let end = self.ending(name.clone());
        let inherited = faults::installed();
        let thread = thread::Builder::new().name(name.clone()).spawn(move || {
            faults::install(inherited);
            entry.begin();
            if let Some(cpu) = cpu
                && !pinning::pin(cpu)
            {
                tracing::warn!("cannot pin {name} to CPU {cpu}; the thread runs unpinned");
            }
            end.report(restarts::supervise(&name, &mut worker, clock::now));
        })?;
        self.handles.push(thread);
        Ok(())
    }

    fn ending(&self, name: String) -> ThreadEnd {
        ThreadEnd { name, shutdown: Arc::clone(&self.shutdown), failure: Arc::clone(&self.failure) }
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

/// Tells a running router of changes to its interface.
#[derive(Clone, Debug)]
pub struct InterfaceUpdates {
    mtu: Arc<AtomicUsize>,
    own: Arc<OwnAddresses>,
}

impl InterfaceUpdates {
    /// Sets the interface's addresses.
    pub fn set_addresses(&self, own: &[IpAddr]) {
        self.own.store(Arc::new(own.to_vec()));
    }

    /// Sets the interface's MTU in bytes.
    pub fn set_mtu(&self, mtu: usize) {
        self.mtu.store(mtu, Ordering::Relaxed);
    }
}

/// Reports the end of a thread: stops the router and records the first failure.
struct ThreadEnd {
    name: String,
    shutdown: Arc<Shutdown>,
    failure: Arc<Mutex<Option<String>>>,
}

impl ThreadEnd {
    fn report(self, outcome: Result<(), String>) {
        if let Err(error) = outcome {
            let mut failure = self.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            failure.get_or_insert_with(|| format!("{} stopped: {error}", self.name));
        }
        self.shutdown.signal();
    }
}
