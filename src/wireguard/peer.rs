//! State of one peer: its sessions, the handshake in progress, and the inputs of its timers
//! (whitepaper, section 6).
//!
//! Handshakes started by both ends can be in progress at the same time; [`Rotation`] resolves which
//! of the resulting sessions is used.

mod due;

use super::settings::Settings;
use std::sync::Arc;
use std::time::Duration;

use super::activity::Activity;
use super::cookie::CookieJar;
use super::indices::Indices;
use super::keys::{Entropy, PresharedKey, PrivateKey, PublicKey};
use super::messages::{self, CookieReply, Response};
use super::noise::{OwnInitiation, PeerInitiation};
use super::outputs::{HandshakeDrop, Output, Outputs, SendTo};
use super::rotation::{Answered, Retired, Rotation};
use super::session::{Role, Session, SessionKeys, SessionParts};
use super::state::{self, Contradiction, PeerState, SessionState};
use super::suite::Suite;
use super::tai64n::{StampGuard, Stamps};
use super::timers::{INITIATION_INTERVAL, MAX_JITTER, REKEY_TIMEOUT};
use crate::units::{Nanos, PeerId};

/// Maximum number of indices a peer holds at one time: three sessions, the initiated handshake in
/// progress, and a new session that is about to replace one of the three.
pub(super) const MAX_INDICES: usize = 5;

/// Context for a step of a peer's state machine.
pub(super) struct Step<'a> {
    pub(super) now: Nanos,
    pub(super) unix: Duration,
    pub(super) entropy: &'a mut dyn Entropy,
    pub(super) private: &'a PrivateKey,
    pub(super) indices: &'a mut Indices,
    pub(super) settings: Settings,
}

/// A configured peer.
pub(super) struct Peer {
    pub(super) public: PublicKey,
    pub(super) psk: PresharedKey,
    /// Time of the last completed handshake, since the UNIX epoch.
    pub(super) last_handshake: Option<Duration>,
    pub(super) id: PeerId,
    suite: Suite,
    activity: Arc<Activity>,
    rotation: Rotation,
    /// Whether the workers have a session to send with ([`Output::Use`] without [`Output::Stop`]).
    sending: bool,
    attempt: Option<Attempt>,
    /// When to start a handshake that [`REKEY_TIMEOUT`] delays.
    handshake_wanted: Option<Nanos>,
    initiation_sent: Option<Nanos>,
    initiation_taken: Option<Nanos>,
    jitter: Duration,
    persistent_keepalive: Option<Duration>,
    /// When the workers were last asked for a keepalive.
    keepalive_asked: Nanos,
    keepalive_wanted: bool,
    jar: CookieJar,
    stamps: Stamps,
    guard: StampGuard,
}

/// An initiated handshake that awaits its response.
struct Attempt {
    noise: OwnInitiation,
    local_index: u32,
    /// Number of initiations sent since the handshake was last requested.
    tries: u32,
    retry_at: Nanos,
}

impl Peer {
    pub(super) fn new(id: PeerId, public: PublicKey) -> Self {
        Peer {
            public,
            psk: PresharedKey::none(),
            last_handshake: None,
            id,
            suite: Suite::default(),
            activity: Arc::default(),
            rotation: Rotation::default(),
            sending: false,
            attempt: None,
            handshake_wanted: None,
            initiation_sent: None,
            initiation_taken: None,
            jitter: Duration::ZERO,
            persistent_keepalive: None,
            keepalive_asked: Nanos::NEVER,
            keepalive_wanted: false,
            jar: CookieJar::new(&public, Suite::default()),
            stamps: Stamps::default(),
            guard: StampGuard::default(),
        }
    }

    /// Returns the peer's state.
    pub(super) fn export(&self) -> PeerState {
        let sessions = self.rotation.places();
        PeerState {
            public_key: *self.public.as_bytes(),
            preshared_key: zeroize::Zeroizing::new(*self.psk.as_bytes()),
            suite: self.suite as u8,
            last_handshake: self.last_handshake,
            activity: self.activity.snapshot(),
            sending: self.sending || sessions[1].is_some_and(|current| current.is_promoted()),
            sessions: sessions.map(|session| session.map(|session| session.export())),
            // A handshake in progress starts again at once.
            handshake_wanted: self.attempt.as_ref().map(|_| Nanos::NEVER).or(self.handshake_wanted),
            initiation_sent: self.initiation_sent.filter(|_| self.attempt.is_none()),
            initiation_taken: self.initiation_taken,
            jitter: self.jitter,
            persistent_keepalive: self.persistent_keepalive,
            keepalive_asked: self.keepalive_asked,
            keepalive_wanted: self.keepalive_wanted,
            last_stamp: self.stamps.last(),
            greatest_stamp: self.guard.greatest(),
            cookie: self.jar.cookie(),
        }
    }

    /// Continues from `state`. Returns the session to send with.
    pub(super) fn restore(
        &mut self,
        state: PeerState,
        reserve: u64,
        indices: &mut Indices,
        settings: Settings,
    ) -> Result<Option<Arc<Session>>, Contradiction> {
        let mut places = [None, None, None];
        for (place, session) in places.iter_mut().zip(state.sessions) {
            let Some(session) = session else { continue };
            if !indices.adopt(session.local_index, self.id) {
                return Err(Contradiction);
            }
            let session = self.restored_session(&session, reserve, settings)?;
            indices.install(Arc::clone(&session));
            *place = Some(session);
        }
        self.rotation = Rotation::of_places(places);
        self.activity.restore(state.activity);
        self.last_handshake = state.last_handshake;
        self.sending = state.sending && self.rotation.current().is_some();
        self.handshake_wanted = state.handshake_wanted;
        self.initiation_sent = state.initiation_sent;
        self.initiation_taken = state.initiation_taken;
        self.jitter = state.jitter;
        self.persistent_keepalive = state.persistent_keepalive;
        self.keepalive_asked = state.keepalive_asked;
        self.keepalive_wanted = state.keepalive_wanted;
        self.jar.put_back(state.cookie);
        self.stamps = Stamps::after(state.last_stamp);
        self.guard = StampGuard::above(state.greatest_stamp);
        Ok(self.rotation.current().filter(|_| self.sending).cloned())
    }

    fn restored_session(
        &self,
        state: &SessionState,
        reserve: u64,
        settings: Settings,
    ) -> Result<Arc<Session>, Contradiction> {
        let keys = SessionKeys {
            suite: state::suite(state.suite)?,
            send: state.send_key.clone(),
            receive: state.receive_key.clone(),
        };
        let parts = SessionParts {
            peer: self.id,
            activity: Arc::clone(&self.activity),
            role: if state.initiator { Role::Initiator } else { Role::Responder },
            local_index: state.local_index,
            remote_index: state.remote_index,
            created: state.created,
            keys,
            limits: settings.messages,
            backend: settings.backend,
            window: settings.window,
        };
        Ok(Arc::new(Session::restored(parts, state, reserve)))
    }

    pub(super) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    pub(super) fn suite(&self) -> Suite {
        self.suite
    }

    /// Sets the cipher suite. Returns whether that changed it. If so, all sessions and handshakes are
    /// dropped.
    pub(super) fn set_suite(&mut self, suite: Suite, indices: &mut Indices) -> bool {
        let changed = suite != self.suite;
        if changed {
            self.suite = suite;
            self.jar = CookieJar::new(&self.public, suite);
            self.forget_sessions(indices);
        }
        changed
    }

    pub(super) fn persistent_keepalive(&self) -> Option<Duration> {
        self.persistent_keepalive
    }

    pub(super) fn set_persistent_keepalive(&mut self, interval: Option<Duration>) {
        let interval = interval.filter(|interval| !interval.is_zero());
        // When enabled, the first keepalive is sent immediately, as in the kernel, to open the NAT or
        // firewall that it is meant to keep open.
        self.keepalive_wanted |= interval.is_some() && self.persistent_keepalive.is_none();
        self.persistent_keepalive = interval;
    }

    /// Starts a handshake if one is needed and none is in progress.
    pub(super) fn data_waits(&mut self, step: &mut Step<'_>, out: &mut Outputs) {
        self.follow_promotion(step.indices, step.unix, out);
        if let Some(attempt) = &mut self.attempt {
            // "If a packet is explicitly queued up to be sent, then this timer is reset" (6.4).
            attempt.tries = 1;
        } else if !self.has_good_session(step.now) {
            self.start_handshake(step, out);
        }
    }

    /// Answers an authenticated initiation of this peer.
    pub(super) fn answer(
        &mut self,
        step: &mut Step<'_>,
        received: PeerInitiation,
        remote_index: u32,
        out: &mut Outputs,
    ) -> Result<(), HandshakeDrop> {
        if received.suite() != self.suite {
            return Err(HandshakeDrop::Suite);
        }
        if !self.guard.is_new(received.stamp()) {
            return Err(HandshakeDrop::Replay);
        }
        if self
            .initiation_taken
            .is_some_and(|taken| taken <= step.now && step.now.since(taken) < INITIATION_INTERVAL)
        {
            return Err(HandshakeDrop::TooSoon);
        }
        self.guard.accept(received.stamp());
        let (noise, keys) = received.answer(&self.psk).map_err(|_| HandshakeDrop::Authentication)?;
        self.initiation_taken = Some(step.now);
        self.activity.received_handshake(step.now);
        out.push(Output::Initiated { peer: self.id });

        let local_index = step.indices.take(self.id, step.entropy).expect("MAX_PEERS ensures a free index");
        let session = self.session(step, Role::Responder, local_index, remote_index, keys);
        step.indices.install(Arc::clone(&session));
        let Answered { promoted, retired } = self.rotation.answered(session);
        retire(&retired, step.indices);
        if let Some(promoted) = promoted {
            self.use_session(promoted, step.unix, out);
        }

        let mut message = messages::response(local_index, remote_index, &noise);
        self.jar.sign(&mut message, local_index, step.now);
        self.activity.sent_handshake(step.now);
        out.send(SendTo::Source, &message, Some(self.id));
        Ok(())
    }

    /// Completes the handshake in progress with its response.
    pub(super) fn finish(
        &mut self,
        step: &mut Step<'_>,
        response: Response<'_>,
        out: &mut Outputs,
    ) -> Result<(), HandshakeDrop> {
        let attempt = self.attempt.as_mut().filter(|attempt| attempt.local_index == response.receiver());
        let attempt = attempt.ok_or(HandshakeDrop::UnknownIndex)?;
        let keys =
            attempt.noise.finish(&self.psk, response.noise()).map_err(|_| HandshakeDrop::Authentication)?;
        let local_index = attempt.local_index;
        self.attempt = None;
        self.activity.received_handshake(step.now);
        out.push(Output::Roamed { peer: self.id });

        let session = self.session(step, Role::Initiator, local_index, response.handshake().sender(), keys);
        step.indices.install(Arc::clone(&session));
        retire(&self.rotation.initiated(Arc::clone(&session)), step.indices);
        self.use_session(session, step.unix, out);
        // The responder may not send before it receives a message on the session (section 5.4.5).
        self.keepalive_asked = step.now;
        out.push(Output::SendKeepalive { peer: self.id });
        Ok(())
    }

    /// Stores the cookie for the next handshake message.
    pub(super) fn store_cookie(&mut self, reply: CookieReply<'_>, now: Nanos) -> Result<(), HandshakeDrop> {
        if self.jar.store(reply, now) { Ok(()) } else { Err(HandshakeDrop::Authentication) }
    }

    /// Confirms `session` after an authentic message was received on it.
    pub(super) fn confirmed(
        &mut self,
        indices: &mut Indices,
        unix: Duration,
        session: &Session,
        out: &mut Outputs,
    ) {
        let confirmed = self.rotation.confirmed(session);
        self.follow(confirmed, indices, unix, out);
    }

    /// Makes a session current that a worker has promoted, ahead of the worker's notice: whatever is
    /// decided next must not take the session before for the one in use.
    fn follow_promotion(&mut self, indices: &mut Indices, unix: Duration, out: &mut Outputs) {
        let promoted = self.rotation.promoted();
        self.follow(promoted, indices, unix, out);
    }

    fn follow(
        &mut self,
        confirmed: Option<(Arc<Session>, Retired)>,
        indices: &mut Indices,
        unix: Duration,
        out: &mut Outputs,
    ) {
        let Some((session, retired)) = confirmed else { return };
        retire(&retired, indices);
        // The session is fresh; the handshake in progress would only replace it.
        self.give_up_attempt(indices);
        self.use_session(session, unix, out);
    }

    /// Drops all sessions and the handshake in progress.
    pub(super) fn forget_sessions(&mut self, indices: &mut Indices) {
        retire(&self.rotation.clear(), indices);
        self.give_up_attempt(indices);
        self.sending = false;
        self.handshake_wanted = None;
        self.activity.forget_unanswered();
    }

    /// Lets the next handshake begin at once.
    pub(super) fn forget_initiation(&mut self) {
        self.initiation_sent = None;
    }

    /// Returns the session to send with, if it is young enough.
    fn sendable(&self, now: Nanos) -> Option<&Arc<Session>> {
        self.rotation.current().filter(|session| session.can_send(now))
    }

    fn has_good_session(&self, now: Nanos) -> bool {
        // A session due for rekeying on receipt is already due on sending.
        self.sending
            && self.sendable(now).is_some_and(|session| !session.rekey_due_on_send(now, session.sent()))
    }

    /// Starts a handshake unless one is in progress: now, or [`REKEY_TIMEOUT`] after the last
    /// initiation.
    fn start_handshake(&mut self, step: &mut Step<'_>, out: &mut Outputs) {
        self.handshake_wanted = None;
        if self.attempt.is_some() {
            return;
        }
        match self.initiation_sent {
            Some(sent) if step.now.since(sent) < REKEY_TIMEOUT && sent <= step.now => {
                self.handshake_wanted = Some(sent.after(REKEY_TIMEOUT));
            }
            _ => self.initiate(step, 1, out),
        }
    }

    /// Sends an initiation with a new ephemeral key and index, replacing the handshake in progress.
    fn initiate(&mut self, step: &mut Step<'_>, tries: u32, out: &mut Outputs) {
        self.give_up_attempt(step.indices);
        self.initiation_sent = Some(step.now);
        self.jitter = jitter(step.entropy);
        let stamp = self.stamps.next(step.unix);
        let Ok((noise, message)) =
            OwnInitiation::start(step.private, &self.public, self.suite, stamp, step.entropy)
        else {
            // The configured public key is a low-order point.
            out.push(Output::HandshakeFailed { peer: self.id });
            return;
        };
        let local_index = step.indices.take(self.id, step.entropy).expect("MAX_PEERS ensures a free index");
        let retry_at = step.now.after(REKEY_TIMEOUT).after(self.jitter);
        self.attempt = Some(Attempt { noise, local_index, tries, retry_at });

        let mut message = messages::initiation(local_index, &message);
        self.jar.sign(&mut message, local_index, step.now);
        self.activity.sent_handshake(step.now);
        out.send(SendTo::Endpoint(self.id), &message, Some(self.id));
    }

    fn give_up_attempt(&mut self, indices: &mut Indices) {
        if let Some(attempt) = self.attempt.take() {
            indices.release(attempt.local_index);
        }
    }

    fn session(
        &self,
        step: &Step<'_>,
        role: Role,
        local_index: u32,
        remote_index: u32,
        keys: SessionKeys,
    ) -> Arc<Session> {
        Arc::new(Session::new(SessionParts {
            peer: self.id,
            activity: Arc::clone(&self.activity),
            role,
            local_index,
            remote_index,
            created: step.now,
            keys,
            limits: step.settings.messages,
            backend: step.settings.backend,
            window: step.settings.window,
        }))
    }

    fn use_session(&mut self, session: Arc<Session>, unix: Duration, out: &mut Outputs) {
        let role = session.role();
        self.sending = true;
        self.handshake_wanted = None;
        self.last_handshake = Some(unix);
        out.push(Output::Use { peer: self.id, session });
        out.push(Output::HandshakeDone { peer: self.id, role, unix });
    }
}

fn retire(sessions: &Retired, indices: &mut Indices) {
    for session in sessions {
        session.end();
        indices.release(session.local_index());
    }
}

fn jitter(entropy: &mut dyn Entropy) -> Duration {
    let mut random = [0; 4];
    entropy.fill(&mut random);
    MAX_JITTER.mul_f64(f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX))
}
