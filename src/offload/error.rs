//! Errors when opening a TUN interface.

use std::io;

pub(super) const CLONE_DEVICE: &str = "/dev/net/tun";

/// Errors when opening or inheriting a TUN interface.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// `/dev/net/tun` does not exist or cannot be used in this container.
    #[error(
        "{CLONE_DEVICE} is missing. Docker: --device /dev/net/tun. Kubernetes: mount the host's \
         /dev/net/tun as a hostPath of type CharDevice. Elsewhere: modprobe tun"
    )]
    NoDevice,
    /// `/dev/net/tun` is a file, a folder or another device.
    #[error(
        "{CLONE_DEVICE} is not the TUN device but a file, a folder or another device. Docker makes a folder of a \
         --volume that is missing on the host: use --device /dev/net/tun. Elsewhere: rm -r {CLONE_DEVICE}; modprobe \
         tun; mknod {CLONE_DEVICE} c 10 200"
    )]
    NotTun,
    /// The file mode of `/dev/net/tun` denies access to this user.
    #[error(
        "no permission to open {CLONE_DEVICE}: its file mode denies access to this user. Run as root, or \
         allow all users: chmod 0666 {CLONE_DEVICE}"
    )]
    Forbidden,
    /// The process lacks the capability to create interfaces.
    #[error(
        "no permission to create a TUN interface: CAP_NET_ADMIN is missing. Docker: --cap-add NET_ADMIN. \
         Kubernetes: securityContext.capabilities.add: [NET_ADMIN]. Elsewhere: run as root"
    )]
    NoPermission,
    /// An interface of this name exists and cannot be attached to.
    #[error(
        "the interface {name} exists already: another process may be using it. Stop that process or choose \
         another name; if no process uses it, delete it: ip link del {name}"
    )]
    Busy {
        /// Name of the interface.
        name: String,
    },
    /// The kernel does not allow this interface name.
    #[error("{name:?} is not a valid interface name: use 1 to 15 bytes without '/', ':', NUL or white space")]
    Name {
        /// The requested name.
        name: String,
    },
    /// The number of queues is out of range.
    #[error("a TUN interface can have 1 to 256 queues, not {queues}")]
    Queues {
        /// The requested number of queues.
        queues: usize,
    },
    /// The inherited descriptor is not a TUN queue with the required flags.
    #[error(
        "the inherited descriptor is not a TUN queue with IFF_TUN, IFF_NO_PI and IFF_VNET_HDR \
         (and IFF_MULTI_QUEUE for more than one queue)"
    )]
    Inherited,
    /// Another system call failed.
    #[error("{operation} failed: {source}")]
    Os {
        /// The operation that failed.
        operation: &'static str,
        /// The error that the kernel returned.
        source: io::Error,
    },
}
