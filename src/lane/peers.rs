//! The workers' view of the peers: a table of allowed IPs and one record per peer.
//!
//! The peer actor writes, workers read. Configuration (peers and allowed IPs) is an immutable
//! [`Snapshot`] that is swapped as a whole. What changes with traffic (session, endpoint, counters) is
//! in atomics of the peer's record, so installing a session only swaps a pointer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, fence};

use arc_swap::{ArcSwap, ArcSwapOption, Guard};
use nix::errno::Errno;

use super::bounds::MAX_LANES;
use super::path_limit::PathLimit;
use super::routing_loop::LoopWatch;
use crate::routes::Routes;
use crate::underlay::Endpoint;
use crate::units::{Nanos, PeerId};
use crate::wireguard::keys::PublicKey;
use crate::wireguard::session::Session;

/// One configured peer, as workers see it.
#[derive(Debug)]
pub struct PeerRecord {
    /// The peer's id.
    pub id: PeerId,
    /// The peer's public key.
    pub public_key: PublicKey,
    /// The session that seals outbound packets, if any. The peer actor sets and clears it; outside workers
    /// only [`promote`](Self::promote).
    pub sending: ArcSwapOption<Session>,
    /// See [`endpoint`](Self::endpoint). Replacing it allocates; reading it neither allocates nor locks.
    endpoint: ArcSwapOption<Endpoint>,
    /// When the latest datagram was received that changed the endpoint, in nanoseconds.
    moved: AtomicU64,
    /// Index of an interface whose addresses are not used as a source, although datagrams of the peer may still
    /// arrive there; 0 for none. Set when the route to the peer has moved to another interface.
    pub avoided: AtomicU32,
    /// Whether a worker has reported that the endpoint has changed. The peer actor clears it.
    pub move_reported: AtomicBool,
    /// See [`control_refusal`](Self::control_refusal); 0 for none.
    control_refusal: AtomicI32,
    /// The longest packet that fits the path, where the path MTU is below the TUN's.
    pub path_limit: PathLimit,
    /// Recognizes our own datagrams to the peer when they come back through the TUN.
    pub loop_watch: LoopWatch,
    /// Bytes sent to the peer, counted as in `wg show`: whole data messages with header and tag, and
    /// handshake messages. Datagrams that the kernel refused do not count.
    pub sent_bytes: AtomicU64,
    /// Bytes received from the peer, counted as [`PeerRecord::sent_bytes`].
    pub received_bytes: AtomicU64,
    /// The name from the configuration, if any. Used only for display.
    pub friendly_name: ArcSwapOption<String>,
    /// When the latest handshake completed, in seconds since the UNIX epoch; 0 if there was none.
    pub last_handshake: AtomicU64,
    /// Number of handshakes given up. A packet staged before the latest of them is dropped.
    pub failed_handshakes: AtomicU32,
    /// Whether the peer sends each lane's data from a separate port, and accepts ours from such ports.
    pub spreads: bool,
    /// Whether a worker has requested a handshake that the peer actor has not yet answered.
    pub asked: AtomicBool,
}

impl PeerRecord {
    /// Creates the record of a peer without session, endpoint or traffic.
    pub fn new(id: PeerId, public_key: PublicKey, spreads: bool) -> Self {
        Self {
            id,
            public_key,
            sending: ArcSwapOption::empty(),
            endpoint: ArcSwapOption::empty(),
            moved: AtomicU64::new(0),
            avoided: AtomicU32::new(0),
            move_reported: AtomicBool::new(false),
            control_refusal: AtomicI32::new(0),
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

    /// Returns the source of the peer's latest authenticated datagram, or the configured endpoint, if
    /// either is known. Workers update it when the peer roams (whitepaper section 2.1).
    #[inline]
    pub fn endpoint(&self) -> Option<Endpoint> {
        self.endpoint.load().as_deref().copied()
    }

    /// Returns whether `from` is the peer's current endpoint. For a peer that spreads its lanes over
    /// ports, the [`MAX_LANES`] - 1 ports above it match too.
    #[inline]
    pub fn is_at(&self, from: Endpoint) -> bool {
        let from = self.usable(from);
        let Some(known) = self.endpoint() else { return false };
        if known == from || !self.spreads {
            return known == from;
        }
        let above = from.address.port().wrapping_sub(known.address.port());
        let mut on_same_port = from;
        on_same_port.address.set_port(known.address.port());
        on_same_port == known && usize::from(above) < MAX_LANES
    }

    /// Returns whether `from` is one of the ports above the peer's endpoint that [`is_at`](Self::is_at) takes for lanes of
    /// a peer that spreads them. A handshake does not start from one of those, but from the port that all lanes share, so
    /// its initiation shows that the peer has moved.
    pub fn is_above(&self, from: Endpoint) -> bool {
        self.is_at(from) && self.endpoint() != Some(self.usable(from))
    }

    /// Sends with `session` from now on, because authentic data arrived on it: the first such packet
    /// proves that the peer has its keys, and may no longer have those of the session before (whitepaper
    /// section 5.4.5). Called before the packet is handed on, so that its answer is sealed by this session.
    ///
    /// Does nothing if the peer actor has settled the session. Takes no lock: whatever the actor decides at
    /// the same time, it settles or ends the session first and changes [`sending`](Self::sending) second,
    /// while this checks the session again after each step.
    pub fn promote(&self, session: &Arc<Session>) {
        let mut current = self.sending.load();
        loop {
            if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, session)) || !session.promote() {
                return;
            }
            let before = self.sending.compare_and_swap(&current, Some(Arc::clone(session)));
            if same(&before, &current) {
                break;
            }
            current = before;
        }
        // Withdrawn between the check and the exchange, with no session before or after.
        fence(SeqCst);
        if session.has_ended() {
            self.stop_sending_with(session);
        }
    }

    /// Stops sending with a session that is too old at `now`. Keeps one that a worker has promoted since.
    pub fn stop_if_expired(&self, now: Nanos) {
        if let Some(session) = self.sending.load_full().filter(|session| !session.can_send(now)) {
            self.stop_sending_with(&session);
        }
    }

    /// Stops sending if `session` is the one in use.
    fn stop_sending_with(&self, session: &Arc<Session>) {
        self.sending.compare_and_swap(Arc::as_ptr(session), None);
    }

    /// Returns the kernel's error when the latest handshake message or keepalive was sent, if it refused.
    pub fn control_refusal(&self) -> Option<Errno> {
        Some(self.control_refusal.load(Relaxed)).filter(|errno| *errno != 0).map(Errno::from_raw)
    }

    /// Records whether the kernel refused to send a handshake message or keepalive.
    pub fn note_control_refusal(&self, refusal: Option<Errno>) {
        self.control_refusal.store(refusal.map_or(0, |errno| errno as i32), Relaxed);
    }

    /// Counts bytes sent to the peer.
    #[inline]
    pub fn note_sent(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// Removes the peer's endpoint.
    pub fn leave(&self) {
        self.endpoint.store(None);
        self.path_limit.forget();
    }

    /// Sets the peer's endpoint, without its source if that is [avoided](Self::avoided). If the address has
    /// changed, forgets what was known of the path.
    pub fn move_to(&self, endpoint: Endpoint) {
        let before = self.endpoint.swap(Some(Arc::new(self.usable(endpoint))));
        self.forget_path_from(before.as_deref(), endpoint);
    }

    /// Sets the endpoint to the source of an authentic datagram that was received at `at`. Does nothing if one
    /// received later has done so already: the actor handles a handshake message after workers have passed on
    /// the data behind it.
    pub fn roam(&self, endpoint: Endpoint, at: Nanos) {
        if self.moved.fetch_max(at.0, Relaxed) <= at.0 {
            self.move_to(endpoint);
        }
    }

    /// Returns when the latest datagram was received that changed the endpoint.
    pub fn moved(&self) -> Nanos {
        Nanos(self.moved.load(Relaxed))
    }

    /// Replaces the endpoint `before`, for a decision that took time. Does nothing if the peer has moved
    /// meanwhile.
    pub fn move_from(&self, before: Option<Endpoint>, endpoint: Endpoint) {
        let current = self.endpoint.load();
        if current.as_deref().copied() == before {
            let replaced = self.endpoint.compare_and_swap(&current, Some(Arc::new(self.usable(endpoint))));
            if replaced.as_ref().map(Arc::as_ptr) == current.as_ref().map(Arc::as_ptr) {
                self.forget_path_from(before.as_ref(), endpoint);
            }
        }
    }

    /// Forgets what was known of the path if the peer has moved to another address.
    fn forget_path_from(&self, before: Option<&Endpoint>, now: Endpoint) {
        if before.is_none_or(|before| before.address.ip() != now.address.ip()) {
            // Pairs with `learn_path`: either this forgets what that has learned, or that sees the new endpoint.
            fence(SeqCst);
            self.path_limit.forget();
            self.avoided.store(0, Relaxed);
        }
    }

    /// Records the path MTU to `to` in bytes, found at `now`. Does nothing if the peer has moved to another
    /// address since the datagrams that revealed it were sealed.
    pub fn learn_path(&self, to: SocketAddr, path_mtu: usize, now: Nanos) {
        let is_there = || self.endpoint().is_some_and(|endpoint| endpoint.address.ip() == to.ip());
        if is_there() {
            self.path_limit.learn(path_mtu, to, now);
            fence(SeqCst);
            if !is_there() {
                self.path_limit.forget();
            }
        }
    }

    /// Returns the endpoint without its source if that is [avoided](Self::avoided).
    #[inline]
    pub fn usable(&self, endpoint: Endpoint) -> Endpoint {
        let avoided = self.avoided.load(Relaxed);
        match endpoint.source {
            Some(source) if avoided != 0 && source.ifindex == avoided => endpoint.without_source(),
            _ => endpoint,
        }
    }

    /// Drops the endpoint's source address, whatever it is, so that the routing table selects one. The peer's next
    /// datagram sets it again.
    pub fn drop_source(&self) {
        while let Some(known) = self.endpoint().filter(|known| known.source.is_some()) {
            self.forget_source(&known);
        }
    }

    /// Clears the endpoint's source address, which no longer exists on this host. Does nothing if the peer
    /// has moved away from `stale` meanwhile.
    pub fn forget_source(&self, stale: &Endpoint) {
        let current = self.endpoint.load();
        if current.as_deref().is_some_and(|endpoint| endpoint == stale) {
            self.endpoint.compare_and_swap(&current, Some(Arc::new(stale.without_source())));
        }
    }
}

/// Returns whether both are the same session, or none.
fn same(a: &Guard<Option<Arc<Session>>>, b: &Guard<Option<Arc<Session>>>) -> bool {
    a.as_ref().map(Arc::as_ptr) == b.as_ref().map(Arc::as_ptr)
}

/// The peers and their allowed IPs at one point in time.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Maps inner addresses to peers.
    pub routes: Routes<Arc<PeerRecord>>,
    /// The records, indexed by [slot](PeerId::slot); `None` where a peer was removed.
    pub peers: Vec<Option<Arc<PeerRecord>>>,
    /// Incremented when peers or allowed IPs change. Tells workers to route their staged packets again.
    pub version: u64,
}

impl Snapshot {
    /// Returns the record of `peer`, or `None` if it was removed.
    #[inline]
    pub fn peer(&self, peer: PeerId) -> Option<&Arc<PeerRecord>> {
        self.peers.get(peer.slot())?.as_ref().filter(|record| record.id == peer)
    }
}

/// The current snapshot. Workers hold an [`arc_swap::Cache`] of it and load it once per batch.
pub type Peers = ArcSwap<Snapshot>;

#[cfg(test)]
mod tests;
