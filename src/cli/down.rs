//! `laneway down IFNAME`: removes what a router left behind that was killed, crashed, or ended with `LANEWAY_KEEP=on`.

use clap::Args;

use crate::netlink::{self, NetlinkError};

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
}

/// Removes the interface, with its routes, rules and unreachable routes. Packets for the tunnel then leave by other
/// routes, unencrypted.
///
/// # Errors
/// See [`DownError`]. Nothing is removed unless the kernel refuses a request.
pub fn run(args: &DownArgs) -> Result<(), DownError> {
    let name = &args.interface;
    let found = netlink::remains(name)?;
    if found.is_empty() {
        return Err(DownError::Nothing(name.clone()));
    }
    match found.device {
        Some(None) => return Err(DownError::Foreign(name.clone())),
        Some(Some(state)) if state.queues > 0 => return Err(DownError::InUse(name.clone())),
        Some(Some(_)) | None => {}
    }
    netlink::change_port_rules(&found.port_rules, &[])?;
    netlink::clean_up(name, &found.setup)?;
    netlink::delete(name)?;
    Ok(())
}
