//! The UAPI socket, with which `wg` and control planes configure a running router (wireguard.com/xplatform).

pub mod client;
mod lines;
pub mod protocol;
mod server;

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

pub use server::{MAX_ANSWERS, Server, SocketFile, UapiError};

use crate::config::update::{DeviceStatus, DeviceUpdate};

/// Returns the path of the socket of `interface`, where `wg` looks for it.
pub fn socket_path(directory: &Path, interface: &str) -> PathBuf {
    directory.join(format!("{interface}.sock"))
}

/// The router behind the socket. Each client makes one call at a time, on a blocking thread: a call may wait for the
/// peer actor, but not for the network.
pub trait Device: Send + Sync {
    /// Applies a change. If part of it is refused, everything before that part remains applied, as in other WireGuard
    /// implementations. A listen port that is in use is detected before anything is applied.
    ///
    /// # Errors
    /// The errno for `wg` to print; `EADDRINUSE` if the listen port is in use.
    fn apply(&self, update: DeviceUpdate) -> Result<(), Errno>;

    /// Returns the current configuration and counters.
    ///
    /// # Errors
    /// The errno for `wg` to print; `ENODEV` if the router is stopping.
    fn status(&self) -> Result<DeviceStatus, Errno>;

    /// Hands the router over to the process at the other end of `stream`, if it can. Blocks meanwhile. By default the
    /// connection is closed.
    fn hand_over(&self, stream: UnixStream) {
        drop(stream);
    }

    /// Returns the metrics in the Prometheus text format.
    fn metrics(&self) -> String;

    /// Begins or continues to sample dropped packets. Returns `next=NUMBER` and the samples after number `after`, a line
    /// each; the number continues from there.
    fn drops(&self, after: u64) -> String;
}
