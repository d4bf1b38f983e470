//! Endpoints that are host names: when which is looked up, and what comes of it.
//!
//! A name is looked up when it is configured; again and again while it has no address; and anew when
//! its peer leaves a handshake unanswered, for it may mean another address by then. Each time the peer
//! stays silent the next look-up is twice as far off. No clock and no resolver in here: the peer actor
//! has both, and [`lookups`](super::lookups) does what blocks.
//!
//! A name that has no address is no error, neither at the start nor later: name servers come up after
//! their clients, and names come up after both.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::lookups::{Answer, Question};
use super::schedule::Schedule;
use crate::lane::mailbox::ControlMessage;
use crate::units::{Nanos, PeerId};

/// How far the second look-up of a name is from the first.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// How far look-ups of a name are apart in the end.
const LONGEST_WAIT: Duration = Duration::from_secs(64);

/// Unanswered handshake initiations after which a peer counts as silent. They are 5 s apart (whitepaper,
/// section 6.4).
const SILENT_AFTER: u32 = 2;

/// The names of all peers that have one.
#[derive(Debug, Default)]
pub(super) struct Names {
    by_peer: HashMap<PeerId, Name>,
    due: Schedule,
    /// How many names there have been: tells an answer about a name from one about its predecessor.
    revision: u64,
}

#[derive(Debug)]
struct Name {
    host: String,
    port: u16,
    revision: u64,
    under_way: bool,
    /// Whether it has ever had an address, and whether anybody was told that it has none.
    found: bool,
    complained: bool,
    /// Before this it is not looked up again, and the time after that is so long.
    not_before: Nanos,
    wait: Duration,
    /// Handshake initiations since the peer was last heard.
    unanswered: u32,
    /// The last of them, if it could not be sent for want of an address.
    unsent: Option<ControlMessage>,
}

/// What a look-up has shown.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Where the peer is now.
    pub(super) address: SocketAddr,
    /// What could not be sent to it before.
    pub(super) unsent: Option<ControlMessage>,
}

impl Names {
    /// The peer is where `host` is. It is looked up at `now`, even if it was there before.
    pub(super) fn set(&mut self, peer: PeerId, host: String, port: u16, now: Nanos) {
        self.revision += 1;
        let name = Name {
            host,
            port,
            revision: self.revision,
            under_way: false,
            found: false,
            complained: false,
            not_before: now,
            wait: FIRST_WAIT,
            unanswered: 0,
            unsent: None,
        };
        self.by_peer.insert(peer, name);
        self.due.set(peer, Some(now));
    }

    /// The peer is gone, or has been given an address.
    pub(super) fn forget(&mut self, peer: PeerId) {
        if self.by_peer.remove(&peer).is_some() {
            self.due.set(peer, None);
        }
    }

    /// A handshake with the peer begins, or is tried again.
    pub(super) fn initiated(&mut self, peer: PeerId, now: Nanos) {
        let Some(name) = self.by_peer.get_mut(&peer) else { return };
        name.unanswered = name.unanswered.saturating_add(1);
        if name.is_silent() && !name.under_way {
            self.due.set(peer, Some(name.not_before.max(now)));
        }
    }

    /// `message` could not be sent to the peer: it has no address. It is kept if one is looked for.
    pub(super) fn keep_unsent(&mut self, peer: PeerId, message: ControlMessage) {
        if let Some(name) = self.by_peer.get_mut(&peer) {
            name.unsent = Some(message);
        }
    }

    /// A handshake with the peer is done: it is where we think it is.
    pub(super) fn heard(&mut self, peer: PeerId) {
        let Some(name) = self.by_peer.get_mut(&peer) else { return };
        name.unanswered = 0;
        name.unsent = None;
        if name.found {
            name.wait = FIRST_WAIT;
            self.due.set(peer, None);
        }
    }

    /// When the next name is to be looked up.
    pub(super) fn next_due(&self) -> Option<Nanos> {
        self.due.next()
    }

    /// A name that is to be looked up now.
    pub(super) fn take_due(&mut self, now: Nanos) -> Option<Question> {
        let peer = self.due.take_due(now)?;
        let name = self.by_peer.get_mut(&peer).expect("what is due has a name");
        name.under_way = true;
        name.not_before = now.after(name.wait);
        name.wait = (name.wait * 2).min(LONGEST_WAIT);
        Some(Question { peer, revision: name.revision, host: name.host.clone(), port: name.port })
    }

    /// Takes the answer to a question: where the peer has moved, if it has. `current` is where it was
    /// until now.
    pub(super) fn answered(&mut self, answer: Answer, current: Option<SocketAddr>) -> Option<Found> {
        let Answer { question: Question { peer, revision, .. }, addresses } = answer;
        let name = self.by_peer.get_mut(&peer).filter(|name| name.revision == revision)?;
        name.under_way = false;
        match addresses {
            Ok(addresses) => {
                name.found = true;
                let address = choose(&addresses, current, name.is_silent())?;
                tracing::info!("{} is at {address}", name.host);
                Some(Found { address, unsent: name.unsent.take() })
            }
            Err(error) => {
                if !std::mem::replace(&mut name.complained, true) {
                    tracing::warn!("{} cannot be looked up, and is tried again: {error}", name.host);
                }
                if !name.found {
                    self.due.set(peer, Some(name.not_before));
                }
                None
            }
        }
    }
}

impl Name {
    fn is_silent(&self) -> bool {
        self.unanswered >= SILENT_AFTER
    }
}

/// Which of a name's addresses to go to from `current`. A peer that answers is left where it is if it
/// may be there; one that does not is tried at each address in turn.
fn choose(addresses: &[SocketAddr], current: Option<SocketAddr>, silent: bool) -> Option<SocketAddr> {
    let place = current.and_then(|current| addresses.iter().position(|address| *address == current));
    match place {
        None => addresses.first().copied(),
        Some(place) if silent => {
            let next = addresses[(place + 1) % addresses.len()];
            (Some(next) != current).then_some(next)
        }
        Some(_) => None,
    }
}

#[cfg(test)]
#[path = "names_tests.rs"]
mod tests;
