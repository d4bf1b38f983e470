//! `laneway down IFNAME`: removes what a router left behind that was killed, crashed, or ended with `LANEWAY_KEEP=on`.

use std::io;
use std::path::PathBuf;

use clap::Args;

use super::chosen;
use crate::config::ConfigError;
use crate::config::env::Environment;
use crate::netlink::{self, NetlinkError};
use crate::uapi;

/// Remove an interface that a router left behind, with its routes and rules
#[derive(Clone, Debug, Args)]
pub struct DownArgs {
    /// Interface to remove
    #[arg(value_name = "IFNAME")]
    interface: String,
}

/// Errors of `laneway down`.
#[derive(Debug, thiserror::Error)]
pub enum DownError {
    /// There is nothing to remove.
    #[error("there is no interface {0}, and no router left anything behind for it")]
    Nothing(String),
    /// A process has the interface open.
    #[error("a process is using {0}; stop it first, which removes the interface")]
    InUse(String),
    /// The interface is not one that `laneway` creates.
    #[error(
        "{0} is not a multiqueue TUN interface, so laneway did not create it; remove it with `ip link del {0}`"
    )]
    Foreign(String),
    /// The kernel refused a request.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The environment is invalid, so that the control socket's directory is not known. All else was removed.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The control socket stays.
    #[error("{}: cannot remove the control socket: {source}", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// The system error.
        source: io::Error,
    },
}

/// Removes the interface, with its routes, rules and unreachable routes, and its control socket if no process serves it.
/// Packets for the tunnel then leave by other routes, unencrypted.
///
/// # Errors
/// See [`DownError`]. Nothing is removed unless the kernel refuses a request or the control socket stays.
pub fn run(args: &DownArgs) -> Result<(), DownError> {
    let name = &args.interface;
    let remove_socket = || {
        let directory = chosen::directory(Environment::of_process()?.uapi_dir);
        let failed = |source| DownError::Socket { path: uapi::socket_path(&directory, name), source };
        uapi::remove_unserved(&directory, name).map_err(failed)
    };
    let found = netlink::remains(name)?;
    if found.is_empty() {
        return if remove_socket()? { Ok(()) } else { Err(DownError::Nothing(name.clone())) };
    }
    match found.device {
        Some(None) => return Err(DownError::Foreign(name.clone())),
        Some(Some(state)) if state.queues > 0 => return Err(DownError::InUse(name.clone())),
        Some(Some(_)) | None => {}
    }
    netlink::change_port_rules(&found.port_rules, &[])?;
    netlink::clean_up(name, &found.setup)?;
    netlink::delete(name)?;
    remove_socket()?;
    Ok(())
}
