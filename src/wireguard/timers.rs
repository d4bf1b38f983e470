//! Timer constants and the rules that compute deadlines from past events (whitepaper, section 6).
//!
//! The rules are pure functions. No timer is armed or cancelled: each deadline is recomputed from
//! recorded activity on demand. A clock that jumps ahead (suspend) only makes deadlines due; one
//! that steps back makes elapsed times zero.

use std::time::Duration;

use super::activity::ActivityTimes;
use crate::units::Nanos;

/// A session that has sent this many messages is replaced.
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// A session neither sends nor accepts messages with this counter or a greater one.
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);
/// An initiator replaces a session of this age when sending.
pub const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// A session of this age neither sends nor receives.
pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// How long a handshake is retried before it is abandoned.
pub const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// How long an initiation waits for its response; also the minimum time between two initiations.
pub const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// Received data is acknowledged by a keepalive after this time if nothing else was sent.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum random delay added to retries, so that two peers do not retry in lockstep.
pub const MAX_JITTER: Duration = Duration::from_millis(333);

/// Sent data that has had no answer for this long triggers a new handshake.
pub const NEW_HANDSHAKE_TIMEOUT: Duration = KEEPALIVE_TIMEOUT.saturating_add(REKEY_TIMEOUT);
/// An initiator replaces a session of this age when receiving: late enough not to race with
/// sending, early enough to complete the handshake before [`REJECT_AFTER_TIME`].
pub const REKEY_AFTER_TIME_RECEIVING: Duration = REJECT_AFTER_TIME.saturating_sub(NEW_HANDSHAKE_TIMEOUT);
/// All keys of a peer are erased after this time without a new session.
pub const ERASE_AFTER_TIME: Duration = REJECT_AFTER_TIME.saturating_mul(3);
/// Number of initiations sent before a handshake is abandoned. Counted rather than timed, as in the
/// kernel (`MAX_TIMER_HANDSHAKES`), because a suspended machine makes no attempts.
pub const MAX_ATTEMPTS: u32 = (REKEY_ATTEMPT_TIME.as_secs() / REKEY_TIMEOUT.as_secs()) as u32;
/// Minimum time between two initiations accepted from one peer (the kernel's
/// `INITIATIONS_PER_SECOND`).
pub const INITIATION_INTERVAL: Duration = Duration::from_millis(20);

/// Returns when received data must be acknowledged by a keepalive (section 6.5). `asked` is when the
/// workers were last asked to send one, so that they are not asked twice.
pub fn passive_keepalive_at(times: &ActivityTimes, asked: Nanos) -> Option<Nanos> {
    let since = happened(times.unacknowledged_since)?;
    Some(since.max(asked).after(KEEPALIVE_TIMEOUT))
}

/// Returns when unanswered data requires a new handshake (section 6.5).
pub fn new_handshake_at(times: &ActivityTimes, jitter: Duration) -> Option<Nanos> {
    Some(happened(times.unanswered_since)?.after(NEW_HANDSHAKE_TIMEOUT).after(jitter))
}

/// Returns when a persistent keepalive is due: `interval` after the last traffic in either
/// direction, or immediately if there has been none. `asked` is as in [`passive_keepalive_at`].
pub fn persistent_keepalive_at(times: &ActivityTimes, asked: Nanos, interval: Duration) -> Nanos {
    match happened(times.last_sent.max(times.last_received).max(asked)) {
        Some(last) => last.after(interval),
        None => Nanos::NEVER,
    }
}

/// Returns `moment` unless it is [`Nanos::NEVER`].
fn happened(moment: Nanos) -> Option<Nanos> {
    (moment != Nanos::NEVER).then_some(moment)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(s: u64) -> Nanos {
        Nanos(s * 1_000_000_000)
    }

    #[test]
    fn the_constants_are_those_of_the_whitepaper() {
        assert_eq!(u128::from(REJECT_AFTER_MESSAGES), (1 << 64) - (1 << 13) - 1);
        assert_eq!(NEW_HANDSHAKE_TIMEOUT.as_secs(), 15);
        assert_eq!(REKEY_AFTER_TIME_RECEIVING.as_secs(), 165);
        assert_eq!(ERASE_AFTER_TIME.as_secs(), 540);
        assert_eq!(MAX_ATTEMPTS, 18);
    }

    #[test]
    fn nothing_is_due_for_a_peer_without_traffic() {
        let idle = ActivityTimes::default();
        assert_eq!(passive_keepalive_at(&idle, Nanos::NEVER), None);
        assert_eq!(new_handshake_at(&idle, MAX_JITTER), None);
    }

    #[test]
    fn a_keepalive_is_asked_for_once_per_timeout() {
        let times = ActivityTimes { unacknowledged_since: seconds(100), ..Default::default() };
        assert_eq!(passive_keepalive_at(&times, Nanos::NEVER), Some(seconds(110)));
        assert_eq!(passive_keepalive_at(&times, seconds(110)), Some(seconds(120)));
    }

    #[test]
    fn a_persistent_keepalive_waits_for_silence_in_both_directions() {
        let interval = Duration::from_secs(25);
        let times =
            ActivityTimes { last_sent: seconds(10), last_received: seconds(20), ..Default::default() };
        assert_eq!(persistent_keepalive_at(&times, Nanos::NEVER, interval), seconds(45));
        assert_eq!(persistent_keepalive_at(&ActivityTimes::default(), Nanos::NEVER, interval), Nanos::NEVER);
    }

    #[test]
    fn the_end_of_time_does_not_overflow() {
        let times = ActivityTimes { unanswered_since: Nanos(u64::MAX - 1), ..Default::default() };
        assert_eq!(new_handshake_at(&times, MAX_JITTER), Some(Nanos(u64::MAX)));
    }
}
