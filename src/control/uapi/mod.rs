//! The UAPI socket, through which `wg` and control planes configure a running router.

pub mod protocol;
mod server;

use nix::errno::Errno;

pub use server::{Server, UapiError};

use super::config::update::{DeviceStatus, DeviceUpdate};

/// What the socket talks to: a running router. Called on the admin thread, one call at a time; a
/// call may wait for the peer actor, but not for the network.
pub trait Device: Send + Sync {
    /// Makes a change, whole or not at all.
    ///
    /// # Errors
    /// What `wg` will print; `EADDRINUSE` if the listen port is taken.
    fn apply(&self, update: DeviceUpdate) -> Result<(), Errno>;

    /// The configuration and counts as they are now.
    ///
    /// # Errors
    /// What `wg` will print; `ENODEV` if the router is stopping.
    fn status(&self) -> Result<DeviceStatus, Errno>;
}
