//! Opening the sockets: one per lane, all on one port, dual-stack where the host has IPv6.
//!
//! Path MTU: IPv4 leaves without "don't fragment", as from the kernel's WireGuard. A path whose ICMP
//! is filtered then still carries datagrams that are too long for it, in fragments. IPv6 keeps the
//! kernel's default: routers never fragment it, so the kernel does, to the path MTU it has learned.
//! A grouped send whose datagrams do not fit the route is refused (`EMSGSIZE`) in both.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use thiserror::Error;

use super::endpoint::Endpoint;
use super::name::Family;
use crate::sys::udp::{self, IntOption};

/// What the sockets are opened with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// Wanted size of the receive buffer and of the send buffer, each, in bytes.
    pub buffer: usize,
    /// Mark on every datagram sent, for policy routing; 0 for none.
    pub fwmark: u32,
    /// Send runs of datagrams grouped, where the kernel can.
    pub gso: bool,
    /// Receive runs of datagrams grouped, where the kernel can.
    pub gro: bool,
}

impl Default for SocketOptions {
    /// 32 MiB buffers, no mark, offloads on.
    fn default() -> Self {
        SocketOptions { buffer: 32 << 20, fwmark: 0, gso: true, gro: true }
    }
}

/// Why the sockets could not be opened. The message says what to do about it.
#[derive(Debug, Error)]
pub enum BindError {
    /// Someone else has the port, or, for port 0, all of them.
    #[error(
        "UDP port {port} is in use; `ss -ulpn` shows by whom: stop that program, or set another ListenPort"
    )]
    PortTaken {
        /// The port that was asked for.
        port: u16,
    },
    /// The port is one that only a privileged process may take.
    #[error(
        "UDP port {port} may not be used: set a ListenPort of 1024 or more, or grant CAP_NET_BIND_SERVICE"
    )]
    PortForbidden {
        /// The port that was asked for.
        port: u16,
    },
    /// Lanes need ports of their own above this one, and there are not as many.
    #[error(
        "there are too few ports above UDP port {port} for the lanes: set a lower ListenPort, or LANEWAY_SPREAD_PORTS=off"
    )]
    NoPortsAbove {
        /// The router's port.
        port: u16,
    },
    /// The mark could not be set.
    #[error("the firewall mark {fwmark:#x} cannot be set: grant CAP_NET_ADMIN, or leave FwMark out")]
    MarkForbidden {
        /// The mark that was asked for.
        fwmark: u32,
    },
    /// The process or the host has no more file descriptors.
    #[error("no file descriptor is left for a UDP socket: raise the limit on open files (`ulimit -n`)")]
    NoDescriptors,
    /// Anything else.
    #[error("a UDP socket on port {port} could not be set up: {step}: {error}")]
    Other {
        /// The port that was asked for.
        port: u16,
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
}

/// Opens `sockets` UDP sockets on `port` of every local address. Port 0 lets the kernel pick one,
/// which all of them share. The kernel spreads senders over the sockets by a hash of both addresses
/// and ports, so every socket must have a reader.
///
/// To change the port of a running router, bind anew and swap the sockets.
///
/// # Errors
/// See [`BindError`]. Another Laneway on the port is an error like any other owner of it, although
/// `SO_REUSEPORT` alone would let it in and split the datagrams between the two.
///
/// # Panics
/// If `sockets` is zero.
pub fn bind(port: u16, sockets: usize, options: SocketOptions) -> Result<Vec<UdpSocket>, BindError> {
    match bind_family(Family::Dual, port, sockets, options) {
        Err(BindError::Other { error, .. }) if no_ipv6(&error) => {
            tracing::info!("this host has no IPv6: the UDP sockets are IPv4 only");
            bind_family(Family::V4, port, sockets, options)
        }
        bound => bound,
    }
}

/// Opens the sockets for one family of addresses; see [`bind`].
pub(super) fn bind_family(
    family: Family,
    port: u16,
    sockets: usize,
    options: SocketOptions,
) -> Result<Vec<UdpSocket>, BindError> {
    assert!(sockets > 0, "a router needs a socket");
    let trouble = Trouble { port, fwmark: options.fwmark };
    let mut bound: Vec<UdpSocket> = Vec::with_capacity(sockets);
    for _ in 0..sockets {
        let next = UdpSocket::open(family, options, trouble)?;
        let share = |socket: &Socket| socket.set_reuse_port(true).map_err(trouble.at("SO_REUSEPORT"));
        // The first socket takes the port for itself and only then lets others in, and those are
        // ours: so a port that any other process holds is found to be taken.
        if let Some(first) = bound.first() {
            share(&next.socket)?;
            next.take_port(first.port, trouble)?;
        } else {
            next.take_port(port, trouble)?;
            share(&next.socket)?;
        }
        let port = next.socket.local_addr().map_err(trouble.at("getsockname"))?;
        let port = port.as_socket().map_or(0, |address| address.port());
        bound.push(UdpSocket { port, ..next });
    }
    Ok(bound)
}

/// One lane's UDP socket. It never blocks. Receive with a [`Receiver`](super::Receiver), send with a
/// [`Sender`](super::Sender), wait with poll on [`as_fd`](AsFd::as_fd).
#[derive(Debug)]
pub struct UdpSocket {
    socket: Socket,
    family: Family,
    port: u16,
    gso: bool,
    gro: bool,
}

/// Sizes of a socket's buffers, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferSizes {
    /// The receive buffer.
    pub receive: usize,
    /// The send buffer.
    pub send: usize,
}

impl UdpSocket {
    /// The local port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the socket carries IPv6 as well as IPv4.
    pub fn carries_ipv6(&self) -> bool {
        self.family == Family::Dual
    }

    /// Whether runs may be sent grouped: asked for, and known to the kernel.
    pub fn gso(&self) -> bool {
        self.gso
    }

    /// Whether runs are received grouped: asked for, and granted by the kernel.
    pub fn gro(&self) -> bool {
        self.gro
    }

    /// The buffer sizes that the kernel granted. They are less than was asked for where the process
    /// lacks `CAP_NET_ADMIN` and `net.core.rmem_max` or `wmem_max` is low.
    ///
    /// # Errors
    /// The kernel's refusal, which a healthy socket never meets.
    pub fn buffers(&self) -> io::Result<BufferSizes> {
        // The kernel doubles what is asked for, for its own bookkeeping, and reports the double.
        Ok(BufferSizes {
            receive: self.socket.recv_buffer_size()? / 2,
            send: self.socket.send_buffer_size()? / 2,
        })
    }

    /// Changes the mark on datagrams sent from now on; 0 for none.
    ///
    /// # Errors
    /// The kernel's refusal: `EPERM` without `CAP_NET_ADMIN`.
    pub fn set_fwmark(&self, fwmark: u32) -> io::Result<()> {
        self.socket.set_mark(fwmark)
    }

    /// How many datagrams the kernel dropped here since the socket was opened, mostly because the
    /// receive buffer was full. Wraps at 2^32.
    ///
    /// # Errors
    /// The kernel's refusal, which a healthy socket never meets.
    pub fn drops(&self) -> io::Result<u32> {
        udp::drops(self.as_fd())
    }

    /// The longest IP packet, headers included, in bytes, that the kernel believes to fit the path to
    /// `endpoint`. Asked after a send was [over the MTU](super::Notices::over_mtu). It opens a socket
    /// for the question, so it is not for the data path.
    ///
    /// # Errors
    /// The kernel's refusal, such as `ENETUNREACH` where no route leads to the endpoint.
    pub fn path_mtu(&self, endpoint: &Endpoint) -> io::Result<usize> {
        let probe = Socket::new(
            Domain::for_address(endpoint.address),
            Type::DGRAM.nonblocking().cloexec(),
            Some(Protocol::UDP),
        )?;
        let fwmark = self.socket.mark()?;
        if fwmark != 0 {
            probe.set_mark(fwmark)?;
        }
        if let Some(source) = endpoint.source {
            // A source that is gone does not hinder the answer.
            let _ = probe.bind(&SocketAddr::new(source.ip, 0).into());
        }
        probe.connect(&endpoint.address.into())?;
        let option = if endpoint.address.is_ipv4() { IntOption::IPV4_MTU } else { IntOption::IPV6_MTU };
        usize::try_from(option.get(probe.as_fd())?).map_err(io::Error::other)
    }

    /// The family that names and control messages are encoded for.
    pub(super) fn family(&self) -> Family {
        self.family
    }

    /// Opens a socket with every option set before it has a port, so that its first datagram
    /// already comes with all it should.
    fn open(family: Family, options: SocketOptions, trouble: Trouble) -> Result<Self, BindError> {
        let domain = if family == Family::Dual { Domain::IPV6 } else { Domain::IPV4 };
        let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))
            .map_err(trouble.at("socket"))?;
        let fd = socket.as_fd();

        if family == Family::Dual {
            socket.set_only_v6(false).map_err(trouble.at("IPV6_V6ONLY"))?;
            IntOption::IPV6_PACKET_INFO.set(fd, 1).map_err(trouble.at("IPV6_RECVPKTINFO"))?;
        } else {
            IntOption::IPV4_PACKET_INFO.set(fd, 1).map_err(trouble.at("IP_PKTINFO"))?;
        }
        IntOption::IPV4_MTU_DISCOVER
            .set(fd, libc::IP_PMTUDISC_DONT)
            .map_err(trouble.at("IP_MTU_DISCOVER"))?;
        if options.fwmark != 0 {
            socket.set_mark(options.fwmark).map_err(trouble.at(MARK))?;
        }

        let buffer = i32::try_from(options.buffer).unwrap_or(i32::MAX);
        if IntOption::RECEIVE_BUFFER_FORCE.set(fd, buffer).is_err() {
            socket.set_recv_buffer_size(options.buffer).map_err(trouble.at("SO_RCVBUF"))?;
        }
        if IntOption::SEND_BUFFER_FORCE.set(fd, buffer).is_err() {
            socket.set_send_buffer_size(options.buffer).map_err(trouble.at("SO_SNDBUF"))?;
        }

        // Kernels without an offload refuse its option. One without GSO would send a whole run as
        // one datagram, so it must not be tried there (UDP_SEGMENT: Linux 4.18, UDP_GRO: 5.0).
        let gso = options.gso && IntOption::UDP_SEGMENT.get(fd).is_ok();
        let gro = options.gro && IntOption::UDP_GRO.set(fd, 1).is_ok();
        Ok(UdpSocket { socket, family, port: 0, gso, gro })
    }

    /// Binds to `port` of every local address.
    fn take_port(&self, port: u16, trouble: Trouble) -> Result<(), BindError> {
        let everywhere: SocketAddr = match self.family {
            Family::Dual => (Ipv6Addr::UNSPECIFIED, port).into(),
            Family::V4 => (Ipv4Addr::UNSPECIFIED, port).into(),
        };
        self.socket.bind(&everywhere.into()).map_err(trouble.at("bind"))
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The step of setting the mark, which has an error of its own.
const MARK: &str = "SO_MARK";

/// What errors need to know of the call that they happened in.
#[derive(Clone, Copy)]
struct Trouble {
    port: u16,
    fwmark: u32,
}

impl Trouble {
    /// Makes the typed error of what went wrong at `step`.
    fn at(self, step: &'static str) -> impl Fn(io::Error) -> BindError {
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

/// Whether the error means that the host has IPv6 switched off.
fn no_ipv6(error: &io::Error) -> bool {
    matches!(errno(error), Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL | Errno::EPROTONOSUPPORT)
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(port: u16) -> Result<UdpSocket, BindError> {
        bind(port, 1, SocketOptions::default()).map(|mut sockets| sockets.remove(0))
    }

    #[test]
    fn all_lanes_share_the_port_that_the_kernel_picked() {
        let sockets = bind(0, 4, SocketOptions::default()).unwrap();
        assert_ne!(sockets[0].port(), 0);
        assert!(sockets.iter().all(|socket| socket.port() == sockets[0].port()));
    }

    #[test]
    fn a_second_router_on_the_port_is_refused_although_both_would_share_it() {
        let sockets = bind(0, 2, SocketOptions::default()).unwrap();
        let port = sockets[0].port();
        let refused = bind(port, 2, SocketOptions::default()).unwrap_err();
        assert!(matches!(refused, BindError::PortTaken { port: p } if p == port), "{refused}");
        drop(sockets);
        bind(port, 2, SocketOptions::default()).unwrap();
    }

    #[test]
    fn a_port_that_is_taken_for_ipv4_alone_is_taken() {
        let other = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        let refused = one(other.local_addr().unwrap().port()).unwrap_err();
        assert!(matches!(refused, BindError::PortTaken { .. }), "{refused}");
    }

    #[test]
    fn buffers_are_as_asked_for_or_as_large_as_the_host_allows() {
        let limit = |name: &str| -> usize {
            let text = std::fs::read_to_string(format!("/proc/sys/net/core/{name}")).unwrap();
            text.trim().parse().unwrap()
        };
        let wanted = 7 << 20;
        let options = SocketOptions { buffer: wanted, ..SocketOptions::default() };
        let achieved = bind(0, 1, options).unwrap()[0].buffers().unwrap();
        assert!(achieved.receive == wanted || achieved.receive == limit("rmem_max"), "{achieved:?}");
        assert!(achieved.send == wanted || achieved.send == limit("wmem_max"), "{achieved:?}");
    }

    #[test]
    fn the_offloads_have_a_kill_switch() {
        let options = SocketOptions { gso: false, gro: false, ..SocketOptions::default() };
        let socket = bind(0, 1, options).unwrap().remove(0);
        assert!(!socket.gso() && !socket.gro());
        assert_eq!(IntOption::UDP_GRO.get(socket.as_fd()).unwrap(), 0);
    }

    #[test]
    fn ipv4_leaves_without_dont_fragment_on_either_family() {
        for family in [Family::Dual, Family::V4] {
            let socket = bind_family(family, 0, 1, SocketOptions::default()).unwrap().remove(0);
            let mode = IntOption::IPV4_MTU_DISCOVER.get(socket.as_fd()).unwrap();
            assert_eq!(mode, libc::IP_PMTUDISC_DONT);
        }
    }

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
