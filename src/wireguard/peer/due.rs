//! What is due for a peer: expiry of sessions, retries of handshakes and keepalives (whitepaper, section 6).

use super::{Peer, Step, retire};
use crate::units::Nanos;
use crate::wireguard::outputs::{Output, Outputs};
use crate::wireguard::timers;
use crate::wireguard::timers::{
    ERASE_AFTER_TIME, KEEPALIVE_TIMEOUT, MAX_ATTEMPTS, MAX_JITTER, REJECT_AFTER_TIME, REKEY_TIMEOUT,
};

impl Peer {
    /// Performs what is due and returns when to poll again.
    pub(in crate::wireguard) fn poll(&mut self, step: &mut Step<'_>, out: &mut Outputs) -> Option<Nanos> {
        self.follow_promotion(step.indices, step.unix, out);
        self.expire_sessions(step, out);
        self.retry_handshake(step, out);
        self.ask_for_keepalives(step, out);
        self.next_poll(step.now)
    }

    pub(super) fn expire_sessions(&mut self, step: &mut Step<'_>, out: &mut Outputs) {
        if self.sending && self.sendable(step.now).is_none() {
            self.sending = false;
            out.push(Output::Stop { peer: self.id });
        }
        if self.rotation.youngest().is_some_and(|created| step.now.since(created) >= ERASE_AFTER_TIME) {
            retire(&self.rotation.clear(), step.indices);
        }
    }

    pub(super) fn retry_handshake(&mut self, step: &mut Step<'_>, out: &mut Outputs) {
        if let Some(attempt) = &mut self.attempt {
            // Only differs if the clock stepped back.
            attempt.retry_at = attempt.retry_at.min(step.now.after(REKEY_TIMEOUT).after(MAX_JITTER));
        }
        if let Some(attempt) = &self.attempt
            && attempt.retry_at <= step.now
        {
            if attempt.tries < MAX_ATTEMPTS {
                let tries = attempt.tries + 1;
                out.push(Output::Unanswered { peer: self.id });
                self.initiate(step, tries, out);
            } else {
                self.give_up_attempt(step.indices);
                self.activity.forget_unanswered();
                out.push(Output::HandshakeFailed { peer: self.id });
            }
        }
        let unanswered = timers::new_handshake_at(&self.activity.snapshot(), self.jitter);
        if unanswered.is_some_and(|at| at <= step.now) {
            // One handshake per period of silence: the next data starts a new wait.
            self.activity.forget_unanswered();
            out.push(Output::Unanswered { peer: self.id });
            self.start_handshake(step, out);
        }
        if self.handshake_wanted.is_some_and(|at| at <= step.now) {
            self.start_handshake(step, out);
        }
    }

    pub(super) fn ask_for_keepalives(&mut self, step: &mut Step<'_>, out: &mut Outputs) {
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
            // A completed handshake sends a keepalive.
            self.start_handshake(step, out);
        }
    }

    /// Returns the next time at which anything can become due.
    pub(super) fn next_poll(&self, now: Nanos) -> Option<Nanos> {
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
            // Workers do not report traffic. Anything it makes due is at least this far in the future.
            self.sending.then(|| now.after(KEEPALIVE_TIMEOUT)),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Returns when the persistent keepalive is due; `None` while a handshake is in progress or pending,
    /// which ends with a keepalive itself.
    pub(super) fn persistent_keepalive_at(&self) -> Option<Nanos> {
        let interval = self
            .persistent_keepalive
            .filter(|_| self.attempt.is_none() && self.handshake_wanted.is_none())?;
        let times = self.activity.snapshot();
        let at = timers::persistent_keepalive_at(&times, self.keepalive_asked, interval);
        Some(if self.keepalive_wanted { Nanos::NEVER } else { at })
    }
}
