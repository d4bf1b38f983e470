//! The state of the peer actor as plain data, so that another process can continue it.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::units::Nanos;
use crate::wireguard::state::ProtocolState;

/// The state of the peer actor and of what the workers note of the peers.
#[derive(Serialize, Deserialize)]
pub struct ActorState {
    /// The firewall mark of the sockets.
    pub fwmark: u32,
    /// The protocol's state.
    pub protocol: ProtocolState,
    /// What belongs to each of the protocol's peers, in the same order.
    pub records: Vec<RecordState>,
}

/// The state of a [`PeerRecord`](crate::lane::peers::PeerRecord).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RecordState {
    /// The peer's id in the exporting process.
    pub id: u64,
    /// The peer's address, and the local address and interface index to send from.
    pub endpoint: Option<(SocketAddr, Option<(IpAddr, u32)>)>,
    /// When the endpoint last changed.
    pub moved: Nanos,
    /// Index of an interface whose addresses are not used as a source.
    pub avoided: u32,
    /// The path limit as a word, 0 for none.
    pub path_limit: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// The name from the configuration.
    pub friendly_name: Option<String>,
    /// When the latest handshake completed, in seconds since the UNIX epoch.
    pub last_handshake: u64,
    /// The number of handshakes given up.
    pub failed_handshakes: u32,
    /// The allowed IPs.
    pub allowed_ips: Vec<IpNet>,
}

/// How a frozen actor goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Thaw {
    /// As if nothing had happened.
    GoOn,
    /// Without sessions: another process may have used them.
    Forget,
}
