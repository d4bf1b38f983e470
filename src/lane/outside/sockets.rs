//! The sockets of one lane: the one that all lanes share a port by, and, where ports are spread, one
//! on a port of its own.
//!
//! All datagrams between two routers have the same addresses and ports, so whatever spreads datagrams
//! by a hash of these (queues of a network card, `SO_REUSEPORT`) hands all of them to one queue and one
//! worker. A lane that sends from its own port gives the other side's card one more hash per lane, and the other
//! side's kernel is told to hand each port to a worker of its own ([`underlay::steer`]). Lane i uses the port i above
//! the shared one; lane 0 has only the shared one.
//!
//! Only peers that are known to be Laneways with the same setting are sent to from there: they do
//! not take another port for another place ([`PeerRecord::is_at`](crate::lane::peers::PeerRecord::is_at)).
//! Anybody else who got a datagram from there would answer to there, so those sockets have a reader
//! as well.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};

use nix::poll::PollFlags;

use crate::lane::peers::PeerRecord;
use crate::underlay::{self, BindError, SocketOptions, UdpSocket};

/// How often the kernel may pick a port that has no free ones above.
const PICKS: usize = 8;

/// The sockets of one lane.
#[derive(Debug)]
pub struct LaneSockets {
    /// On the port of the router.
    pub shared: UdpSocket,
    /// On the port of the lane.
    pub own: Option<UdpSocket>,
}

/// One of the sockets of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::lane) enum Port {
    Shared,
    Own,
}

impl LaneSockets {
    /// Opens the sockets of `lanes` lanes on `port` (0 lets the kernel pick), and with `spread` on as
    /// many ports above it as there are further lanes.
    ///
    /// # Errors
    /// See [`BindError`]; it names the port that cannot be had.
    pub fn open(
        port: u16,
        lanes: usize,
        spread: bool,
        options: SocketOptions,
    ) -> Result<Vec<Self>, BindError> {
        let mut tries = if port == 0 { PICKS } else { 1 };
        loop {
            tries -= 1;
            let shared = underlay::bind(port, lanes, options)?;
            if spread {
                underlay::steer(&shared);
            }
            match shared
                .into_iter()
                .enumerate()
                .map(|(lane, shared)| {
                    let own =
                        if spread && lane > 0 { Some(own(shared.port(), lane, options)?) } else { None };
                    Ok(LaneSockets { shared, own })
                })
                .collect()
            {
                Err(BindError::PortTaken { .. }) if tries > 0 => {}
                opened => return opened,
            }
        }
    }

    /// From where data for `peer` is sent.
    #[inline]
    pub(in crate::lane) fn towards(&self, peer: Option<&PeerRecord>) -> Port {
        if self.own.is_some() && peer.is_some_and(|peer| peer.spreads) { Port::Own } else { Port::Shared }
    }

    /// The socket on `port`.
    #[inline]
    pub(in crate::lane) fn on(&self, port: Port) -> &UdpSocket {
        match (port, &self.own) {
            (Port::Own, Some(own)) => own,
            _ => &self.shared,
        }
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &UdpSocket> {
        std::iter::once(&self.shared).chain(&self.own)
    }

    /// Marks what is sent with `mark`.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(super) fn set_fwmark(&self, mark: u32) -> io::Result<()> {
        self.iter().try_for_each(|socket| socket.set_fwmark(mark))
    }

    /// What to wait for: datagrams on all of them if `receive` is set, and room in the one that is
    /// full.
    pub(super) fn events(
        &self,
        receive: bool,
        full: Option<Port>,
    ) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        [Port::Shared, Port::Own].into_iter().zip(self.iter()).map(move |(port, socket)| {
            let mut events = PollFlags::empty();
            events.set(PollFlags::POLLIN, receive);
            events.set(PollFlags::POLLOUT, full == Some(port));
            (socket.as_fd(), events)
        })
    }
}

/// The socket on the port of `lane`.
fn own(shared: u16, lane: usize, options: SocketOptions) -> Result<UdpSocket, BindError> {
    let port =
        u16::try_from(usize::from(shared) + lane).map_err(|_| BindError::NoPortsAbove { port: shared })?;
    Ok(underlay::bind(port, 1, options)?.remove(0))
}
