//! One peer's state: its sessions, the handshake under way, and what its timers are worked out
//! from (whitepaper, section 6).
//!
//! A handshake of ours and one of the peer's can be under way at the same time without disturbing
//! each other; [`Rotation`] sorts out what comes of it.

use std::sync::Arc;
use std::time::Duration;

use super::activity::Activity;
use super::cookie::CookieJar;
use super::indices::Indices;
use super::keys::{Entropy, PresharedKey, PrivateKey, PublicKey};
use super::messages::{self, CookieReply, Response};
use super::noise::{Initiation, Received};
use super::outputs::{HandshakeDrop, Output, Outputs, SendTo};
use super::protocol::Settings;
use super::rotation::{Retired, Rotation};
use super::session::{Role, Session, SessionKeys, SessionParts};
use super::suite::Suite;
use super::tai64n::{StampGuard, Stamps};
use super::timers::{
    self, ERASE_AFTER_TIME, INITIATION_INTERVAL, KEEPALIVE_TIMEOUT, MAX_ATTEMPTS, MAX_JITTER,
    REJECT_AFTER_TIME, REKEY_TIMEOUT,
};
use crate::units::{Nanos, PeerId};

/// The most indices a peer has at one time: three sessions, the handshake of ours under way, and
/// the session that is about to replace one of them.
pub(super) const MAX_INDICES: usize = 5;

/// What a step of a peer works with besides the peer.
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
    /// When a handshake was last done, since the UNIX epoch.
    pub(super) last_handshake: Option<Duration>,
    id: PeerId,
    suite: Suite,
    activity: Arc<Activity>,
    rotation: Rotation,
    /// Whether the workers were told to use a session, and not yet to stop.
    sending: bool,
    attempt: Option<Attempt>,
    /// When to start a handshake that could not start at once.
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

/// A handshake that we started and that has no response yet.
struct Attempt {
    noise: Initiation,
    local_index: u32,
    /// Initiations sent since somebody last wanted this handshake.
    tries: u32,
    retry_at: Nanos,
}

impl Peer {
    pub(super) fn new(id: PeerId, public: PublicKey) -> Self {
        Peer {
            public,
            psk: PresharedKey::NONE,
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

    pub(super) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    pub(super) fn suite(&self) -> Suite {
        self.suite
    }

    /// Whether that is a change. Then nothing is left of what was agreed on before.
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
        // Turned on, the first one goes out at once, as the kernel does: it opens the way through
        // whatever made someone turn it on.
        self.keepalive_wanted |= interval.is_some() && self.persistent_keepalive.is_none();
        self.persistent_keepalive = interval;
    }

    /// Starts a handshake if one is needed and none is under way.
    pub(super) fn data_waits(&mut self, step: &mut Step<'_>, out: &mut Outputs) {
        if let Some(attempt) = &mut self.attempt {
            // "If a packet is explicitly queued up to be sent, then this timer is reset" (6.4).
            attempt.tries = 1;
        } else if !self.has_good_session(step.now) {
            self.start_handshake(step, out);
        }
    }

    /// Answers an initiation of this peer that authenticates.
    pub(super) fn answer(
        &mut self,
        step: &mut Step<'_>,
        received: Received,
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
        out.push(Output::Roamed { peer: self.id });

        let local_index = step.indices.take(self.id, step.entropy).expect("MAX_PEERS leaves enough indices");
        let session = self.session(step, Role::Responder, local_index, remote_index, keys);
        step.indices.install(Arc::clone(&session));
        retire(&self.rotation.answered(session), step.indices);

        let mut message = messages::response(local_index, remote_index, &noise);
        self.jar.sign(&mut message, local_index, step.now);
        self.activity.sent_handshake(step.now);
        out.send(SendTo::Source, &message, Some(self.id));
        Ok(())
    }

    /// Takes the response to the initiation under way.
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
        // The responder may not send before it has something from us (section 5.4.5).
        self.keepalive_asked = step.now;
        out.push(Output::SendKeepalive { peer: self.id });
        Ok(())
    }

    /// Keeps the cookie for the next message.
    pub(super) fn store_cookie(&mut self, reply: CookieReply<'_>, now: Nanos) -> Result<(), HandshakeDrop> {
        if self.jar.store(reply, now) { Ok(()) } else { Err(HandshakeDrop::Authentication) }
    }

    /// Something authentic came in on the session of this index.
    pub(super) fn confirmed(
        &mut self,
        indices: &mut Indices,
        unix: Duration,
        local_index: u32,
        out: &mut Outputs,
    ) {
        if let Some((session, retired)) = self.rotation.confirmed(local_index) {
            retire(&retired, indices);
            // A fresh session is here; ours under way would only replace it by another.
            self.give_up_attempt(indices);
            self.use_session(session, unix, out);
        }
    }

    /// Does what is due and returns when to look again.
    pub(super) fn poll(&mut self, step: &mut Step<'_>, out: &mut Outputs) -> Option<Nanos> {
        self.expire_sessions(step, out);
        self.retry_handshake(step, out);
        self.ask_for_keepalives(step, out);
        self.next_poll(step.now)
    }

    /// Gives up all sessions and handshakes, as if there had been none.
    pub(super) fn forget_sessions(&mut self, indices: &mut Indices) {
        retire(&self.rotation.clear(), indices);
        self.give_up_attempt(indices);
        self.sending = false;
        self.handshake_wanted = None;
        self.activity.forget_unanswered();
    }

    fn expire_sessions(&mut self, step: &mut Step<'_>, out: &mut Outputs) {
        if self.sending && self.sendable(step.now).is_none() {
            self.sending = false;
            out.push(Output::Stop { peer: self.id });
        }
        if self.rotation.youngest().is_some_and(|created| step.now.since(created) >= ERASE_AFTER_TIME) {
            retire(&self.rotation.clear(), step.indices);
        }
    }

    fn retry_handshake(&mut self, step: &mut Step<'_>, out: &mut Outputs) {
        if let Some(attempt) = &mut self.attempt {
            // Only a clock that stepped back makes this differ.
            attempt.retry_at = attempt.retry_at.min(step.now.after(REKEY_TIMEOUT).after(MAX_JITTER));
        }
        if let Some(attempt) = &self.attempt
            && attempt.retry_at <= step.now
        {
            if attempt.tries < MAX_ATTEMPTS {
                let tries = attempt.tries + 1;
                self.initiate(step, tries, out);
            } else {
                self.give_up_attempt(step.indices);
                self.activity.forget_unanswered();
                out.push(Output::HandshakeFailed { peer: self.id });
            }
        }
        let unanswered = timers::new_handshake_at(&self.activity.snapshot(), self.jitter);
        if unanswered.is_some_and(|at| at <= step.now) {
            // One new handshake per silence: the wait starts anew with the next data.
            self.activity.forget_unanswered();
            self.start_handshake(step, out);
        }
        if self.handshake_wanted.is_some_and(|at| at <= step.now) {
            self.start_handshake(step, out);
        }
    }

    fn ask_for_keepalives(&mut self, step: &mut Step<'_>, out: &mut Outputs) {
        let times = self.activity.snapshot();
        let passive = timers::passive_keepalive_at(&times, self.keepalive_asked).filter(|_| self.sending);
        let persistent = self.persistent_keepalive_at();
        if passive.is_none_or(|at| at > step.now) && persistent.is_none_or(|at| at > step.now) {
            return;
        }
        self.keepalive_asked = step.now;
        self.keepalive_wanted = false;
        if self.sending {
            out.push(Output::SendKeepalive { peer: self.id });
        } else {
            // The handshake ends with a keepalive.
            self.start_handshake(step, out);
        }
    }

    /// The next moment at which anything can become due.
    fn next_poll(&self, now: Nanos) -> Option<Nanos> {
        let times = self.activity.snapshot();
        let created = self.rotation.current().map(|session| session.created()).filter(|_| self.sending);
        [
            self.attempt.as_ref().map(|attempt| attempt.retry_at),
            self.handshake_wanted,
            created.map(|created| created.after(REJECT_AFTER_TIME)),
            self.rotation.youngest().map(|created| created.after(ERASE_AFTER_TIME)),
            timers::new_handshake_at(&times, self.jitter),
            timers::passive_keepalive_at(&times, self.keepalive_asked).filter(|_| self.sending),
            self.persistent_keepalive_at(),
            // Traffic comes and goes without a word, and what it makes due is at least this far off.
            self.sending.then(|| now.after(KEEPALIVE_TIMEOUT)),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// When the operator's keepalive is due. Not while a handshake is under way: there is nothing
    /// to send it with, and the end of the handshake does its work.
    fn persistent_keepalive_at(&self) -> Option<Nanos> {
        let interval = self
            .persistent_keepalive
            .filter(|_| self.attempt.is_none() && self.handshake_wanted.is_none())?;
        let times = self.activity.snapshot();
        let at = timers::persistent_keepalive_at(&times, self.keepalive_asked, interval);
        Some(if self.keepalive_wanted { Nanos::NEVER } else { at })
    }

    /// The session to send with, if it is young enough.
    fn sendable(&self, now: Nanos) -> Option<&Arc<Session>> {
        self.rotation.current().filter(|session| session.can_send(now))
    }

    fn has_good_session(&self, now: Nanos) -> bool {
        // What is due on receipt is due on sending before.
        self.sending
            && self.sendable(now).is_some_and(|session| !session.rekey_due_on_send(now, session.sent()))
    }

    /// Starts a handshake unless one is under way: now, or as soon as the last initiation is old
    /// enough.
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

    /// Sends an initiation with new keys and a new index, in place of the one under way.
    fn initiate(&mut self, step: &mut Step<'_>, tries: u32, out: &mut Outputs) {
        self.give_up_attempt(step.indices);
        self.initiation_sent = Some(step.now);
        self.jitter = jitter(step.entropy);
        let stamp = self.stamps.next(step.unix);
        let Ok((noise, message)) =
            Initiation::start(step.private, &self.public, self.suite, stamp, step.entropy)
        else {
            // The configured key is none that anyone can agree with.
            out.push(Output::HandshakeFailed { peer: self.id });
            return;
        };
        let local_index = step.indices.take(self.id, step.entropy).expect("MAX_PEERS leaves enough indices");
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
        indices.release(session.local_index());
    }
}

fn jitter(entropy: &mut dyn Entropy) -> Duration {
    let mut random = [0; 4];
    entropy.fill(&mut random);
    MAX_JITTER.mul_f64(f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX))
}
