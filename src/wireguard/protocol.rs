//! The WireGuard protocol: everything but the packets. One thread owns it (the peer actor); the
//! workers get sessions from it and tell it what they need.
//!
//! Handshake messages come from the outside workers, requests for sessions from the inside workers;
//! what to do comes back as [`Outputs`]. No clock, socket or source of randomness is in here:
//! `now`, `unix` (the wall clock, since the UNIX epoch) and `entropy` are arguments.
//!
//! After any other call that concerns a peer, and when the moment comes that it returned, call
//! [`Protocol::poll`] for that peer.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::activity::Activity;
use super::aead::Backend;
use super::cookie::CookieJudge;
use super::indices::Indices;
use super::keys::{Entropy, PresharedKey, PrivateKey, PublicKey};
use super::limiter::{LoadGauge, LoadLimits, RateLimiter};
use super::messages::{CookieReply, Handshake, Initiation, Kind, Response};
use super::noise::Received;
use super::outputs::{HandshakeDrop, Output, Outputs, SendTo};
use super::peer::{MAX_INDICES, Peer, Step};
use super::replay::WINDOW;
use super::session::MessageLimits;
use super::suite::Suite;
use super::table::{PLACES, SessionTable};
use crate::units::{Nanos, PeerId};

/// The most peers there can be.
pub const MAX_PEERS: usize = PLACES / MAX_INDICES;

/// What can be set about the protocol. The defaults are right for all but tests.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How many messages a session carries.
    pub messages: MessageLimits,
    /// When we count as under load.
    pub load: LoadLimits,
    /// What seals and opens transport data.
    pub backend: Backend,
    /// How far behind the greatest counter seen another is still taken
    /// ([`window_for`](super::replay::window_for)).
    pub window: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            messages: MessageLimits::default(),
            load: LoadLimits::default(),
            backend: Backend::default(),
            window: WINDOW,
        }
    }
}

/// Why a peer cannot be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddPeerError {
    /// There is one with this key.
    #[error("there already is a peer with public key {0}")]
    Exists(PublicKey),
    /// It is our own key.
    #[error("public key {0} is this interface's own: a peer needs a key of its own")]
    OwnKey(PublicKey),
    /// There are [`MAX_PEERS`], counting removed ones that sessions in use still name.
    #[error("no room for another peer: there are {MAX_PEERS}")]
    TooMany,
}

/// What a new private key led to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyChange {
    /// Whether it differs from the one before. If so, all sessions are gone, and the caller
    /// withdraws the sending sessions of all peers.
    pub changed: bool,
    /// A peer that was removed because its key is now our own.
    pub removed: Option<PeerId>,
}

/// What is configured and known about a peer.
#[derive(Clone, Copy, Debug)]
pub struct PeerInfo<'a> {
    /// Its identity.
    pub public_key: &'a PublicKey,
    /// The preshared key; all zeros for none.
    pub preshared_key: &'a PresharedKey,
    /// What it is spoken to with.
    pub suite: Suite,
    /// How long it may be silent before a keepalive goes out.
    pub persistent_keepalive: Option<Duration>,
    /// When a handshake was last done, since the UNIX epoch.
    pub last_handshake: Option<Duration>,
}

/// The protocol's state for one interface.
pub struct Protocol {
    settings: Settings,
    identity: Option<Identity>,
    peers: Vec<Option<Box<Peer>>>,
    by_key: HashMap<PublicKey, PeerId>,
    /// Ids of removed peers. Sessions and workers that can still name one hold its activity.
    resting: VecDeque<(PeerId, Weak<Activity>)>,
    indices: Indices,
    load: LoadGauge,
    limiter: RateLimiter,
}

/// Who we are.
struct Identity {
    private: PrivateKey,
    public: PublicKey,
    judge: CookieJudge,
}

impl Protocol {
    /// A protocol without peers that puts its sessions in `table`.
    pub fn new(private: Option<PrivateKey>, table: Arc<SessionTable>, settings: Settings) -> Self {
        Protocol {
            settings,
            identity: private.map(Identity::new),
            peers: Vec::new(),
            by_key: HashMap::new(),
            resting: VecDeque::new(),
            indices: Indices::new(table),
            load: LoadGauge::new(settings.load),
            limiter: RateLimiter::new(),
        }
    }

    /// Our private key.
    pub fn private_key(&self) -> Option<&PrivateKey> {
        self.identity.as_ref().map(|identity| &identity.private)
    }

    /// Our public key.
    pub fn public_key(&self) -> Option<&PublicKey> {
        self.identity.as_ref().map(|identity| &identity.public)
    }

    /// Sets or takes away our private key. With another key, sessions and handshakes under way are
    /// given up; with the same one nothing happens.
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
        self.peers[id.0 as usize] = Some(Box::new(Peer::new(id, public)));
        self.by_key.insert(public, id);
        Ok(id)
    }

    /// Removes a peer with all its sessions; false if there is no such peer. Its id is not used
    /// again while anybody holds one of its sessions or its [`activity`](Self::activity).
    pub fn remove_peer(&mut self, peer: PeerId) -> bool {
        let Some(mut removed) = self.peers.get_mut(peer.0 as usize).and_then(Option::take) else {
            return false;
        };
        removed.forget_sessions(&mut self.indices);
        self.by_key.remove(&removed.public);
        self.resting.push_back((peer, Arc::downgrade(removed.activity())));
        true
    }

    /// The peer with this key.
    pub fn peer_by_key(&self, public: &PublicKey) -> Option<PeerId> {
        self.by_key.get(public).copied()
    }

    /// All peers, in the order of their ids.
    pub fn peers(&self) -> impl Iterator<Item = (PeerId, PeerInfo<'_>)> {
        let ids = (0..).map(PeerId);
        ids.zip(&self.peers).filter_map(|(id, peer)| Some((id, info(peer.as_deref()?))))
    }

    /// What is configured and known about `peer`.
    pub fn peer(&self, peer: PeerId) -> Option<PeerInfo<'_>> {
        self.get(peer).map(info)
    }

    /// Where workers note the traffic of `peer`; its sessions hold it too.
    pub fn activity(&self, peer: PeerId) -> Option<&Arc<Activity>> {
        self.get(peer).map(Peer::activity)
    }

    /// Sets the preshared key; false if there is no such peer. Counts from the next handshake on.
    pub fn set_preshared_key(&mut self, peer: PeerId, psk: PresharedKey) -> bool {
        self.get_mut(peer).map(|peer| peer.psk = psk).is_some()
    }

    /// Sets the suite; whether that changed anything. If so, the sessions with this peer are gone,
    /// and the caller withdraws the sending one.
    pub fn set_suite(&mut self, peer: PeerId, suite: Suite) -> bool {
        let peer = self.peers.get_mut(peer.0 as usize).and_then(Option::as_deref_mut);
        peer.is_some_and(|peer| peer.set_suite(suite, &mut self.indices))
    }

    /// Sets how long `peer` may be silent before a keepalive goes out, `None` for as long as it
    /// likes; false if there is no such peer.
    pub fn set_persistent_keepalive(&mut self, peer: PeerId, interval: Option<Duration>) -> bool {
        self.get_mut(peer).map(|peer| peer.set_persistent_keepalive(interval)).is_some()
    }

    /// Handles a datagram that is not data: messages 1, 2 and 3. `from` is where it came from.
    ///
    /// What is cheap to check comes first: the first MAC, then (under load) the cookie and the rate
    /// limit, and only then key agreements (section 5.3).
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

    /// A worker has data for `peer` and no session to send it with, or one that wants to be
    /// replaced ([`rekey_due_on_send`](super::session::Session::rekey_due_on_send),
    /// [`rekey_due_on_receive`](super::session::Session::rekey_due_on_receive)). Starts a handshake
    /// if that is so and none is under way. May be called often.
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

    /// Something authentic came in on a session that
    /// [awaits confirmation](super::session::Session::awaits_confirmation). May be called often.
    pub fn confirmed(&mut self, unix: Duration, local_index: u32, out: &mut Outputs) {
        if let Some(peer) = self.indices.owner(local_index)
            && let Some(peer) = self.peers[peer.0 as usize].as_deref_mut()
        {
            peer.confirmed(&mut self.indices, unix, local_index, out);
        }
    }

    /// Does what is due for `peer`, and returns the moment to call this again; `None` if nothing
    /// will be due before another call concerns this peer. An idle peer soon costs nothing.
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
        let received = Received::read(private, suite, message.noise(), entropy)
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

    /// Decides whether message 1 or 2 gets to the expensive part, and says of which suite it is.
    fn admit(
        &mut self,
        message: Handshake<'_>,
        now: Nanos,
        entropy: &mut dyn Entropy,
        from: SocketAddr,
        out: &mut Outputs,
    ) -> Result<Suite, HandshakeDrop> {
        let judge = &mut self.identity.as_mut().ok_or(HandshakeDrop::NoPrivateKey)?.judge;
        let suite = judge.suite_by_mac1(message).ok_or(HandshakeDrop::Mac1)?;
        if !self.load.count(now) {
            return Ok(suite);
        }
        if !judge.mac2_is_right(message, from, now) {
            out.send(SendTo::Source, &judge.reply(message, from, now, entropy), None);
            return Err(HandshakeDrop::CookieDemanded);
        }
        if self.limiter.allow(from.ip(), now) { Ok(suite) } else { Err(HandshakeDrop::RateLimited) }
    }

    /// A peer, and what its steps need; `None` without the peer or without a private key.
    fn step<'a>(
        &'a mut self,
        now: Nanos,
        unix: Duration,
        entropy: &'a mut dyn Entropy,
        peer: PeerId,
    ) -> Option<(&'a mut Peer, Step<'a>)> {
        let private = &self.identity.as_ref()?.private;
        let peer = self.peers.get_mut(peer.0 as usize)?.as_deref_mut()?;
        let settings = self.settings;
        Some((peer, Step { now, unix, entropy, private, indices: &mut self.indices, settings }))
    }

    fn get(&self, peer: PeerId) -> Option<&Peer> {
        self.peers.get(peer.0 as usize)?.as_deref()
    }

    fn get_mut(&mut self, peer: PeerId) -> Option<&mut Peer> {
        self.peers.get_mut(peer.0 as usize)?.as_deref_mut()
    }

    fn unused_id(&mut self) -> Option<PeerId> {
        if let Some(at) = self.resting.iter().position(|(_, activity)| activity.strong_count() == 0) {
            return self.resting.remove(at).map(|(id, _)| id);
        }
        (self.peers.len() < MAX_PEERS).then(|| {
            self.peers.push(None);
            PeerId(self.peers.len() as u32 - 1)
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
