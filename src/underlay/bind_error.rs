//! Errors when opening sockets.

use std::io;

use nix::errno::Errno;
use thiserror::Error;

/// Errors when opening sockets. The message says how to resolve the error.
#[derive(Debug, Error)]
pub enum BindError {
    /// Another process uses the port or, for port 0, no port is free.
    #[error(
        "UDP port {port} is in use: stop the program that uses it (see `ss -ulpn`) or set another ListenPort"
    )]
    PortTaken {
        /// The requested port.
        port: u16,
    },
    /// Only a privileged process may bind the port.
    #[error(
        "no permission to bind UDP port {port}: set a ListenPort of 1024 or higher, or grant \
         CAP_NET_BIND_SERVICE"
    )]
    PortForbidden {
        /// The requested port.
        port: u16,
    },
    /// Each lane needs a port above this one, and there are fewer ports than lanes.
    #[error(
        "too few UDP ports above {port} for one port per lane: set a lower ListenPort, or set \
         LANEWAY_SPREAD_PORTS=off"
    )]
    NoPortsAbove {
        /// The router's port.
        port: u16,
    },
    /// The process may not set a firewall mark.
    #[error("the firewall mark {fwmark:#x} cannot be set: grant CAP_NET_ADMIN, or remove FwMark")]
    MarkForbidden {
        /// The requested mark.
        fwmark: u32,
    },
    /// The process or the host has no file descriptors left.
    #[error("no file descriptors left for a UDP socket: raise the limit on open files (`ulimit -n`)")]
    NoDescriptors,
    /// Another system call failed.
    #[error("cannot open a UDP socket on port {port}: {step} failed: {error}")]
    Other {
        /// The requested port.
        port: u16,
        /// The system call or socket option that failed.
        step: &'static str,
        /// The error that the kernel returned.
        error: io::Error,
    },
}

/// Name of the step that sets the firewall mark, which has an error variant of its own.
pub(super) const MARK: &str = "SO_MARK";

/// Context for the errors of one [`bind`](super::bind).
#[derive(Clone, Copy)]
pub(super) struct Trouble {
    pub(super) port: u16,
    pub(super) fwmark: u32,
}

impl Trouble {
    /// Returns a function that converts an I/O error at `step` to a [`BindError`].
    pub(super) fn at(self, step: &'static str) -> impl Fn(io::Error) -> BindError {
        let Trouble { port, fwmark } = self;
        move |error| match errno(&error) {
            Errno::EADDRINUSE => BindError::PortTaken { port },
            Errno::EACCES if step == "bind" => BindError::PortForbidden { port },
            Errno::EPERM | Errno::EACCES if step == MARK => BindError::MarkForbidden { fwmark },
            Errno::EMFILE | Errno::ENFILE => BindError::NoDescriptors,
            _ => BindError::Other { port, step, error },
        }
    }
}

/// Returns whether the error means that the host has no IPv6 or has it disabled.
pub(super) fn no_ipv6(error: &io::Error) -> bool {
    matches!(errno(error), Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL | Errno::EPROTONOSUPPORT)
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_say_what_to_do() {
        let trouble = Trouble { port: 53, fwmark: 0x2a };
        let text = |errno: Errno, step| trouble.at(step)(errno.into()).to_string();
        assert!(text(Errno::EADDRINUSE, "bind").contains("set another ListenPort"));
        assert!(text(Errno::EACCES, "bind").contains("CAP_NET_BIND_SERVICE"));
        assert!(text(Errno::EPERM, MARK).contains("0x2a cannot be set: grant CAP_NET_ADMIN"));
        assert!(text(Errno::EMFILE, "socket").contains("ulimit -n"));
        assert!(text(Errno::ENOMEM, "socket").contains("port 53"));
    }
}
