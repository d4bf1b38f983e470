//! The sockets of one lane: one on the port shared by all lanes and, if ports are spread, one on the
//! lane's own port.
//!
//! Unless ports are spread, the kernel is told which lane receives a data message ([`underlay::steer`]): that of its
//! receiver index ([`LaneHash`]), so that each lane has as many peers as the others.
//!
//! All datagrams between two routers have the same addresses and ports, so one queue of the network card and one worker
//! receive all of them. If each lane sends from its own port, the receiver's network card sees one hash per lane, and the
//! receiver's kernel is told to give each port to a different worker. Lane i uses the shared port plus i; lane 0 has only
//! the shared port.
//!
//! Own ports are used only towards peers known to be Laneway with the same setting, which do not treat
//! the other port as roaming ([`PeerRecord::is_at`](crate::lane::peers::PeerRecord::is_at)). Anyone
//! else who got a datagram from such a port would reply to it, so its socket is read too.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use nix::poll::PollFlags;

use crate::lane::peers::PeerRecord;
use crate::underlay::{self, BindError, Selection, SocketOptions, UdpSocket};
use crate::wireguard::lanes::LaneHash;

/// Maximum attempts to have the kernel pick a port with enough free ports above it.
const PICKS: usize = 8;

/// The sockets of one lane.
#[derive(Debug)]
pub struct LaneSockets {
    /// The socket on the router's port, shared by all lanes.
    pub shared: UdpSocket,
    /// The socket on the lane's own port, if ports are spread.
    pub own: Option<UdpSocket>,
}

/// One of the sockets of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::lane) enum SendSocket {
    Shared,
    Own,
}

impl LaneSockets {
    /// Opens the sockets of all lanes on `port` (0 lets the kernel pick). With `spread`, each lane
    /// except the first also gets one of the ports above it.
    ///
    /// # Errors
    /// If a port cannot be bound; the [`BindError`] names it.
    pub fn open(
        port: u16,
        lanes: LaneHash,
        spread: bool,
        options: SocketOptions,
    ) -> Result<Vec<Self>, BindError> {
        let mut tries = if port == 0 { PICKS } else { 1 };
        loop {
            tries -= 1;
            let shared = underlay::bind(port, lanes.lanes as usize, options)?;
            underlay::steer(&shared[0], lanes.lanes, selection(lanes, spread));
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

    /// Checks that each of `lanes` lanes can have a port of its own from `port` on (0 lets the kernel pick).
    ///
    /// # Errors
    /// [`BindError::NoPortsAbove`].
    pub fn check_ports(port: u16, lanes: usize) -> Result<(), BindError> {
        own_port(port, lanes.saturating_sub(1)).map(drop)
    }

    /// Takes over the sockets of each lane, on the router's port and on the lane's own, from another process, which had the
    /// same number of lanes and the same setting of `spread`.
    ///
    /// # Errors
    /// One is not a bound UDP socket.
    pub fn inherit(
        descriptors: Vec<(OwnedFd, Option<OwnedFd>)>,
        lanes: LaneHash,
        spread: bool,
        options: SocketOptions,
    ) -> io::Result<Vec<Self>> {
        let inherit = |fd| UdpSocket::inherit(fd, options);
        let lane = |(shared, own): (_, Option<_>)| {
            Ok(LaneSockets { shared: inherit(shared)?, own: own.map(inherit).transpose()? })
        };
        let sockets = descriptors.into_iter().map(lane).collect::<io::Result<Vec<_>>>()?;
        // The other process may have had another secret or be of a version that used the kernel's hash.
        if let Some(first) = sockets.first() {
            underlay::steer(&first.shared, lanes.lanes, selection(lanes, spread));
        }
        Ok(sockets)
    }

    /// Returns the port to send data for `peer` from.
    #[inline]
    pub(in crate::lane) fn towards(&self, peer: Option<&PeerRecord>) -> SendSocket {
        if self.own.is_some() && peer.is_some_and(|peer| peer.spreads) {
            SendSocket::Own
        } else {
            SendSocket::Shared
        }
    }

    /// Returns the socket on `port`.
    #[inline]
    pub(in crate::lane) fn on(&self, port: SendSocket) -> &UdpSocket {
        match (port, &self.own) {
            (SendSocket::Own, Some(own)) => own,
            _ => &self.shared,
        }
    }

    /// Iterates over the lane's sockets.
    pub(super) fn iter(&self) -> impl Iterator<Item = &UdpSocket> {
        std::iter::once(&self.shared).chain(&self.own)
    }

    /// Sets the firewall mark of outgoing datagrams.
    ///
    /// # Errors
    /// If the kernel refuses the mark. Setting it needs `CAP_NET_ADMIN`.
    pub fn set_fwmark(&self, mark: u32) -> io::Result<()> {
        self.iter().try_for_each(|socket| socket.set_fwmark(mark))
    }

    /// Returns the events to poll for: datagrams on all sockets if `receive` is set, and room in the
    /// socket that is `full`.
    pub(super) fn events(
        &self,
        receive: bool,
        full: Option<SendSocket>,
    ) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        [SendSocket::Shared, SendSocket::Own].into_iter().zip(self.iter()).map(move |(port, socket)| {
            let mut events = PollFlags::empty();
            events.set(PollFlags::POLLIN, receive);
            events.set(PollFlags::POLLOUT, full == Some(port));
            (socket.as_fd(), events)
        })
    }
}

fn selection(lanes: LaneHash, spread: bool) -> Selection {
    if spread { Selection::SourcePort } else { Selection::ReceiverIndex(lanes.hash) }
}

/// Opens the socket on `lane`'s own port.
fn own(shared: u16, lane: usize, options: SocketOptions) -> Result<UdpSocket, BindError> {
    Ok(underlay::bind(own_port(shared, lane)?, 1, options)?.remove(0))
}

/// Returns `lane`'s own port.
fn own_port(shared: u16, lane: usize) -> Result<u16, BindError> {
    u16::try_from(usize::from(shared) + lane).map_err(|_| BindError::NoPortsAbove { port: shared })
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, UdpSocket as Plain};
    use std::os::fd::AsRawFd as _;

    use nix::poll::{PollFd, PollTimeout, poll};
    use nix::sys::socket::{MsgFlags, recv};

    use super::*;

    const LANES: usize = 3;

    /// Sends data messages and checks which lane receives them.
    fn assert_selected(opened: &[LaneSockets], lanes: LaneHash) {
        let to = (Ipv4Addr::LOCALHOST, opened[0].shared.port());
        let sender = Plain::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        for index in 0..32_u32 {
            let mut message = [0; 32];
            message[0] = 4;
            message[4..8].copy_from_slice(&index.to_le_bytes());
            sender.send_to(&message, to).unwrap();
            let fds = opened.iter().map(|lane| lane.shared.as_fd());
            let mut polled: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            assert_eq!(poll(&mut polled, PollTimeout::from(20_000_u16)), Ok(1));
            let met = polled.iter().position(|fd| fd.any() == Some(true)).unwrap();
            assert_eq!(met as u32, lanes.lane(index), "{index}");
            recv(opened[met].shared.as_fd().as_raw_fd(), &mut message, MsgFlags::empty()).unwrap();
        }
    }

    #[test]
    fn data_messages_reach_the_lane_that_the_protocol_expects() {
        let [own, others] = [[7; 8], [8; 8]].map(|secret| LaneHash::new(&secret, LANES));
        let opened = LaneSockets::open(0, own, false, SocketOptions::default()).unwrap();
        assert_selected(&opened, own);
        // A process that takes over the sockets without the sessions has a secret of its own.
        let descriptor = |lane: &LaneSockets| (lane.shared.as_fd().try_clone_to_owned().unwrap(), None);
        let descriptors = opened.iter().map(descriptor).collect();
        let taken = LaneSockets::inherit(descriptors, others, false, SocketOptions::default()).unwrap();
        assert_selected(&taken, others);
    }
}
