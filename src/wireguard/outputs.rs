//! What the protocol wants done. It does nothing itself: each call leaves its wishes here, and the
//! caller carries them out in order.

use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;

use super::messages::MAX_HANDSHAKE;
use super::session::{Role, Session};
use crate::units::PeerId;

/// Where a handshake message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendTo {
    /// To the endpoint of this peer, if it has one.
    Endpoint(PeerId),
    /// To where the datagram came from that is being handled, from the address it came to.
    Source,
}

/// Declares the reasons once: variant, label and meaning.
macro_rules! reasons {
    ($($(#[$meaning:meta])* $variant:ident = $label:literal,)*) => {
        /// Why a handshake message went no further.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum HandshakeDrop {
            $($(#[$meaning])* $variant,)*
        }

        impl HandshakeDrop {
            /// Every reason.
            pub const ALL: &'static [HandshakeDrop] = &[$(HandshakeDrop::$variant,)*];

            /// The value of the `reason` label.
            pub const fn label(self) -> &'static str {
                match self {
                    $(HandshakeDrop::$variant => $label,)*
                }
            }
        }
    };
}

reasons! {
    /// No handshake message at all, by type or length.
    NotHandshake = "not_handshake",
    /// We have no private key yet.
    NoPrivateKey = "no_private_key",
    /// The first MAC is wrong: the sender does not know our public key.
    Mac1 = "mac1",
    /// We are under load and sent a cookie instead of an answer.
    CookieDemanded = "cookie_demanded",
    /// We are under load and this source sends too much.
    RateLimited = "rate_limited",
    /// It does not authenticate.
    Authentication = "authentication",
    /// An initiation by a key that is no peer's.
    UnknownPeer = "unknown_peer",
    /// It is of another suite than the peer is set to.
    Suite = "suite",
    /// An initiation that is not newer than the last.
    Replay = "replay",
    /// An initiation too soon after the last.
    TooSoon = "too_soon",
    /// An answer to something we did not send, or that is no longer under way.
    UnknownIndex = "unknown_index",
}

/// One wish of the protocol.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send a handshake message.
    Send {
        /// Where to.
        to: SendTo,
        /// The message.
        datagram: ArrayVec<u8, MAX_HANDSHAKE>,
        /// The peer it is for; `None` for a cookie reply, which is for whoever asked.
        peer: Option<PeerId>,
    },
    /// Send a keepalive on the peer's sending session. Not needed if data goes out on it before.
    SendKeepalive {
        /// To whom.
        peer: PeerId,
    },
    /// From now on, send with this session. What is staged for the peer can go out.
    Use {
        /// To whom.
        peer: PeerId,
        /// With what.
        session: Arc<Session>,
    },
    /// There is no session to send with any more.
    Stop {
        /// To whom.
        peer: PeerId,
    },
    /// The datagram being handled came from this peer, beyond doubt: its endpoint is where that
    /// came from.
    Roamed {
        /// Who.
        peer: PeerId,
    },
    /// The peer did not answer for so long that what is staged for it should be dropped.
    HandshakeFailed {
        /// Who.
        peer: PeerId,
    },
    /// A handshake is done, seen from our end.
    HandshakeDone {
        /// With whom.
        peer: PeerId,
        /// Which end we were.
        role: Role,
        /// When, since the UNIX epoch.
        unix: Duration,
    },
    /// The datagram being handled was dropped.
    MessageDropped {
        /// Why.
        reason: HandshakeDrop,
    },
}

/// How many wishes one call can leave behind.
pub const MAX_OUTPUTS: usize = 8;

/// The wishes of one call, in the order in which to carry them out. Made once and used again.
#[derive(Debug, Default)]
pub struct Outputs(ArrayVec<Output, MAX_OUTPUTS>);

impl Outputs {
    /// Without a wish.
    pub fn new() -> Self {
        Self::default()
    }

    /// Hands over all wishes. The caller does this after each call to the protocol.
    pub fn drain(&mut self) -> impl Iterator<Item = Output> + '_ {
        self.0.drain(..)
    }

    pub(super) fn push(&mut self, output: Output) {
        // Overflow is the caller's mistake (not drained) or ours (the bound is wrong).
        assert!(!self.0.is_full(), "outputs are drained after every call");
        self.0.push(output);
    }

    pub(super) fn send(&mut self, to: SendTo, message: &[u8], peer: Option<PeerId>) {
        let datagram = message.try_into().expect("no handshake message is longer");
        self.push(Output::Send { to, datagram, peer });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_label_of_its_own() {
        let mut labels: Vec<_> = HandshakeDrop::ALL.iter().map(|reason| reason.label()).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), HandshakeDrop::ALL.len());
    }
}
