//! Settings of the protocol: message limits, load thresholds, AEAD implementation, replay window and lanes.

use super::aead::Backend;
use super::lanes::LaneHash;
use super::replay::WINDOW;
use super::timers::{REJECT_AFTER_MESSAGES, REKEY_AFTER_MESSAGES};

/// Protocol settings.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Message limits of a session. Only tests lower them.
    pub messages: MessageLimits,
    /// Thresholds for being under load.
    pub load: LoadLimits,
    /// Implementation that seals and opens transport data.
    pub backend: Backend,
    /// Length of the replay window, in counters ([`window_for`](super::replay::window_for)).
    pub window: u64,
    /// The lane that receives the data messages for an index.
    pub lanes: LaneHash,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            messages: MessageLimits::default(),
            load: LoadLimits::default(),
            backend: Backend::default(),
            window: WINDOW,
            lanes: LaneHash::default(),
        }
    }
}

/// Limits on the number of messages of a session. The defaults are the protocol's; tests lower them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageLimits {
    /// Sending this counter or a greater one requests a new session.
    pub rekey_after: u64,
    /// This counter and greater ones are neither sent nor accepted. At most
    /// [`REJECT_AFTER_MESSAGES`].
    pub reject_after: u64,
}

impl Default for MessageLimits {
    fn default() -> Self {
        MessageLimits { rekey_after: REKEY_AFTER_MESSAGES, reject_after: REJECT_AFTER_MESSAGES }
    }
}

/// Load thresholds, in handshake messages with a valid first MAC per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadLimits {
    /// Load begins with the message that exceeds this count within one second.
    pub begins_over: u32,
    /// Load ends after a full second with at most this many messages.
    pub ends_at: u32,
}

impl Default for LoadLimits {
    /// Load begins at a tenth of one core. An answered handshake costs 0.29 ms of CPU time, one from
    /// an unknown peer 0.14 ms, an initiation answered with a cookie 0.0035 ms, and one with a wrong
    /// first MAC 0.0004 ms (`cargo bench --bench handshake` on a 2.6 GHz AMD EPYC).
    fn default() -> Self {
        LoadLimits { begins_over: 350, ends_at: 175 }
    }
}
