//! The UAPI socket, with which `wg` and control planes configure a running router (wireguard.com/xplatform).

pub mod client;
mod lines;
pub mod protocol;
mod server;

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::{fs, io};

use nix::errno::Errno;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;

pub(crate) use server::named;
pub use server::{MAX_ANSWERS, Server, SocketFile, UapiError};

use crate::config::update::{DeviceStatus, DeviceUpdate};

/// Returns the path of the socket of `interface`, where `wg` looks for it.
pub fn socket_path(directory: &Path, interface: &str) -> PathBuf {
    directory.join(format!("{interface}.sock"))
}

/// Returns the process that serves `interface`, if there is one and it can be told.
pub fn serving(directory: &Path, interface: &str) -> Option<i32> {
    process_behind(&UnixStream::connect(socket_path(directory, interface)).ok()?)
}

/// Returns the process that listens on the socket to which `stream` is connected. After a restart of a service it may be one
/// before, which has ended and is not told.
fn process_behind(stream: &UnixStream) -> Option<i32> {
    let process = getsockopt(stream, PeerCredentials).ok()?.pid();
    Path::new(&format!("/proc/{process}")).exists().then_some(process)
}

/// Removes the socket of `interface` if no process listens on it. Returns whether there was one.
///
/// # Errors
/// The file cannot be removed.
pub fn remove_unserved(directory: &Path, interface: &str) -> io::Result<bool> {
    let path = socket_path(directory, interface);
    match UnixStream::connect(&path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(&path).map(|()| true)
        }
        _ => Ok(false),
    }
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
