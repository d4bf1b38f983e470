//! The WireGuard protocol state machine: peers, handshakes and timers, but no data packets. The peer
//! actor's thread owns it; workers get their sessions from it.
//!
//! Outside workers forward handshake messages, inside workers request sessions; the protocol returns
//! what to do as [`Outputs`]. It has no clock, socket or source of randomness: `now`, `unix` (the
//! wall clock, since the UNIX epoch) and `entropy` are arguments.
//!
//! Call [`Protocol::poll`] for a peer after any other call that concerns the peer, and again at the
//! time that `poll` returned.

use super::settings::Settings;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::activity::Activity;
use super::cookie::CookieJudge;
use super::indices::Indices;
use super::keys::{Entropy, PresharedKey, PrivateKey, PublicKey};
use super::limiter::{LoadGauge, RateLimiter};
use super::messages::{CookieReply, Handshake, Initiation, Kind, Response};
use super::noise::PeerInitiation;
use super::outputs::{HandshakeDrop, Output, Outputs, SendTo};
use super::peer::{MAX_INDICES, Peer, Step};
use super::session::Session;
use super::state::{Contradiction, PeerState};
use super::suite::Suite;
use super::table::{PLACES, SessionTable};
use crate::units::{Nanos, PeerId};

/// Maximum number of peers.
pub const MAX_PEERS: usize = PLACES / MAX_INDICES;

const _: () = assert!(MAX_PEERS <= 1 << PeerId::SLOT_BITS);

/// Errors when adding a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddPeerError {
    /// A peer with this public key exists.
    #[error("a peer with public key {0} already exists")]
    Exists(PublicKey),
    /// The public key is the interface's own.
    #[error("public key {0} is this interface's own; each peer needs its own key pair")]
    OwnKey(PublicKey),
    /// There are [`MAX_PEERS`] peers.
    #[error("the maximum of {MAX_PEERS} peers is reached; remove a peer first")]
    TooMany,
}

/// Effects of setting the private key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyChange {
    /// Whether the key differs from the previous one. If so, all sessions are gone, and the caller
    /// withdraws the sending sessions of all peers.
    pub changed: bool,
    /// A peer that was removed because its public key is now the interface's own.
    pub removed: Option<PeerId>,
}

/// Configuration and state of a peer.
#[derive(Clone, Copy, Debug)]
pub struct PeerInfo<'a> {
    /// The public key, which identifies the peer.
    pub public_key: &'a PublicKey,
    /// The preshared key; all zeros if none is set.
    pub preshared_key: &'a PresharedKey,
    /// The cipher suite for this peer.
    pub suite: Suite,
    /// Silence, in both directions, after which a keepalive is sent; `None` if disabled.
    pub persistent_keepalive: Option<Duration>,
    /// Time of the last completed handshake, since the UNIX epoch.
    pub last_handshake: Option<Duration>,
}

/// Protocol state of one interface.
pub struct Protocol {
    settings: Settings,
    identity: Option<Identity>,
    peers: Vec<Option<Box<Peer>>>,
    by_key: HashMap<PublicKey, PeerId>,
    /// Number of peers with a suite other than the default one.
    other_suites: usize,
    /// The next ids of the slots of removed peers.
    free: VecDeque<PeerId>,
    indices: Indices,
    load: LoadGauge,
    limiter: RateLimiter,
}

/// The interface's key pair, and the cookies of messages sent to it.
struct Identity {
    private: PrivateKey,
    public: PublicKey,
    judge: CookieJudge,
}

impl Protocol {
    /// Creates a protocol without peers that installs its sessions in `table`.
    pub fn new(private: Option<PrivateKey>, table: Arc<SessionTable>, settings: Settings) -> Self {
        Protocol {
            settings,
            identity: private.map(Identity::new),
            peers: Vec::new(),
            by_key: HashMap::new(),
            other_suites: 0,
            free: VecDeque::new(),
            indices: Indices::new(table, settings.lanes),
            load: LoadGauge::new(settings.load),
            limiter: RateLimiter::new(),
        }
    }

    /// Returns the interface's private key.
    pub fn private_key(&self) -> Option<&PrivateKey> {
        self.identity.as_ref().map(|identity| &identity.private)
    }

    /// Returns the interface's public key.
    pub fn public_key(&self) -> Option<&PublicKey> {
        self.identity.as_ref().map(|identity| &identity.public)
    }

    /// Sets or removes the interface's private key. A different key drops all sessions and handshakes
    /// in progress; the same key changes nothing.
    pub fn set_private_key(&mut self, private: Option<PrivateKey>) -> KeyChange {
        if private.as_ref() == self.private_key() {
            return KeyChange::default();
        }
        self.identity = private.map(Identity::new);
        for peer in self.peers.iter_mut().flatten() {
            peer.forget_sessions(&mut self.indices);
        }
        let own = self.public_key().and_then(|key| self.peer_by_key(key));
        let removed = own.filter(|&peer| self.remove_peer(peer));
        KeyChange { changed: true, removed }
    }

    /// Drops all sessions and handshakes in progress because the interface is down. The next handshake need not wait
    /// for the last one's time, as in the kernel (`wg_stop` in `drivers/net/wireguard/device.c`). The caller withdraws
    /// the sending sessions of all peers.
    pub fn interface_down(&mut self) {
        for peer in self.peers.iter_mut().flatten() {
            peer.forget_sessions(&mut self.indices);
            peer.forget_initiation();
        }
    }

    /// Adds a peer.
    ///
    /// # Errors
    /// See [`AddPeerError`].
    pub fn add_peer(&mut self, public: PublicKey) -> Result<PeerId, AddPeerError> {
        if self.by_key.contains_key(&public) {
            return Err(AddPeerError::Exists(public));
        }
        if self.public_key() == Some(&public) {
            return Err(AddPeerError::OwnKey(public));
        }
        let id = self.unused_id().ok_or(AddPeerError::TooMany)?;
        self.peers[id.slot()] = Some(Box::new(Peer::new(id, public)));
        self.by_key.insert(public, id);
        Ok(id)
    }

    /// Removes a peer with all its sessions. Returns whether the peer existed. Its id is never
    /// reused.
    pub fn remove_peer(&mut self, peer: PeerId) -> bool {
        let slot = self.peers.get_mut(peer.slot());
        let Some(mut removed) = slot.and_then(|slot| slot.take_if(|found| found.id == peer)) else {
            return false;
        };
        removed.forget_sessions(&mut self.indices);
        self.by_key.remove(&removed.public);
        self.other_suites -= usize::from(removed.suite() != Suite::default());
        self.free.push_back(PeerId::new(peer.slot(), peer.generation() + 1));
        true
    }

    /// Returns the peer with this public key.
    pub fn peer_by_key(&self, public: &PublicKey) -> Option<PeerId> {
        self.by_key.get(public).copied()
    }

    /// Returns all peers, ordered by slot.
    pub fn peers(&self) -> impl Iterator<Item = (PeerId, PeerInfo<'_>)> {
        self.peers.iter().flatten().map(|peer| (peer.id, info(peer)))
    }

    /// Returns the configuration and state of `peer`.
    pub fn peer(&self, peer: PeerId) -> Option<PeerInfo<'_>> {
        self.get(peer).map(info)
    }

    /// Returns the record of the traffic of `peer`, which its sessions share.
    pub fn activity(&self, peer: PeerId) -> Option<&Arc<Activity>> {
        self.get(peer).map(Peer::activity)
    }

    /// Sets the preshared key, which applies from the next handshake on. Returns whether the peer
    /// exists.
    pub fn set_preshared_key(&mut self, peer: PeerId, psk: PresharedKey) -> bool {
        self.get_mut(peer).map(|peer| peer.psk = psk).is_some()
    }

    /// Sets the cipher suite. Returns whether that changed it. If so, the sessions with this peer are
    /// gone, and the caller withdraws the sending one.
    pub fn set_suite(&mut self, peer: PeerId, suite: Suite) -> bool {
        let found = self.peers.get_mut(peer.slot()).and_then(Option::as_deref_mut);
        let Some(found) = found.filter(|found| found.id == peer) else { return false };
        self.other_suites -= usize::from(found.suite() != Suite::default());
        self.other_suites += usize::from(suite != Suite::default());
        found.set_suite(suite, &mut self.indices)
    }

    /// Sets the interval of silence after which a keepalive is sent; `None` disables persistent
    /// keepalives. Returns whether the peer exists.
    pub fn set_persistent_keepalive(&mut self, peer: PeerId, interval: Option<Duration>) -> bool {
        self.get_mut(peer).map(|peer| peer.set_persistent_keepalive(interval)).is_some()
    }

    /// Handles a handshake datagram, messages 1 to 3. `from` is its source.
    ///
    /// Cheap checks come first: the first MAC, then (under load) the cookie and the rate limit, and
    /// only then key agreements (section 5.3).
    pub fn handle_datagram(
        &mut self,
        now: Nanos,
        unix: Duration,
        entropy: &mut dyn Entropy,
        from: SocketAddr,
        datagram: &[u8],
        out: &mut Outputs,
    ) {
        let handled = match Kind::of(datagram) {
            Some(Kind::Initiation) => self.handle_initiation(now, unix, entropy, from, datagram, out),
            Some(Kind::Response) => self.handle_response(now, unix, entropy, from, datagram, out),
            Some(Kind::CookieReply) => self.handle_cookie_reply(now, datagram),
            Some(Kind::Data) | None => Err(HandshakeDrop::NotHandshake),
        };
        if let Err(reason) = handled {
            out.push(Output::MessageDropped { reason });
        }
    }

    /// Reports that a worker has data for `peer` and no session to send it with, or a session that is
    /// due for replacement ([`rekey_due_on_send`](super::session::Session::rekey_due_on_send),
    /// [`rekey_due_on_receive`](super::session::Session::rekey_due_on_receive)). Starts a handshake
    /// if one is needed and none is in progress. Cheap to call repeatedly.
    pub fn data_waits(
        &mut self,
        now: Nanos,
        unix: Duration,
        entropy: &mut dyn Entropy,
        peer: PeerId,
        out: &mut Outputs,
    ) {
        if let Some((peer, mut step)) = self.step(now, unix, entropy, peer) {
            peer.data_waits(&mut step, out);
        }
    }

    /// Reports that an authentic message was received on a session that
    /// [awaits confirmation](super::session::Session::awaits_confirmation). Cheap to call repeatedly.
    pub fn confirmed(&mut self, unix: Duration, session: &Session, out: &mut Outputs) {
        let peer = self.peers.get_mut(session.peer().slot()).and_then(Option::as_deref_mut);
        if let Some(peer) = peer.filter(|peer| peer.id == session.peer()) {
            peer.confirmed(&mut self.indices, unix, session, out);
        }
    }

    /// Performs what is due for `peer` and returns when to poll it again; `None` if nothing becomes due
    /// before another call concerns the peer, as for an idle peer.
    pub fn poll(
        &mut self,
        now: Nanos,
        unix: Duration,
        entropy: &mut dyn Entropy,
        peer: PeerId,
        out: &mut Outputs,
    ) -> Option<Nanos> {
        let (peer, mut step) = self.step(now, unix, entropy, peer)?;
        peer.poll(&mut step, out)
    }

    fn handle_initiation(
        &mut self,
        now: Nanos,
        unix: Duration,
        entropy: &mut dyn Entropy,
        from: SocketAddr,
        datagram: &[u8],
        out: &mut Outputs,
    ) -> Result<(), HandshakeDrop> {
        let message = Initiation::new_checked(datagram).ok_or(HandshakeDrop::NotHandshake)?;
        let suite = self.admit(message.handshake(), now, entropy, from, out)?;
        let private = self.private_key().ok_or(HandshakeDrop::NoPrivateKey)?;
        let received = PeerInitiation::read(private, suite, message.noise(), entropy)
            .map_err(|_| HandshakeDrop::Authentication)?;
        let peer = self.peer_by_key(received.remote()).ok_or(HandshakeDrop::UnknownPeer)?;
        let (peer, mut step) = self.step(now, unix, entropy, peer).ok_or(HandshakeDrop::UnknownPeer)?;
        peer.answer(&mut step, received, message.handshake().sender(), out)
    }

    fn handle_response(
        &mut self,
        now: Nanos,
        unix: Duration,
        entropy: &mut dyn Entropy,
        from: SocketAddr,
        datagram: &[u8],
        out: &mut Outputs,
    ) -> Result<(), HandshakeDrop> {
        let message = Response::new_checked(datagram).ok_or(HandshakeDrop::NotHandshake)?;
        self.admit(message.handshake(), now, entropy, from, out)?;
        let peer = self.indices.owner(message.receiver()).ok_or(HandshakeDrop::UnknownIndex)?;
        let (peer, mut step) = self.step(now, unix, entropy, peer).ok_or(HandshakeDrop::UnknownIndex)?;
        peer.finish(&mut step, message, out)
    }

    fn handle_cookie_reply(&mut self, now: Nanos, datagram: &[u8]) -> Result<(), HandshakeDrop> {
        let message = CookieReply::new_checked(datagram).ok_or(HandshakeDrop::NotHandshake)?;
        let peer = self.indices.owner(message.receiver()).ok_or(HandshakeDrop::UnknownIndex)?;
        let peer = self.get_mut(peer).ok_or(HandshakeDrop::UnknownIndex)?;
        peer.store_cookie(message, now)
    }

    /// Checks whether message 1 or 2 may proceed to key agreement and returns its cipher suite.
    fn admit(
        &mut self,
        message: Handshake<'_>,
        now: Nanos,
        entropy: &mut dyn Entropy,
        from: SocketAddr,
        out: &mut Outputs,
    ) -> Result<Suite, HandshakeDrop> {
        let judge = &mut self.identity.as_mut().ok_or(HandshakeDrop::NoPrivateKey)?.judge;
        let suites = if self.other_suites == 0 { &[Suite::ChaCha20Poly1305][..] } else { &Suite::ALL };
        let suite = judge.suite_by_mac1(message, suites).ok_or(HandshakeDrop::Mac1)?;
        if !self.load.count(now) {
            return Ok(suite);
        }
        if !judge.mac2_is_right(message, from, now) {
            out.send(SendTo::Source, &judge.reply(message, from, now, entropy), None);
            return Err(HandshakeDrop::CookieDemanded);
        }
        if self.limiter.allow(from.ip(), now) { Ok(suite) } else { Err(HandshakeDrop::RateLimited) }
    }

    /// Returns all peers, ordered by slot.
    pub(super) fn all(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().flatten().map(Box::as_ref)
    }

    /// Continues `peer` from `state`. Returns the session to send with.
    pub(super) fn restore(
        &mut self,
        peer: PeerId,
        state: PeerState,
        reserve: u64,
    ) -> Result<Option<Arc<Session>>, Contradiction> {
        let found = self.peers.get_mut(peer.slot()).and_then(Option::as_deref_mut).ok_or(Contradiction)?;
        found.restore(state, reserve, &mut self.indices, self.settings)
    }

    /// Must be called once all peers are restored.
    pub(super) fn end_import(&mut self) {
        self.indices.end_adoption();
    }

    /// Returns a peer and the context for a step of it; `None` without the peer or without a private
    /// key.
    fn step<'a>(
        &'a mut self,
        now: Nanos,
        unix: Duration,
        entropy: &'a mut dyn Entropy,
        peer: PeerId,
    ) -> Option<(&'a mut Peer, Step<'a>)> {
        let private = &self.identity.as_ref()?.private;
        let peer = self.peers.get_mut(peer.slot())?.as_deref_mut().filter(|found| found.id == peer)?;
        let settings = self.settings;
        Some((peer, Step { now, unix, entropy, private, indices: &mut self.indices, settings }))
    }

    fn get(&self, peer: PeerId) -> Option<&Peer> {
        self.peers.get(peer.slot())?.as_deref().filter(|found| found.id == peer)
    }

    fn get_mut(&mut self, peer: PeerId) -> Option<&mut Peer> {
        self.peers.get_mut(peer.slot())?.as_deref_mut().filter(|found| found.id == peer)
    }

    fn unused_id(&mut self) -> Option<PeerId> {
        self.free.pop_front().or_else(|| {
            (self.peers.len() < MAX_PEERS).then(|| {
                self.peers.push(None);
                PeerId::new(self.peers.len() - 1, 0)
            })
        })
    }
}

impl Identity {
    fn new(private: PrivateKey) -> Self {
        let public = private.public_key();
        Identity { private, public, judge: CookieJudge::new(&public) }
    }
}

fn info(peer: &Peer) -> PeerInfo<'_> {
    PeerInfo {
        public_key: &peer.public,
        preshared_key: &peer.psk,
        suite: peer.suite(),
        persistent_keepalive: peer.persistent_keepalive(),
        last_handshake: peer.last_handshake,
    }
}
