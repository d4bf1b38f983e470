//! Opening UDP sockets: one per lane, all on one port, dual-stack if the host has IPv6.
//!
//! Path MTU: IPv4 datagrams are sent without "don't fragment", as in the kernel's WireGuard, so a path
//! that filters ICMP still carries datagrams longer than its MTU, as fragments. IPv6 keeps the kernel's
//! default: routers never fragment IPv6, so the kernel itself fragments to the path MTU it has learned.
//! For both, a GSO send whose datagrams exceed the MTU of the route fails with `EMSGSIZE`.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use socket2::{Domain, Protocol, Socket, Type};

use super::bind_error::{BindError, MARK, Trouble, no_ipv6};
use super::endpoint::Endpoint;
use super::name::Family;
use crate::sys::reuseport::{self, IndexHash};
use crate::sys::udp::{self, IntOption};

/// Options for opening sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOptions {
    /// Requested size of the receive buffer and of the send buffer, in bytes each.
    pub buffer: usize,
    /// Firewall mark (`SO_MARK`) of every datagram sent, for policy routing; 0 for none.
    pub fwmark: u32,
    /// Whether to use UDP GSO if the kernel supports it.
    pub gso: bool,
    /// Whether to use UDP GRO if the kernel supports it.
    pub gro: bool,
}

impl Default for SocketOptions {
    /// Returns options with 32 MiB buffers, no mark and both offloads enabled.
    fn default() -> Self {
        SocketOptions { buffer: 32 << 20, fwmark: 0, gso: true, gro: true }
    }
}

/// Opens `sockets` UDP sockets, all bound to `port` on every local address. With port 0 the kernel
/// picks a free port, which all sockets share.
///
/// Every socket must be read: the kernel distributes datagrams over them, by a hash of both addresses and ports or as
/// [`steer`] has told it. To change the port of a running router, bind new sockets and replace the old
/// ones.
///
/// # Errors
/// See [`BindError`]. Fails with [`BindError::PortTaken`] even if the other owner of the port is a
/// Laneway: `SO_REUSEPORT` alone would allow both to bind it and split the datagrams between them.
///
/// # Panics
/// If `sockets` is zero.
pub fn bind(port: u16, sockets: usize, options: SocketOptions) -> Result<Vec<UdpSocket>, BindError> {
    match bind_family(Family::Dual, port, sockets, options) {
        Err(BindError::Other { error, .. }) if no_ipv6(&error) => {
            tracing::info!("IPv6 is not available on this host: UDP sockets are IPv4 only");
            bind_family(Family::V4, port, sockets, options)
        }
        bound => bound,
    }
}

/// Opens sockets of one address family; see [`bind`].
pub(super) fn bind_family(
    family: Family,
    port: u16,
    sockets: usize,
    options: SocketOptions,
) -> Result<Vec<UdpSocket>, BindError> {
    assert!(sockets > 0, "at least one socket is required");
    let trouble = Trouble { port, fwmark: options.fwmark };
    let mut bound: Vec<UdpSocket> = Vec::with_capacity(sockets);
    for _ in 0..sockets {
        let next = UdpSocket::open(family, options, trouble)?;
        let share = |socket: &Socket| socket.set_reuse_port(true).map_err(trouble.at("SO_REUSEPORT"));
        // The first socket binds exclusively and sets SO_REUSEPORT afterwards, so binding fails if another
        // process uses the port, even with SO_REUSEPORT. A lone socket does not set it, so that no other
        // process can bind the port later.
        if let Some(first) = bound.first() {
            share(&next.socket)?;
            next.take_port(first.port, trouble)?;
        } else {
            next.take_port(port, trouble)?;
            if sockets > 1 {
                share(&next.socket)?;
            }
        }
        let port = next.socket.local_addr().map_err(trouble.at("getsockname"))?;
        let port = port.as_socket().map_or(0, |address| address.port());
        bound.push(UdpSocket { port, ..next });
    }
    Ok(bound)
}

/// The nonblocking UDP socket of one lane. Receive with a [`Receiver`](super::Receiver), send with a
/// [`Sender`](super::Sender), wait by polling [`as_fd`](AsFd::as_fd).
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
    /// Size of the receive buffer.
    pub receive: usize,
    /// Size of the send buffer.
    pub send: usize,
}

impl UdpSocket {
    /// Takes over a bound socket that another process has opened with [`bind`]. Its options stay as they are; `options`
    /// only says whether GSO may be used.
    ///
    /// # Errors
    /// It is not such a socket.
    pub fn inherit(fd: OwnedFd, options: SocketOptions) -> io::Result<Self> {
        let socket = Socket::from(fd);
        let address = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::InvalidInput)?;
        if socket.r#type()? != Type::DGRAM || address.port() == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        socket.set_nonblocking(true)?;
        let family = if address.is_ipv6() { Family::Dual } else { Family::V4 };
        let gso = options.gso && IntOption::UDP_SEGMENT.get(socket.as_fd()).is_ok();
        let gro = IntOption::UDP_GRO.get(socket.as_fd()).is_ok_and(|on| on != 0);
        Ok(UdpSocket { socket, family, port: address.port(), gso, gro })
    }

    /// Returns the local port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns whether the socket supports IPv6 as well as IPv4.
    pub fn carries_ipv6(&self) -> bool {
        self.family == Family::Dual
    }

    /// Returns whether UDP GSO was requested and the kernel supports it.
    pub fn gso(&self) -> bool {
        self.gso
    }

    /// Returns whether UDP GRO was requested and the kernel enabled it.
    pub fn gro(&self) -> bool {
        self.gro
    }

    /// Returns the buffer sizes that the kernel granted. They are smaller than requested if the process
    /// lacks `CAP_NET_ADMIN` and `net.core.rmem_max` or `net.core.wmem_max` is smaller.
    ///
    /// # Errors
    /// Fails if the kernel does not report the sizes, which does not happen with a working socket.
    pub fn buffers(&self) -> io::Result<BufferSizes> {
        // The kernel doubles the requested size for bookkeeping and reports the doubled size.
        Ok(BufferSizes {
            receive: self.socket.recv_buffer_size()? / 2,
            send: self.socket.send_buffer_size()? / 2,
        })
    }

    /// Sets the firewall mark of datagrams sent after this call; 0 for none.
    ///
    /// # Errors
    /// Fails if the kernel refuses the mark: `EPERM` without `CAP_NET_ADMIN`.
    pub fn set_fwmark(&self, fwmark: u32) -> io::Result<()> {
        self.socket.set_mark(fwmark)
    }

    /// Returns the number of datagrams that the kernel dropped at this socket since it was opened, mostly
    /// because the receive buffer was full. Wraps at 2^32.
    ///
    /// # Errors
    /// Fails on kernels before 4.12, which do not report the number.
    pub fn drops(&self) -> io::Result<u32> {
        udp::drops(self.as_fd())
    }

    /// Returns the path MTU to `endpoint` as known to the kernel: the longest IP packet in bytes, headers
    /// included. Call it after a send was [over the MTU](super::Notices::over_mtu). It opens a temporary
    /// socket, so it is too slow to call for every packet.
    ///
    /// # Errors
    /// Fails if the kernel cannot determine the MTU, such as with `ENETUNREACH` if there is no route to the
    /// endpoint.
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
            // If the source address no longer exists, query without it.
            let _ = probe.bind(&SocketAddr::new(source.ip, 0).into());
        }
        probe.connect(&endpoint.address.into())?;
        let option = if endpoint.address.is_ipv4() { IntOption::IPV4_MTU } else { IntOption::IPV6_MTU };
        usize::try_from(option.get(probe.as_fd())?).map_err(io::Error::other)
    }

    /// Returns the family for which names and control messages must be encoded.
    pub(super) fn family(&self) -> Family {
        self.family
    }

    /// Opens a socket and sets all options before binding, so that they apply to the first datagram
    /// received.
    fn open(family: Family, options: SocketOptions, trouble: Trouble) -> Result<Self, BindError> {
        let domain = if family == Family::Dual { Domain::IPV6 } else { Domain::IPV4 };
        let socket = Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(Protocol::UDP))
            .map_err(trouble.at("socket"))?;
        let fd = socket.as_fd();

        if family == Family::Dual {
            socket.set_only_v6(false).map_err(trouble.at("IPV6_V6ONLY"))?;
            IntOption::IPV6_PACKET_INFO.set(fd, 1).map_err(trouble.at("IPV6_RECVPKTINFO"))?;
            IntOption::IPV6_RECEIVE_CLASS.set(fd, 1).map_err(trouble.at("IPV6_RECVTCLASS"))?;
        } else {
            IntOption::IPV4_PACKET_INFO.set(fd, 1).map_err(trouble.at("IP_PKTINFO"))?;
        }
        // On a dual-stack socket too, for v4-mapped datagrams.
        IntOption::IPV4_RECEIVE_CLASS.set(fd, 1).map_err(trouble.at("IP_RECVTOS"))?;
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

        // A kernel without an offload refuses its option (UDP_SEGMENT: Linux 4.18, UDP_GRO: Linux 5.0).
        // Without the check for GSO, an old kernel would send a whole run as one datagram.
        let gso = options.gso && IntOption::UDP_SEGMENT.get(fd).is_ok();
        let gro = options.gro && IntOption::UDP_GRO.set(fd, 1).is_ok();
        Ok(UdpSocket { socket, family, port: 0, gso, gro })
    }

    /// Binds to `port` on every local address.
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

/// How the kernel selects the socket that receives a datagram, among those of one port. Its own way is a hash of both
/// addresses and ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selection {
    /// Data messages by a hash of their receiver index, others by the kernel's hash. Whoever allocates the indices spreads
    /// the peers over the sockets.
    ReceiverIndex(IndexHash),
    /// All by the source port, offset by a hash of the source address.
    ///
    /// If the lanes of a sender use consecutive source ports, each lane maps to a socket of its own, or round robin if
    /// there are fewer sockets than lanes. With four lanes and four sockets, the kernel's hash would leave at least one
    /// socket idle nine times in ten. A sender with one port maps to one socket, as with the hash.
    SourcePort,
}

/// Makes the kernel select among the `sockets` sockets of a port, numbered in the order in which they were bound, by
/// `selection`. `socket` is one of them.
///
/// If the kernel refuses, logs so and leaves its hash in place.
pub fn steer(socket: &UdpSocket, sockets: u32, selection: Selection) {
    if sockets < 2 {
        return;
    }
    let selected = match selection {
        Selection::ReceiverIndex(hash) => reuseport::pick_by_index(socket.as_fd(), sockets, hash),
        Selection::SourcePort => reuseport::pick_by_source(socket.as_fd(), sockets),
    };
    if let Err(error) = selected {
        tracing::info!("cannot select the lane that receives a datagram, using the kernel's hash: {error}");
    }
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
    fn nothing_can_join_a_lone_socket() {
        let lone = one(0).unwrap();
        for address in ["0.0.0.0", "127.0.0.1", "::", "::1"].map(|a| a.parse::<std::net::IpAddr>().unwrap()) {
            let address = SocketAddr::from((address, lone.port()));
            let newcomer = Socket::new(Domain::for_address(address), Type::DGRAM, None).unwrap();
            newcomer.set_reuse_port(true).unwrap();
            newcomer.set_reuse_address(true).unwrap();
            let refused = newcomer.bind(&address.into()).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::AddrInUse, "{address}");
        }
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
}
