//! Sending runs: contiguous datagrams for one endpoint, in one system call where the kernel supports
//! UDP GSO.
//!
//! The datagrams were sealed by the inside worker. If the kernel refuses a send, the sender tries these
//! fallbacks in order:
//!
//! 1. After `ENOBUFS`, it repeats the send a few times, each after a pause.
//! 2. If the send specified a source address, it repeats the send without it. If that succeeds, the
//!    source address no longer exists on this host.
//! 3. If a GSO send failed with `EIO`, `EINVAL` or `EMSGSIZE`, it sends the datagrams one by one. If the
//!    first is accepted after `EIO` or `EINVAL`, GSO is disabled on this socket, unless the datagrams
//!    exceed the path MTU: kernels before 6.14 report that as `EINVAL` instead of `EMSGSIZE`.
//! 4. Otherwise it returns an error that says how much of the run was sent.
//!
//! The kernel accepts a send whole or not at all, so no step loses, repeats or reorders a datagram.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use thiserror::Error;

use super::endpoint::{Endpoint, LocalSource};
use super::socket::UdpSocket;
use super::tally::SendTally;
use super::{control, name};
use crate::sys::udp;

/// Maximum datagrams in one run: `UDP_MAX_SEGMENTS` of kernels before Linux 6.9.
pub const MAX_RUN_SEGMENTS: usize = 64;

/// Maximum bytes in one run: the longest IPv4 packet (65,535) less IPv4 header (20) and UDP header (8).
/// IPv6 allows 20 more.
pub const MAX_RUN_BYTES: usize = 65_507;

/// Number of retries after `ENOBUFS`.
const NO_BUFFER_RETRIES: usize = 3;

/// Pause before each retry after `ENOBUFS`.
const NO_BUFFER_PAUSE: Duration = Duration::from_micros(50);

/// Returns the maximum number of datagrams of `stride` bytes in one run.
///
/// # Panics
/// If `stride` is zero or more than [`MAX_RUN_BYTES`].
pub const fn max_run(stride: usize) -> usize {
    assert!(stride > 0 && stride <= MAX_RUN_BYTES, "the stride must be 1 to 65,507 bytes");
    let by_bytes = MAX_RUN_BYTES / stride;
    if by_bytes < MAX_RUN_SEGMENTS { by_bytes } else { MAX_RUN_SEGMENTS }
}

/// Conditions that a send revealed about its endpoint, whether or not the run was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notices {
    /// The source address of the endpoint no longer exists on this host: clear it.
    pub source_gone: bool,
    /// A datagram exceeds the path MTU: query the [path MTU](UdpSocket::path_mtu) and send shorter
    /// datagrams.
    pub over_mtu: bool,
}

/// Errors when sending a run. Part of the run may have been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SendFailure {
    /// The send buffer is full. Wait until the socket is writable, then send the run from byte `sent` on,
    /// which is the start of a datagram.
    #[error("the send buffer is full after {sent} bytes of the run")]
    WouldBlock {
        /// Bytes of the run that were sent.
        sent: usize,
        /// Conditions found during the send.
        notices: Notices,
    },
    /// The kernel refused the rest of the run. The error concerns this destination, not the socket.
    #[error("the kernel refused to send to the endpoint, {lost} datagrams lost: {errno}")]
    Refused {
        /// The error that the kernel returned.
        errno: Errno,
        /// Bytes of the run that were sent.
        sent: usize,
        /// Datagrams at the end of the run that were not sent. All before them were.
        lost: usize,
        /// Conditions found during the send.
        notices: Notices,
    },
}

/// Sends on the socket of a lane. Each socket needs a sender of its own, which remembers whether GSO
/// works on it.
pub struct Sender {
    gso: bool,
    tally: SendTally,
    #[cfg(test)]
    refusals: tests::Refusals,
}

impl Sender {
    /// Creates a sender for `socket`, with GSO if the socket supports it.
    pub fn new(socket: &UdpSocket) -> Self {
        Self {
            gso: socket.gso(),
            tally: SendTally::default(),
            #[cfg(test)]
            refusals: tests::Refusals::default(),
        }
    }

    /// Sends `run` to `to` without waiting for buffer space. The run is contiguous datagrams of `stride`
    /// bytes, of which the last may be shorter. `class` is the traffic class of all their IP headers. Sleeps for a
    /// fraction of a millisecond if the kernel returns `ENOBUFS`.
    ///
    /// # Errors
    /// See [`SendFailure`]. An IPv4-only socket refuses an IPv6 destination with `EAFNOSUPPORT`.
    ///
    /// # Panics
    /// If the run is empty, or longer than [`MAX_RUN_SEGMENTS`] datagrams or [`MAX_RUN_BYTES`] bytes.
    pub fn send_run(
        &mut self,
        socket: &UdpSocket,
        run: &[u8],
        stride: usize,
        to: &Endpoint,
        class: u8,
    ) -> Result<Notices, SendFailure> {
        assert!(!run.is_empty(), "a run must not be empty");
        let segments = run.len().div_ceil(stride);
        assert!(
            segments <= MAX_RUN_SEGMENTS && run.len() <= MAX_RUN_BYTES,
            "the run is too long: {segments} datagrams, {} bytes",
            run.len()
        );

        let mut path = SendPath { socket, address: to.address, class, source: to.source, source_gone: false };
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
                let beyond = errno == Errno::EINVAL && path.is_over_mtu(stride);
                #[cfg(test)]
                let beyond = beyond || errno == Errno::EINVAL && self.refusals.narrow;
                if beyond {
                    over_mtu = true;
                } else {
                    self.give_up_gso(socket, errno);
                }
            }
        }
        Ok(path.notices(over_mtu))
    }

    /// Returns whether GSO is in use.
    pub fn gso(&self) -> bool {
        self.gso
    }

    /// Returns the counts since they were last published. The caller resets what it publishes.
    pub fn tally(&mut self) -> &mut SendTally {
        &mut self.tally
    }

    /// Sends once, and again without the source address if the failure may be due to it. Clears the
    /// source from `path` if that succeeds.
    fn send(&mut self, path: &mut SendPath<'_>, payload: &[u8], segment: Option<u16>) -> Result<(), Errno> {
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

    /// Sends once, with retries after `ENOBUFS`, each after a pause.
    fn send_with_patience(
        &mut self,
        path: &SendPath<'_>,
        payload: &[u8],
        segment: Option<u16>,
    ) -> Result<(), Errno> {
        let mut retries = NO_BUFFER_RETRIES;
        loop {
            #[cfg(test)]
            let sent = self.refusals.next(path, segment).and_then(|()| transmit(path, payload, segment));
            #[cfg(not(test))]
            let sent = transmit(path, payload, segment);
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

    /// Disables GSO on this socket: the network device or the route does not support it (`udp_send_skb` in
    /// `net/ipv4/udp.c`).
    fn give_up_gso(&mut self, socket: &UdpSocket, errno: Errno) {
        self.gso = false;
        self.tally.gso_disabled.add(errno);
        tracing::warn!(
            port = socket.port(),
            ?errno,
            "the kernel refused UDP GSO; it is disabled on this socket"
        );
    }
}

/// Destination, traffic class and source of one run, and what its sends revealed about them.
struct SendPath<'a> {
    socket: &'a UdpSocket,
    address: SocketAddr,
    class: u8,
    source: Option<LocalSource>,
    source_gone: bool,
}

impl SendPath<'_> {
    fn notices(&self, over_mtu: bool) -> Notices {
        Notices { source_gone: self.source_gone, over_mtu }
    }

    /// Returns whether a datagram of `len` bytes is known to exceed the MTU of this path.
    fn is_over_mtu(&self, len: usize) -> bool {
        const UDP_HEADER: usize = 8;
        let ip_header = if self.address.is_ipv4() { 20 } else { 40 };
        let endpoint = Endpoint { address: self.address, source: self.source };
        self.socket.path_mtu(&endpoint).is_ok_and(|mtu| ip_header + UDP_HEADER + len > mtu)
    }
}

impl UdpSocket {
    /// Sends one datagram, whose IP header gets the traffic class `class`, without waiting for buffer space.
    /// Unlike a [`Sender`], does not retry.
    ///
    /// # Errors
    /// Returns the kernel's error. Nothing was sent.
    pub fn send_one(&self, datagram: &[u8], to: &Endpoint, class: u8) -> Result<(), Errno> {
        let path =
            SendPath { socket: self, address: to.address, class, source: to.source, source_gone: false };
        transmit(&path, datagram, None)
    }
}

/// Sends `payload` along `path`, split every `segment` bytes. Sends all of it or nothing.
fn transmit(path: &SendPath<'_>, payload: &[u8], segment: Option<u16>) -> Result<(), Errno> {
    let SendPath { socket, address, class, source, .. } = *path;
    let family = socket.family();
    let name = name::encode(family, address).ok_or(Errno::EAFNOSUPPORT)?;
    let control = control::encode(family, address.ip(), segment, class, source);
    udp::send(socket.as_fd(), payload, &name, &control)
}

/// Returns whether `errno` can mean that the source address, or the route from it, no longer exists. Both
/// families return `EINVAL` for an address that is not local.
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
        _ => SendFailure::Refused { errno, sent, lost, notices },
    }
}

#[cfg(test)]
mod tests;
