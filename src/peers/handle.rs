//! Requests to the peer actor from other threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam::channel::{self, Receiver, Sender};
use nix::errno::Errno;
use tokio::runtime;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use super::state::{ActorState, Thaw};
use crate::config::update::{DeviceStatus, DeviceUpdate};
use crate::lane::ring::doorbell::{Awaited, Doorbell};
use crate::metrics::Registry;
use crate::uapi::Device;
use crate::units::PeerId;

/// Capacity of the request channel. Each requester waits for its answer, so UAPI connections and reloads
/// bound the number of requests.
const REQUESTS: usize = 64;

/// How often it is checked whether anybody still reads the samples of dropped packets.
const SAMPLING: Duration = Duration::from_secs(1);

/// A request to the peer actor, with the channel for its answer.
pub enum ActorRequest {
    /// Changes the configuration.
    Apply(DeviceUpdate, Sender<Result<(), Errno>>),
    /// Returns the current configuration and statistics.
    Status(Sender<DeviceStatus>),
    /// The routes to these peers have changed.
    Rerouted(Vec<PeerId>),
    /// Stops until told how to go on, and returns the state.
    Freeze(Sender<ActorState>, Receiver<Thaw>),
}

/// What tells the router's datagrams from others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listening {
    /// The UDP port of all lanes.
    pub port: u16,
    /// The highest port. With spread ports, lane `i` also uses the port `i` above that of all lanes.
    pub last_port: u16,
    /// The firewall mark (`SO_MARK`), 0 for none.
    pub mark: u32,
}

/// Whether the interface is up, as the admin thread tells the peer actor. Initially it counts as up.
#[derive(Debug, Default)]
pub struct InterfaceState {
    is_down: AtomicBool,
    /// Notified when packets come from an interface that counts as down, so it may be up by now.
    pub doubted: Notify,
    /// Notified when a name lookup has given a peer another endpoint.
    pub located: Notify,
}

impl InterfaceState {
    /// Returns whether the interface is down, as last reported.
    pub(super) fn is_down(&self) -> bool {
        self.is_down.load(Ordering::Acquire)
    }

    /// Records the state and wakes the actor that waits on `bell`.
    pub(super) fn set_up(&self, up: bool, bell: &Doorbell) {
        self.is_down.store(!up, Ordering::Release);
        bell.ring(Awaited::WORK);
    }
}

/// Handle for requests to the peer actor. Each call blocks until the actor answers, and fails with `ENODEV`
/// once the router has stopped.
#[derive(Clone, Debug)]
pub struct ActorHandle {
    requests: Sender<ActorRequest>,
    bell: Arc<Doorbell>,
    registry: Arc<Registry>,
    listening: watch::Receiver<Listening>,
    interface: Arc<InterfaceState>,
}

impl ActorHandle {
    /// Creates a handle, and the receiver for the actor that waits on `bell`. Metrics come from `registry`, and
    /// `listening` follows the sockets; `interface` is the actor's.
    pub fn new(
        bell: Arc<Doorbell>,
        registry: Arc<Registry>,
        listening: watch::Receiver<Listening>,
        interface: Arc<InterfaceState>,
    ) -> (Self, Receiver<ActorRequest>) {
        let (requests, receiver) = channel::bounded(REQUESTS);
        (Self { requests, bell, registry, listening, interface }, receiver)
    }

    /// Returns the sockets' port and mark, and how to wait for changes.
    pub fn listening(&self) -> watch::Receiver<Listening> {
        self.listening.clone()
    }

    /// Tells the actor whether the interface is up. Does not block.
    pub fn set_interface_up(&self, up: bool) {
        self.interface.set_up(up, &self.bell);
    }

    /// Waits until packets come from an interface that counts as down.
    pub async fn interface_doubted(&self) {
        self.interface.doubted.notified().await;
    }

    /// Waits until a name lookup has given a peer another endpoint.
    pub async fn located(&self) {
        self.interface.located.notified().await;
    }

    /// Tells the actor that the routes to these peers have changed. Does not block. Returns false if too many
    /// requests wait.
    pub fn rerouted(&self, peers: Vec<PeerId>) -> bool {
        let taken = self.requests.try_send(ActorRequest::Rerouted(peers)).is_ok();
        self.bell.ring(Awaited::WORK);
        taken
    }

    /// Stops the actor and returns its state. It then goes on as `thaw` says, also if it has not stopped within `limit`,
    /// in which case this returns `None`.
    pub fn freeze(&self, thaw: Receiver<Thaw>, limit: Duration) -> Option<ActorState> {
        let (answer, answered) = channel::bounded(1);
        self.requests.try_send(ActorRequest::Freeze(answer, thaw)).ok()?;
        self.bell.ring(Awaited::WORK);
        answered.recv_timeout(limit).ok()
    }

    fn ask<T>(&self, request: impl FnOnce(Sender<T>) -> ActorRequest) -> Result<T, Errno> {
        let (answer, answered) = channel::bounded(1);
        self.requests.send(request(answer)).map_err(|_| Errno::ENODEV)?;
        self.bell.ring(Awaited::WORK);
        answered.recv().map_err(|_| Errno::ENODEV)
    }
}

impl Device for ActorHandle {
    fn apply(&self, update: DeviceUpdate) -> Result<(), Errno> {
        self.ask(|answer| ActorRequest::Apply(update, answer))?
    }

    fn status(&self) -> Result<DeviceStatus, Errno> {
        self.ask(ActorRequest::Status)
    }

    fn metrics(&self) -> String {
        self.registry.render()
    }

    fn drops(&self, after: u64) -> String {
        let samples = self.registry.drop_samples();
        let text = samples.read(after);
        if let Ok(runtime) = runtime::Handle::try_current()
            && samples.watch()
        {
            let samples = Arc::clone(samples);
            runtime.spawn(async move {
                loop {
                    sleep(SAMPLING).await;
                    if samples.expire() {
                        break;
                    }
                }
            });
        }
        text
    }
}
