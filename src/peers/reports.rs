//! What the log says of each peer: at `info` when it is reached, does not answer, moves and comes back, at `debug` each
//! handshake.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use nix::errno::Errno;

use crate::units::{Nanos, PeerId};
use crate::wireguard::keys::PublicKey;
use crate::wireguard::session::Role;

/// Unanswered handshakes after which a peer is reported. They are 5 s apart (whitepaper, section 6.4).
const SILENT_AFTER: u32 = 5;

/// Factor between the numbers of unanswered handshakes at which a silent peer is reported, and the largest interval:
/// about an hour.
const RARER: u32 = 4;
const RAREST: u32 = 720;

/// Shortest interval between two reports that a peer has moved. Others are at `debug`: a peer behind two paths may move
/// with each packet.
const MOVES: Duration = Duration::from_secs(10);

/// A peer, as the log names it: by its public key, and by its friendly name or its endpoint's host name if it has one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named<'a> {
    pub(super) key: PublicKey,
    pub(super) name: Option<&'a str>,
}

impl fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name {
            Some(name) => write!(f, "{} ({name})", self.key),
            None => self.key.fmt(f),
        }
    }
}

/// What was reported of the peers.
#[derive(Debug, Default)]
pub(crate) struct Reports(HashMap<PeerId, PeerReport>);

#[derive(Debug, Default)]
struct PeerReport {
    /// The address at the latest report.
    at: Option<SocketAddr>,
    /// When a move was last reported.
    moved: Option<Nanos>,
    /// Whether the peer has completed a handshake since it was last reported to be silent.
    reached: bool,
    /// Whether the peer was reported to be silent since it last completed a handshake.
    silent: bool,
    /// Initiations since the last handshake that completed.
    unanswered: u32,
    /// How many the latest report said.
    reported: u32,
}

impl Reports {
    /// Forgets a removed peer.
    pub(super) fn forget(&mut self, peer: PeerId) {
        self.0.remove(&peer);
    }

    /// Reports that an initiation is sent.
    pub(super) fn initiates(&mut self, peer: PeerId, name: Named<'_>, to: Option<SocketAddr>) {
        let report = self.0.entry(peer).or_default();
        report.unanswered = report.unanswered.saturating_add(1);
        if let Some(to) = to {
            tracing::debug!("handshake {} with {name} at {to}", report.unanswered);
        } else {
            tracing::debug!("{name} has no endpoint to send a handshake to");
        }
    }

    /// Reports that an initiation was not answered in time. `refusal` is the kernel's error when the latest was sent.
    pub(super) fn unanswered(
        &mut self,
        peer: PeerId,
        name: Named<'_>,
        to: Option<SocketAddr>,
        refusal: Option<Errno>,
    ) {
        let (Some(report), Some(to)) = (self.0.get_mut(&peer), to) else { return };
        let tries = report.unanswered;
        // The kernel's refusal is certain, silence is not.
        let first = if refusal.is_some() { 1 } else { SILENT_AFTER };
        let next = report.reported.saturating_mul(RARER).min(report.reported.saturating_add(RAREST));
        if tries < next.max(first) {
            return;
        }
        (report.reported, report.silent) = (tries, true);
        if let Some(errno) = refusal {
            tracing::warn!("{name} at {to} cannot be sent to: {}", in_words(errno));
        } else {
            tracing::warn!("no answer from {name} at {to}, {tries} handshakes");
        }
    }

    /// Reports that a handshake has completed.
    pub(super) fn completed(&mut self, peer: PeerId, name: Named<'_>, at: Option<SocketAddr>, role: Role) {
        let report = self.0.entry(peer).or_default();
        let at_text = at.map(|at| format!(" at {at}")).unwrap_or_default();
        let first = match role {
            Role::Initiator => "this end",
            Role::Responder => "the peer",
        };
        tracing::debug!("handshake with {name}{at_text} is complete; {first} began it");
        if report.silent {
            tracing::info!("{name} is back{at_text} after {} handshakes", report.unanswered);
        } else if !report.reached {
            tracing::info!("{name} is reached{at_text}");
        }
        *report = PeerReport { at, reached: true, moved: report.moved, ..PeerReport::default() };
    }

    /// Reports that a peer sends from another address.
    pub(super) fn moves(&mut self, peer: PeerId, name: Named<'_>, to: SocketAddr, now: Nanos) {
        let report = self.0.entry(peer).or_default();
        let Some(from) = report.at.replace(to).filter(|from| *from != to) else { return };
        if report.moved.is_some_and(|moved| now.since(moved) < MOVES) {
            tracing::debug!("{name} has moved from {from} to {to}");
        } else {
            report.moved = Some(now);
            tracing::info!("{name} has moved from {from} to {to}");
        }
    }
}

/// Names the errors that a user is likely to see.
fn in_words(errno: Errno) -> String {
    let word = match errno {
        Errno::ENETUNREACH => "no route",
        Errno::EHOSTUNREACH => "no route to the host",
        Errno::EACCES | Errno::EPERM => "a packet filter or a rule prohibits it",
        Errno::EAFNOSUPPORT => "the sockets have no IPv6",
        _ => errno.desc(),
    };
    format!("{word} ({errno:?})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_peer_is_reported_once_and_then_rarely() {
        let name = Named { key: PublicKey::from_bytes([7; 32]), name: None };
        let (peer, to) = (PeerId(0), "192.0.2.1:51820".parse().ok());
        let mut reports = Reports::default();
        let mut reported = Vec::new();
        for tries in 1..=3000 {
            reports.initiates(peer, name, to);
            reports.unanswered(peer, name, to, None);
            let report = &reports.0[&peer];
            if reported.last() != Some(&report.reported) && report.reported == tries {
                reported.push(tries);
            }
        }
        assert_eq!(reported, [5, 20, 80, 320, 1040, 1760, 2480]);
        reports.completed(peer, name, to, Role::Initiator);
        let report = &reports.0[&peer];
        assert!(report.reached && !report.silent && report.unanswered == 0);
        reports.initiates(peer, name, to);
        reports.unanswered(peer, name, to, Some(Errno::ENETUNREACH));
        assert!(reports.0[&peer].silent, "it cannot be sent to");
    }
}
