//! The UAPI socket, through which `wg` and control planes configure a running router.

pub mod client;
pub mod protocol;
mod server;

use nix::errno::Errno;

pub use server::{MAX_CLIENTS, Server, SocketFile, UapiError};

use super::config::update::{DeviceStatus, DeviceUpdate};

/// What the socket talks to: a running router. Each client has a call at a time, on a thread that has nothing
/// else to do meanwhile: a call may wait for the peer actor, but not for the network.
pub trait Device: Send + Sync {
    /// Makes a change. If a part of it is refused, what stands before that part has been done, as with
    /// every WireGuard; a listen port that is taken is found first.
    ///
    /// # Errors
    /// What `wg` will print; `EADDRINUSE` if the listen port is taken.
    fn apply(&self, update: DeviceUpdate) -> Result<(), Errno>;

    /// The configuration and counts as they are now.
    ///
    /// # Errors
    /// What `wg` will print; `ENODEV` if the router is stopping.
    fn status(&self) -> Result<DeviceStatus, Errno>;

    /// Its metrics in the Prometheus text format.
    fn metrics(&self) -> String;
}
