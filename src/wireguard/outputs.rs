//! Actions that the protocol requests. The protocol performs no I/O: each call appends its requests
//! here, and the caller carries them out in order.

use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;

use super::messages::MAX_HANDSHAKE;
use super::session::{Role, Session};
use crate::units::PeerId;

/// Destination of a handshake message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendTo {
    /// The endpoint of this peer, if it has one.
    Endpoint(PeerId),
    /// The source of the datagram being handled. The message is sent from the address on which that
    /// datagram was received.
    Source,
}

/// Declares the drop reasons: documentation, variant and label.
macro_rules! reasons {
    ($($(#[$meaning:meta])* $variant:ident = $label:literal,)*) => {
        /// Reason for dropping a handshake message.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum HandshakeDrop {
            $($(#[$meaning])* $variant,)*
        }

        impl HandshakeDrop {
            /// Every reason.
            pub const ALL: &'static [HandshakeDrop] = &[$(HandshakeDrop::$variant,)*];

            /// Returns the labels of all reasons.
            pub fn labels() -> Vec<&'static str> {
                Self::ALL.iter().map(|reason| reason.label()).collect()
            }

            /// Returns the value of the `reason` label.
            pub const fn label(self) -> &'static str {
                match self {
                    $(HandshakeDrop::$variant => $label,)*
                }
            }
        }
    };
}

reasons! {
    /// The datagram is not a handshake message, by type or length.
    NotHandshake = "not_handshake",
    /// No private key is configured.
    NoPrivateKey = "no_private_key",
    /// The first MAC is invalid: the sender does not know our public key.
    Mac1 = "mac1",
    /// The interface is under load and sent a cookie instead of processing the message.
    CookieDemanded = "cookie_demanded",
    /// The interface is under load and the source exceeds its rate limit.
    RateLimited = "rate_limited",
    /// The message does not authenticate.
    Authentication = "authentication",
    /// An initiation by a static key that belongs to no peer.
    UnknownPeer = "unknown_peer",
    /// The message uses a cipher suite other than the one configured for the peer.
    Suite = "suite",
    /// An initiation whose timestamp is not newer than the last one accepted.
    Replay = "replay",
    /// An initiation too soon after the last one accepted.
    TooSoon = "too_soon",
    /// A response or cookie reply whose receiver index matches no handshake in progress.
    UnknownIndex = "unknown_index",
    /// The interface is down.
    InterfaceDown = "interface_down",
}

/// An action that the protocol requests.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send a handshake message.
    Send {
        /// The destination.
        to: SendTo,
        /// The message.
        datagram: ArrayVec<u8, MAX_HANDSHAKE>,
        /// The receiving peer; `None` for a cookie reply, whose receiver is not authenticated.
        peer: Option<PeerId>,
    },
    /// Send a keepalive on the peer's sending session, unless data is sent on it first.
    SendKeepalive {
        /// The receiving peer.
        peer: PeerId,
    },
    /// Send to the peer with this session. Packets staged for the peer can be sent.
    Use {
        /// The peer.
        peer: PeerId,
        /// The session to send with.
        session: Arc<Session>,
    },
    /// Stop sending to the peer: it has no session to send with.
    Stop {
        /// The peer.
        peer: PeerId,
    },
    /// The peer has not answered, and another handshake message follows: select the address to send from anew.
    Unanswered {
        /// The peer.
        peer: PeerId,
    },
    /// The datagram being handled is an initiation of the peer, which is answered. It may be a replay of
    /// one from before a restart, so its source becomes the peer's endpoint only if there is none yet;
    /// a known endpoint moves with the first message on the new session.
    Initiated {
        /// The peer.
        peer: PeerId,
    },
    /// Set the peer's endpoint to the source of the datagram being handled, which the peer
    /// authenticated and which cannot be a replay.
    Roamed {
        /// The peer.
        peer: PeerId,
    },
    /// Drop the packets staged for the peer: its handshake has timed out.
    HandshakeFailed {
        /// The peer.
        peer: PeerId,
    },
    /// A handshake has completed from this end's point of view.
    HandshakeDone {
        /// The peer.
        peer: PeerId,
        /// This end's role in the handshake.
        role: Role,
        /// Time of completion, since the UNIX epoch.
        unix: Duration,
    },
    /// The datagram being handled was dropped.
    MessageDropped {
        /// The reason.
        reason: HandshakeDrop,
    },
}

/// Maximum number of outputs per call.
pub const MAX_OUTPUTS: usize = 8;

/// The outputs of one call, in the order in which to carry them out. Reused across calls.
#[derive(Debug, Default)]
pub struct Outputs(ArrayVec<Output, MAX_OUTPUTS>);

impl Outputs {
    /// Creates an empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Removes and returns all outputs. Call this after each call to the protocol.
    pub fn drain(&mut self) -> impl Iterator<Item = Output> + '_ {
        self.0.drain(..)
    }

    pub(super) fn push(&mut self, output: Output) {
        // Fails if the caller did not drain the outputs, or if `MAX_OUTPUTS` is too low.
        assert!(!self.0.is_full(), "outputs are drained after every call");
        self.0.push(output);
    }

    pub(super) fn send(&mut self, to: SendTo, message: &[u8], peer: Option<PeerId>) {
        let datagram = message.try_into().expect("a handshake message is at most MAX_HANDSHAKE bytes");
        self.push(Output::Send { to, datagram, peer });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_label_of_its_own() {
        let mut labels = HandshakeDrop::labels();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), HandshakeDrop::ALL.len());
    }
}
