//! Take-over: a successor process continues a running router. No packet is lost and no session ends.
//!
//! `laneway run --take-over` connects to the running router's control socket and sends `take_over=1` and an empty line.
//! Then both talk over this connection, in lines, some of which carry descriptors (`SCM_RIGHTS`):
//!
//! | | Predecessor | Successor |
//! |---|---|---|
//! | 1 | `{offer}` with all descriptors: TUN queues, UDP sockets, listeners, the pipe of its life | opens everything else that a router needs |
//! | 2 | | `ready` |
//! | 3 | pauses its workers ([`pause`](crate::lane::wait::pause)), freezes the peer actor ([`state`](crate::peers::state)), `state` with a memfd | reads and wipes the state |
//! | 4 | | `accept`, or `fresh` if it does not understand the state |
//! | 5 | `go` | starts its threads |
//! | 6 | | `running` |
//! | 7 | ends, and leaves interface, routes, rules and control socket | |
//!
//! Packets wait in the kernel's queues from 3 to 5. Instead of its next line, either may send `no` and a reason.
//!
//! # Who carries on
//!
//! The sessions are the predecessor's until it says `go`, and the successor's from then on:
//!
//! | What happens | Predecessor | Successor |
//! |---|---|---|
//! | the successor ends or refuses before `go` | goes on | |
//! | the predecessor waits too long before `go` | says `no`, then goes on | ends at `no` |
//! | the successor ends after `go` and before `running` | goes on without sessions: the successor may have used them | |
//! | the predecessor ends before `state` | | starts with the descriptors and new sessions |
//! | the predecessor ends after `state` and before `go` | | goes on with the sessions |
//!
//! The last row is safe because a predecessor that goes on has said `no` before, which the successor would find in the
//! socket, and because the successor learns from the pipe that the predecessor's process has ended, not only that it has
//! closed the connection. So no counter is ever sent twice with one key, whichever process dies when. Besides, a successor
//! leaves out [`RESERVE`] counters of each session.
//!
//! # State
//!
//! Keys, sessions with counters and replay windows, peers with endpoints and counters, and staged packets
//! ([`state`]). A handshake in progress starts again. The state is wiped from the memfd as soon as it is read.

pub mod connection;
pub mod kept;
pub mod predecessor;
pub mod restart;
pub mod state;
pub mod successor;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::offload::{self, Offloads};

/// Counters of each session that a successor does not send. Fewer than the smallest replay window
/// ([`WINDOW`](crate::wireguard::replay::WINDOW)), so that the other end accepts datagrams that are in flight.
pub const RESERVE: u64 = 1024;

const _: () = assert!(RESERVE < crate::wireguard::replay::WINDOW);

/// Time limit for the successor to open what it needs, before the predecessor pauses.
pub const PREPARING: Duration = Duration::from_secs(10);

/// Time limit for the workers to finish what they have read, and for the peer actor to freeze.
pub const PAUSING: Duration = Duration::from_secs(1);

/// Time limit for each answer while the workers are paused.
pub const ANSWERING: Duration = Duration::from_secs(2);

/// Time limit for the successor's threads to start.
pub const STARTING: Duration = Duration::from_secs(10);

/// What a predecessor offers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The interface's name.
    pub interface: String,
    /// The number of lanes.
    pub lanes: usize,
    /// Whether lanes have ports of their own.
    pub spread: bool,
    /// The offloads of the interface.
    pub offloads: Offloads,
    /// Whether the kernel takes superpackets inside UDP tunnels, if it was tried. Older programs do not tell.
    #[serde(default)]
    pub tunnels: Option<bool>,
    /// The secret of the receiver indices.
    pub secret: [u8; 8],
    /// What the descriptors are, in order.
    pub descriptors: Vec<Descriptor>,
}

impl Offer {
    /// Creates an offer without descriptors.
    pub(super) fn of(
        interface: String,
        lanes: usize,
        spread: bool,
        offloads: Offloads,
        secret: [u8; 8],
    ) -> Self {
        let tunnels = offload::tried_tunnels();
        Offer { interface, lanes, spread, offloads, tunnels, secret, descriptors: Vec::new() }
    }
}

/// What a descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Descriptor {
    /// The TUN queue of the lane.
    Tun(usize),
    /// The UDP socket of the lane on the router's port.
    Shared(usize),
    /// The UDP socket of the lane on its own port.
    Own(usize),
    /// The listener for HTTP.
    Http,
    /// The listener of the control socket.
    Control,
    /// The netlink socket that the rules for masquerading belong to.
    Masquerade,
    /// The end of a pipe whose other end closes when the predecessor's process ends.
    Life,
}
