//! Requests to the peer actor from other threads.

use std::sync::Arc;

use crossbeam::channel::{self, Receiver, Sender};
use nix::errno::Errno;

use crate::config::update::{DeviceStatus, DeviceUpdate};
use crate::lane::ring::doorbell::{Awaited, Doorbell};
use crate::metrics::Registry;
use crate::uapi::Device;

/// Capacity of the request channel. Each requester waits for its answer, so UAPI connections and reloads
/// bound the number of requests.
const REQUESTS: usize = 64;

/// A request to the peer actor, with the channel for its answer.
#[derive(Debug)]
pub enum Request {
    /// Changes the configuration.
    Apply(DeviceUpdate, Sender<Result<(), Errno>>),
    /// Returns the current configuration and statistics.
    Status(Sender<DeviceStatus>),
}

/// Handle for requests to the peer actor. Each call blocks until the actor answers, and fails with `ENODEV`
/// once the router has stopped.
#[derive(Clone, Debug)]
pub struct ActorHandle {
    requests: Sender<Request>,
    bell: Arc<Doorbell>,
    registry: Arc<Registry>,
}

impl ActorHandle {
    /// Creates a handle, and the receiver for the actor that waits on `bell`. Metrics come from `registry`.
    pub fn new(bell: Arc<Doorbell>, registry: Arc<Registry>) -> (Self, Receiver<Request>) {
        let (requests, receiver) = channel::bounded(REQUESTS);
        (Self { requests, bell, registry }, receiver)
    }

    fn ask<T>(&self, request: impl FnOnce(Sender<T>) -> Request) -> Result<T, Errno> {
        let (answer, answered) = channel::bounded(1);
        self.requests.send(request(answer)).map_err(|_| Errno::ENODEV)?;
        self.bell.ring(Awaited::WORK);
        answered.recv().map_err(|_| Errno::ENODEV)
    }
}

impl Device for ActorHandle {
    fn apply(&self, update: DeviceUpdate) -> Result<(), Errno> {
        self.ask(|answer| Request::Apply(update, answer))?
    }

    fn status(&self) -> Result<DeviceStatus, Errno> {
        self.ask(Request::Status)
    }

    fn metrics(&self) -> String {
        self.registry.render()
    }
}
