//! What workers know of the peers: a table of allowed IPs and, behind it, one record a peer.
//!
//! The peer actor writes, workers read. Configuration (which peers, which allowed IPs) is an
//! immutable [`Snapshot`] that is swapped whole; what changes while traffic flows (session,
//! endpoint, counters) is in atomics of the peer's own record, so that a new session costs nothing
//! but a pointer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};

use arc_swap::{ArcSwap, ArcSwapOption};
use crossbeam::atomic::AtomicCell;

use super::bounds::MAX_LANES;
use super::path_limit::PathLimit;
use super::routing_loop::LoopWatch;
use crate::routes::Routes;
use crate::underlay::Endpoint;
use crate::units::PeerId;
use crate::wireguard::keys::PublicKey;
use crate::wireguard::session::Session;

/// One configured peer, as workers see it.
#[derive(Debug)]
pub struct PeerRecord {
    /// Which peer it is.
    pub id: PeerId,
    /// Its public key.
    pub public_key: PublicKey,
    /// The session that outbound packets are sealed with, if there is one.
    pub sending: ArcSwapOption<Session>,
    /// Where it was last heard from, or where configuration says it is. A worker that hears it
    /// from elsewhere, authenticated, writes it (whitepaper section 2.1).
    pub endpoint: AtomicCell<Option<Endpoint>>,
    /// How long a packet for it may be, where its path is narrower than the TUN.
    pub path_limit: PathLimit,
    /// How our own datagrams to it are known when they come back.
    pub loop_watch: LoopWatch,
    /// Bytes of datagrams sent to it and received from it, as `wg show` counts them: whole data
    /// messages with header and tag, and handshake messages.
    pub sent_bytes: AtomicU64,
    /// See [`PeerRecord::sent_bytes`].
    pub received_bytes: AtomicU64,
    /// What the person who configured it calls it, if anything. For people to read, nothing else.
    pub friendly_name: ArcSwapOption<String>,
    /// When its last handshake was done, in seconds since the UNIX epoch; 0 if there was none.
    pub last_handshake: AtomicU64,
    /// How many of its handshakes were given up. A packet staged before the last of them is
    /// dropped.
    pub failed_handshakes: AtomicU32,
    /// It sends each lane's data from a port of its own, and takes ours from such ports.
    pub spreads: bool,
    /// A worker has asked for a handshake and the peer actor has not answered yet.
    pub asked: AtomicBool,
}

impl PeerRecord {
    /// A peer without session, endpoint or traffic.
    pub fn new(id: PeerId, public_key: PublicKey, spreads: bool) -> Self {
        Self {
            id,
            public_key,
            sending: ArcSwapOption::empty(),
            endpoint: AtomicCell::new(None),
            path_limit: PathLimit::default(),
            loop_watch: LoopWatch::default(),
            sent_bytes: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
            friendly_name: ArcSwapOption::empty(),
            last_handshake: AtomicU64::new(0),
            failed_handshakes: AtomicU32::new(0),
            spreads,
            asked: AtomicBool::new(false),
        }
    }

    /// Whether what came from `from` came from where the peer is taken to be. One that spreads its
    /// lanes over ports is there on the ports above, too.
    #[inline]
    pub fn is_at(&self, from: Endpoint) -> bool {
        let Some(known) = self.endpoint.load() else { return false };
        if known == from || !self.spreads {
            return known == from;
        }
        let above = from.address.port().wrapping_sub(known.address.port());
        let mut on_same_port = from;
        on_same_port.address.set_port(known.address.port());
        on_same_port == known && usize::from(above) < MAX_LANES
    }

    /// The peer is at `endpoint` from now on. What was learned about the path to another address goes.
    pub fn move_to(&self, endpoint: Endpoint) {
        let before = self.endpoint.swap(Some(endpoint));
        if before.is_none_or(|before| before.address.ip() != endpoint.address.ip()) {
            self.path_limit.forget();
        }
    }
}

/// The peers and their allowed IPs at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Whose each inner address is.
    pub routes: Routes<Arc<PeerRecord>>,
    /// By peer id; `None` where a peer was removed.
    pub peers: Vec<Option<Arc<PeerRecord>>>,
}

impl Snapshot {
    /// The record of `peer`, unless it was removed.
    #[inline]
    pub fn peer(&self, peer: PeerId) -> Option<&Arc<PeerRecord>> {
        self.peers.get(peer.0 as usize)?.as_ref()
    }
}

/// The snapshot in force. Workers keep an [`arc_swap::Cache`] of it and look once per batch.
pub type Peers = ArcSwap<Snapshot>;
