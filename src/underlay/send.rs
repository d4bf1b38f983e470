//! Sending runs: datagrams back to back for one endpoint, in one system call where the kernel can
//! cut them up itself (UDP GSO).
//!
//! The bytes come sealed from the inside worker's batches and leave for the wire. When the kernel
//! refuses a run, in this order:
//!
//! 1. no buffer space: the same send again, a few times, after a pause;
//! 2. with a source address: the same send without it. If that works, the address is gone;
//! 3. a grouped run (`EIO`, `EINVAL`, `EMSGSIZE`): its datagrams one by one. If the first then goes
//!    out after `EIO` or `EINVAL`, grouping was the trouble, and this socket groups no more (but
//!    `EINVAL` about datagrams over the path MTU is how kernels before 6.14 say `EMSGSIZE`);
//! 4. otherwise the caller is told, and how far the run got.
//!
//! The kernel takes a send whole or not at all, so no step loses, repeats or reorders a datagram.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use thiserror::Error;

use super::control;
use super::endpoint::{Endpoint, LocalSource};
use super::name;
use super::socket::UdpSocket;
use super::tally::SendTally;
use crate::sys::udp;

/// The most datagrams in one run: `UDP_MAX_SEGMENTS` of every kernel before Linux 6.9.
pub const MAX_RUN_SEGMENTS: usize = 64;

/// The most bytes in one run: an IPv4 packet (65,535) less its header (20) and that of UDP (8).
/// IPv6 could hold 20 more.
pub const MAX_RUN_BYTES: usize = 65_507;

/// How often a send that met `ENOBUFS` is tried again, and how long it waits before each.
const NO_BUFFER_RETRIES: usize = 3;
const NO_BUFFER_PAUSE: Duration = Duration::from_micros(50);

/// The most datagrams of `stride` bytes that one run has room for.
///
/// # Panics
/// If `stride` is zero or more than [`MAX_RUN_BYTES`].
pub const fn max_run(stride: usize) -> usize {
    assert!(stride > 0 && stride <= MAX_RUN_BYTES, "a datagram is 1 to 65,507 bytes");
    let by_bytes = MAX_RUN_BYTES / stride;
    if by_bytes < MAX_RUN_SEGMENTS { by_bytes } else { MAX_RUN_SEGMENTS }
}

/// What a caller should know about a run, whether it was sent or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notices {
    /// The source of the endpoint is no address of this host any more: clear it.
    pub source_gone: bool,
    /// A datagram is longer than the path takes in one piece: learn the
    /// [path MTU](UdpSocket::path_mtu) and cut the next ones to fit.
    pub over_mtu: bool,
}

/// Why a run, or the rest of one, was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SendFailure {
    /// The send buffer is full. Wait until the socket is writable, and then send the run again from
    /// byte `sent` on, which is the start of a datagram.
    #[error("the send buffer is full after {sent} bytes of the run")]
    WouldBlock {
        /// Bytes of the run that are on their way.
        sent: usize,
        /// What else there is to know.
        notices: Notices,
    },
    /// The kernel refuses what is left of the run. It concerns this destination, not the socket.
    #[error("the kernel refuses the destination, {lost} datagrams are lost: {errno}")]
    Refused {
        /// What the kernel said.
        errno: Errno,
        /// Datagrams of the run that were not sent; those before them were.
        lost: usize,
        /// What else there is to know.
        notices: Notices,
    },
}

/// Sends on a lane's socket. It remembers whether the socket groups, so each socket has its own.
pub struct Sender<K = Kernel> {
    kernel: K,
    gso: bool,
    tally: SendTally,
}

impl Sender {
    /// A sender for `socket`, which groups runs if the socket can.
    pub fn new(socket: &UdpSocket) -> Self {
        Self::with_kernel(Kernel, socket.gso())
    }
}

#[allow(private_bounds)] // what stands in for the kernel is for the tests in this module
impl<K: Transmit> Sender<K> {
    fn with_kernel(kernel: K, gso: bool) -> Self {
        Sender { kernel, gso, tally: SendTally::default() }
    }

    /// Sends `run`, datagrams of `stride` bytes back to back, the last maybe shorter, to `to` without
    /// waiting for room. It may pause for a fraction of a millisecond when the kernel is out of
    /// buffers.
    ///
    /// # Errors
    /// See [`SendFailure`]. A destination that an IPv4-only socket cannot reach is refused with
    /// `EAFNOSUPPORT`.
    ///
    /// # Panics
    /// If the run is empty, or longer than [`MAX_RUN_SEGMENTS`] or [`MAX_RUN_BYTES`].
    pub fn send_run(
        &mut self,
        socket: &UdpSocket,
        run: &[u8],
        stride: usize,
        to: &Endpoint,
    ) -> Result<Notices, SendFailure> {
        assert!(!run.is_empty(), "a run holds a datagram");
        let segments = run.len().div_ceil(stride);
        assert!(
            segments <= MAX_RUN_SEGMENTS && run.len() <= MAX_RUN_BYTES,
            "{segments} datagrams in {} bytes are too long a run",
            run.len()
        );

        let mut path = Path { socket, address: to.address, source: to.source, source_gone: false };
        let mut suspect = None;
        let mut over_mtu = false;
        if self.gso && segments > 1 {
            match self.send(&mut path, run, Some(stride as u16)) {
                Ok(()) => {
                    self.note_sent(segments, run.len());
                    return Ok(path.notices(over_mtu));
                }
                Err(errno @ (Errno::EIO | Errno::EINVAL)) => suspect = Some(errno),
                Err(Errno::EMSGSIZE) => over_mtu = true,
                Err(errno) => return Err(failure(errno, 0, segments, path.notices(over_mtu))),
            }
        }

        for (index, datagram) in run.chunks(stride).enumerate() {
            if let Err(errno) = self.send(&mut path, datagram, None) {
                over_mtu |= errno == Errno::EMSGSIZE;
                return Err(failure(errno, index * stride, segments - index, path.notices(over_mtu)));
            }
            self.note_sent(1, datagram.len());
            if let Some(errno) = suspect.take() {
                if errno == Errno::EINVAL && self.kernel.is_over_mtu(&path, stride) {
                    over_mtu = true;
                } else {
                    self.give_up_gso(socket, errno);
                }
            }
        }
        Ok(path.notices(over_mtu))
    }

    /// Whether runs are still sent grouped.
    pub fn gso(&self) -> bool {
        self.gso
    }

    /// What was done since the tally was last published; the caller clears what it takes.
    pub fn tally(&mut self) -> &mut SendTally {
        &mut self.tally
    }

    /// One send, if need be without the source. A source that hinders is cleared from `path`.
    fn send(&mut self, path: &mut Path<'_>, payload: &[u8], segment: Option<u16>) -> Result<(), Errno> {
        let sent = self.send_with_patience(path, payload, segment);
        let Some(source) = path.source else { return sent };
        match sent {
            Err(errno) if may_be_the_source(errno) => {
                path.source = None;
                if self.send_with_patience(path, payload, segment).is_ok() {
                    path.source_gone = true;
                    return Ok(());
                }
                path.source = Some(source);
                Err(errno)
            }
            _ => sent,
        }
    }

    /// One send, again after a pause while the kernel has no buffers for it.
    fn send_with_patience(
        &mut self,
        path: &Path<'_>,
        payload: &[u8],
        segment: Option<u16>,
    ) -> Result<(), Errno> {
        let mut retries = NO_BUFFER_RETRIES;
        loop {
            let sent = self.kernel.transmit(path, payload, segment);
            if let Err(errno) = sent {
                self.tally.errors.add(errno);
                if errno == Errno::ENOBUFS && retries > 0 {
                    retries -= 1;
                    std::thread::sleep(NO_BUFFER_PAUSE);
                    continue;
                }
            }
            return sent;
        }
    }

    fn note_sent(&mut self, segments: usize, bytes: usize) {
        self.tally.runs.add(segments);
        self.tally.bytes += bytes as u64;
    }

    /// Groups no more on this socket: its device or its route cannot (kernel: `udp_send_skb`).
    fn give_up_gso(&mut self, socket: &UdpSocket, errno: Errno) {
        self.gso = false;
        self.tally.gso_disabled.add(errno);
        tracing::warn!(
            port = socket.port(),
            ?errno,
            "UDP GSO refused: sending datagrams one by one from now on"
        );
    }
}

/// Where one run goes, and what was learned about it on the way.
struct Path<'a> {
    socket: &'a UdpSocket,
    address: SocketAddr,
    source: Option<LocalSource>,
    source_gone: bool,
}

impl Path<'_> {
    fn notices(&self, over_mtu: bool) -> Notices {
        Notices { source_gone: self.source_gone, over_mtu }
    }
}

/// Takes sends from a [`Sender`]: the kernel, or what stands in for it in a test.
trait Transmit {
    /// Sends all of `payload` along `path`, cut every `segment` bytes, or nothing of it.
    fn transmit(&mut self, path: &Path<'_>, payload: &[u8], segment: Option<u16>) -> Result<(), Errno>;

    /// Whether a datagram of `len` bytes is over the MTU of `path`, as far as is known.
    fn is_over_mtu(&mut self, path: &Path<'_>, len: usize) -> bool;
}

/// The kernel that this runs on.
pub struct Kernel;

impl Transmit for Kernel {
    fn transmit(&mut self, path: &Path<'_>, payload: &[u8], segment: Option<u16>) -> Result<(), Errno> {
        transmit(path.socket, payload, path.address, path.source, segment)
    }

    fn is_over_mtu(&mut self, path: &Path<'_>, len: usize) -> bool {
        const UDP_HEADER: usize = 8;
        let ip_header = if path.address.is_ipv4() { 20 } else { 40 };
        let endpoint = Endpoint { address: path.address, source: path.source };
        path.socket.path_mtu(&endpoint).is_ok_and(|mtu| ip_header + UDP_HEADER + len > mtu)
    }
}

impl UdpSocket {
    /// Sends one datagram, or nothing, without waiting for room. A [`Sender`] does what can be done about a
    /// refusal.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn send_one(&self, datagram: &[u8], to: &Endpoint) -> Result<(), Errno> {
        transmit(self, datagram, to.address, to.source, None)
    }
}

/// Sends all of `payload`, cut every `segment` bytes, or nothing of it.
fn transmit(
    socket: &UdpSocket,
    payload: &[u8],
    to: SocketAddr,
    source: Option<LocalSource>,
    segment: Option<u16>,
) -> Result<(), Errno> {
    let family = socket.family();
    let name = name::encode(family, to).ok_or(Errno::EAFNOSUPPORT)?;
    udp::send(socket.as_fd(), payload, &name, &control::encode(family, segment, source))
}

/// Whether `errno` can mean that the source address, or the route from it, is gone: `EINVAL` is what
/// both families say about an address that is not local.
fn may_be_the_source(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::EINVAL
            | Errno::EADDRNOTAVAIL
            | Errno::ENETUNREACH
            | Errno::EHOSTUNREACH
            | Errno::ENODEV
            | Errno::ENXIO
    )
}

fn failure(errno: Errno, sent: usize, lost: usize, notices: Notices) -> SendFailure {
    match errno {
        Errno::EAGAIN => SendFailure::WouldBlock { sent, notices },
        _ => SendFailure::Refused { errno, lost, notices },
    }
}

#[cfg(test)]
mod tests;
