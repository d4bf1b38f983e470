//! Endpoints that are host names: when each name is looked up, and how its addresses are used.
//!
//! A name is looked up when it is configured, repeatedly while it has no address, and again when its peer
//! leaves handshakes unanswered, because the name may have a new address. The interval between lookups
//! doubles up to [`LONGEST_WAIT`], or [`LONGEST_UNKNOWN`] for a name that has had no address yet.
//!
//! This module has neither a clock nor a resolver: the peer actor passes in the time, and
//! [`lookups`](super::lookups) does the blocking work.
//!
//! A name without an address is not an error, neither at startup nor later: the name server may start after
//! the router, and the name may be registered later still.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::time::Duration;

use super::lookups::{LookupResult, Question};
use super::schedule::Schedule;
use crate::lane::channels::ControlMessage;
use crate::units::{Nanos, PeerId};

/// Interval between the first and the second lookup of a name.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// Longest interval between lookups of a name.
const LONGEST_WAIT: Duration = Duration::from_secs(64);

/// Longest interval between lookups of a name that has had no address yet: its peer cannot be reached otherwise.
const LONGEST_UNKNOWN: Duration = Duration::from_secs(8);

/// Shortest interval between lookups of a name because of changes of the network, which may come in storms.
const CHANGE_WAIT: Duration = Duration::from_secs(5);

/// Unanswered handshake initiations after which a peer counts as silent. Initiations are 5 s apart
/// (whitepaper, section 6.4).
const SILENT_AFTER: u32 = 2;

/// The host names of all peers that have one.
#[derive(Debug, Default)]
pub(crate) struct Names {
    by_peer: HashMap<PeerId, WatchedName>,
    due: Schedule,
    /// Number of names set so far. Identifies answers to lookups of names that have since been replaced.
    revision: u64,
}

#[derive(Debug)]
struct WatchedName {
    host: String,
    port: u16,
    revision: u64,
    under_way: bool,
    /// Whether a lookup has ever succeeded.
    found: bool,
    /// Whether a failed lookup has been logged.
    complained: bool,
    /// When the latest lookup began.
    asked: Nanos,
    /// Earliest time of the next lookup.
    not_before: Nanos,
    /// Interval between the next lookup and the one after it.
    wait: Duration,
    /// Handshake initiations since the peer last completed a handshake.
    unanswered: u32,
    /// The latest initiation, if it could not be sent because the peer had no address.
    unsent: Option<ControlMessage>,
}

/// A peer's new address.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The address to send to.
    pub(crate) address: SocketAddr,
    /// A handshake message that waits for an address, to be sent now.
    pub(crate) unsent: Option<ControlMessage>,
}

impl Names {
    /// Sets the peer's endpoint to `host`, which becomes due for lookup at `now` even if it is unchanged.
    pub(crate) fn set(&mut self, peer: PeerId, host: String, port: u16, now: Nanos) {
        self.revision += 1;
        let name = WatchedName {
            host,
            port,
            revision: self.revision,
            under_way: false,
            found: false,
            complained: false,
            asked: Nanos::NEVER,
            not_before: now,
            wait: FIRST_WAIT,
            unanswered: 0,
            unsent: None,
        };
        self.by_peer.insert(peer, name);
        self.due.set(peer, Some(now));
    }

    /// Removes the name of a peer that was removed or given an address.
    pub(crate) fn forget(&mut self, peer: PeerId) {
        if self.by_peer.remove(&peer).is_some() {
            self.due.set(peer, None);
        }
    }

    /// Notes that a handshake initiation is sent to the peer, the first or a retry.
    pub(crate) fn initiated(&mut self, peer: PeerId, now: Nanos) {
        let Some(name) = self.by_peer.get_mut(&peer) else { return };
        name.unanswered = name.unanswered.saturating_add(1);
        if name.is_silent() && !name.under_way {
            self.due.set(peer, Some(name.not_before.max(now)));
        }
    }

    /// Returns the host name of the peer's endpoint, if it has one.
    pub(super) fn host(&self, peer: PeerId) -> Option<&str> {
        self.by_peer.get(&peer).map(|name| name.host.as_str())
    }

    /// Makes names due again after a change of the network: those without an address, and those of `rerouted`
    /// peers. Each is looked up at most every [`CHANGE_WAIT`].
    pub(crate) fn network_changed(&mut self, rerouted: &[PeerId], now: Nanos) {
        let rerouted: HashSet<_> = rerouted.iter().copied().collect();
        for (peer, name) in &mut self.by_peer {
            if name.under_way || (name.found && !rerouted.contains(peer)) {
                continue;
            }
            name.wait = FIRST_WAIT;
            let due = if name.asked == Nanos::NEVER { now } else { now.max(name.asked.after(CHANGE_WAIT)) };
            self.due.set(*peer, Some(due));
        }
    }

    /// Keeps `message` until the peer has an address. Drops it if the peer has no name to look up.
    pub(crate) fn keep_unsent(&mut self, peer: PeerId, message: ControlMessage) {
        if let Some(name) = self.by_peer.get_mut(&peer) {
            name.unsent = Some(message);
        }
    }

    /// Notes a completed handshake: the peer's current address works.
    pub(crate) fn heard(&mut self, peer: PeerId) {
        let Some(name) = self.by_peer.get_mut(&peer) else { return };
        name.unanswered = 0;
        name.unsent = None;
        if name.found {
            name.wait = FIRST_WAIT;
            self.due.set(peer, None);
        }
    }

    /// Returns when the next lookup is due.
    pub(crate) fn next_due(&self) -> Option<Nanos> {
        self.due.next()
    }

    /// Takes the next name that is due for lookup at `now`.
    pub(crate) fn take_due(&mut self, now: Nanos) -> Option<Question> {
        let peer = self.due.take_due(now)?;
        let name = self.by_peer.get_mut(&peer).expect("a peer that is due has a name");
        name.under_way = true;
        name.asked = now;
        name.not_before = now.after(name.wait);
        name.wait = (name.wait * 2).min(if name.found { LONGEST_WAIT } else { LONGEST_UNKNOWN });
        Some(Question { peer, revision: name.revision, host: name.host.clone(), port: name.port })
    }

    /// Applies the result of a lookup. Returns the peer's new address if it differs from `current`, the one
    /// in use. Ignores answers about names that were replaced or removed.
    pub(crate) fn answered(&mut self, answer: LookupResult, current: Option<SocketAddr>) -> Option<Found> {
        let LookupResult { question: Question { peer, revision, .. }, addresses } = answer;
        let name = self.by_peer.get_mut(&peer).filter(|name| name.revision == revision)?;
        name.under_way = false;
        match addresses {
            Ok(addresses) => {
                name.found = true;
                let address = choose(&addresses, current, name.is_silent())?;
                tracing::info!("{} resolved to {address}", name.host);
                Some(Found { address, unsent: name.unsent.take() })
            }
            Err(error) => {
                if !std::mem::replace(&mut name.complained, true) {
                    tracing::warn!("cannot resolve {}, will retry: {error}", name.host);
                }
                if !name.found {
                    self.due.set(peer, Some(name.not_before));
                }
                None
            }
        }
    }
}

impl WatchedName {
    fn is_silent(&self) -> bool {
        self.unanswered >= SILENT_AFTER
    }
}

/// Chooses which of a name's addresses replaces `current`; `None` keeps it. A peer that answers keeps its
/// address as long as the name still has it. A silent peer is tried at each address in turn.
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
mod tests;
