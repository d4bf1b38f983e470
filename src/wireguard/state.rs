//! The protocol's state as plain data, so that another process can continue it ([`carry`](super::carry)).
//!
//! Secrets are wiped when dropped. Moments are those of [`Nanos`], a clock that all processes of one boot share.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::activity::ActivityTimes;
use super::suite::Suite;
use crate::units::Nanos;

/// A key of 32 bytes.
pub type Secret = Zeroizing<[u8; 32]>;

/// The state of a [`Protocol`](super::protocol::Protocol).
#[derive(Serialize, Deserialize)]
pub struct ProtocolState {
    /// The interface's private key.
    pub private_key: Option<Secret>,
    /// The peers. Their place in this list identifies them.
    pub peers: Vec<PeerState>,
}

/// The state of one peer.
#[derive(Serialize, Deserialize)]
pub struct PeerState {
    /// The public key.
    pub public_key: [u8; 32],
    /// The preshared key, all zeros for none.
    pub preshared_key: Secret,
    /// The cipher suite, as a place in [`Suite::ALL`].
    pub suite: u8,
    /// Time of the last completed handshake, since the UNIX epoch.
    pub last_handshake: Option<Duration>,
    /// Times of the peer's traffic.
    pub activity: ActivityTimes,
    /// The sessions by their place in the rotation: previous, current and next.
    pub sessions: [Option<SessionState>; 3],
    /// Whether the current session is sent with.
    pub sending: bool,
    /// When to start a handshake.
    pub handshake_wanted: Option<Nanos>,
    /// When the last initiation was sent.
    pub initiation_sent: Option<Nanos>,
    /// When the last initiation was accepted.
    pub initiation_taken: Option<Nanos>,
    /// The random delay of the next handshake.
    pub jitter: Duration,
    /// The interval of persistent keepalives.
    pub persistent_keepalive: Option<Duration>,
    /// When the workers were last asked for a keepalive.
    pub keepalive_asked: Nanos,
    /// Whether a keepalive is due at once.
    pub keepalive_wanted: bool,
    /// The timestamp of the last initiation sent.
    pub last_stamp: [u8; 12],
    /// The greatest timestamp accepted.
    pub greatest_stamp: [u8; 12],
    /// The cookie of the last cookie reply, and when it came.
    pub cookie: Option<(Zeroizing<[u8; 16]>, Nanos)>,
}

/// The state of one session.
#[derive(Serialize, Deserialize)]
pub struct SessionState {
    /// Whether this end sent message 1.
    pub initiator: bool,
    /// Receiver index of messages from the peer.
    pub local_index: u32,
    /// Receiver index of messages to the peer.
    pub remote_index: u32,
    /// When this end derived the keys.
    pub created: Nanos,
    /// Whether an authentic message was received, which the responder must await before it sends.
    pub confirmed: bool,
    /// The cipher suite, as a place in [`Suite::ALL`].
    pub suite: u8,
    /// The key for sealing.
    pub send_key: Secret,
    /// The key for opening.
    pub receive_key: Secret,
    /// The next counter to send.
    pub next_counter: u64,
    /// The received counters.
    pub received: ReplayState,
}

/// The state of a replay window.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReplayState {
    /// One more than the greatest counter seen; 0 if none has been.
    pub next: u64,
    /// The circular bitmap of counters seen.
    pub seen: Vec<u64>,
}

/// The state is of no use to this router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the state contradicts itself")]
pub struct Contradiction;

/// Returns the suite at this place of [`Suite::ALL`].
pub(super) fn suite(place: u8) -> Result<Suite, Contradiction> {
    Suite::ALL.get(usize::from(place)).copied().ok_or(Contradiction)
}
