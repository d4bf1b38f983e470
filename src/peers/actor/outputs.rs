//! Carries out what the protocol decided: sends handshake messages, publishes sessions, and asks workers for
//! keepalives.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;

use super::{FIRST_LANE, PeerActor};
use crate::clock;
use crate::drops::DropReason;
use crate::lane::channels::{ControlMessage, HandshakeDatagram, PeerEvent};
use crate::lane::peers::PeerRecord;
use crate::metrics::Dropped;
use crate::underlay::Endpoint;
use crate::units::PeerId;
use crate::wireguard::outputs::{MAX_OUTPUTS, Output, SendTo};
use crate::wireguard::session::Role;

impl PeerActor {
    /// Carries out the protocol's outputs and runs the timers of the peers concerned.
    pub(super) fn settle(&mut self, cause: Option<&HandshakeDatagram>) {
        for peer in self.carry_out(cause) {
            self.look_at(peer);
        }
    }

    /// Carries out the protocol's outputs. `cause` is the datagram that led to them, if any. Returns the
    /// peers concerned.
    pub(super) fn carry_out(&mut self, cause: Option<&HandshakeDatagram>) -> ArrayVec<PeerId, MAX_OUTPUTS> {
        let mut concerned = ArrayVec::new();
        let mut outputs = std::mem::take(&mut self.outputs);
        for output in outputs.drain() {
            concerned.extend(self.act(output, cause));
        }
        self.outputs = outputs;
        concerned
    }

    /// Carries out one output. Returns the peer concerned, if any.
    pub(super) fn act(&mut self, output: Output, cause: Option<&HandshakeDatagram>) -> Option<PeerId> {
        match output {
            Output::Send { to, datagram, peer } => {
                self.send_handshake(to, datagram, peer, cause);
                peer
            }
            Output::SendKeepalive { peer } => {
                self.send_keepalive(peer);
                Some(peer)
            }
            Output::Use { peer, session } => {
                self.with_record(peer, |record| record.sending.store(Some(session)));
                self.wake_inside();
                Some(peer)
            }
            Output::Stop { peer } => {
                self.with_record(peer, |record| record.stop_if_expired(clock::now()));
                Some(peer)
            }
            Output::Unanswered { peer } => {
                self.report_silence(peer);
                // The peer may be unreachable from the source address.
                self.with_record(peer, PeerRecord::drop_source);
                Some(peer)
            }
            Output::Initiated { peer } | Output::Roamed { peer } => {
                let cause = cause.expect("only a received datagram is authenticated");
                let moves = matches!(output, Output::Roamed { .. });
                self.with_record(peer, |record| {
                    if moves || record.endpoint().is_none() || record.is_above(cause.from) {
                        record.roam(cause.from, cause.at);
                    }
                    record.received_bytes.fetch_add(cause.message.len() as u64, Ordering::Relaxed);
                });
                self.hear(PeerEvent::Moved(peer));
                Some(peer)
            }
            Output::HandshakeFailed { peer } => {
                self.report_silence(peer);
                self.metrics.given_up.add(1);
                self.with_record(peer, |record| {
                    record.failed_handshakes.fetch_add(1, Ordering::AcqRel);
                });
                self.wake_inside();
                Some(peer)
            }
            Output::HandshakeDone { peer, role, unix } => {
                self.names.heard(peer);
                self.report(peer, |reports, name, record| {
                    reports.completed(peer, name, record.endpoint().map(|to| to.address), role);
                });
                self.with_record(peer, |record| {
                    record.last_handshake.store(unix.as_secs(), Ordering::Relaxed);
                });
                match role {
                    Role::Initiator => self.metrics.initiated.add(1),
                    Role::Responder => self.metrics.responded.add(1),
                }
                Some(peer)
            }
            Output::MessageDropped { reason } => {
                self.metrics.messages_dropped.add(reason as usize, 1);
                None
            }
        }
    }

    pub(super) fn send_handshake(
        &mut self,
        to: SendTo,
        datagram: ControlMessage,
        peer: Option<PeerId>,
        cause: Option<&HandshakeDatagram>,
    ) {
        let snapshot = self.peers.load_full();
        let record = peer.and_then(|peer| snapshot.peer(peer));
        let to = match to {
            SendTo::Source => {
                cause.map(|datagram| record.map_or(datagram.from, |record| record.usable(datagram.from)))
            }
            SendTo::Endpoint(peer) => {
                self.names.initiated(peer, clock::now());
                let endpoint = snapshot.peer(peer).and_then(|record| record.endpoint());
                self.report(peer, |reports, name, _| {
                    reports.initiates(peer, name, endpoint.map(|to| to.address));
                });
                if endpoint.is_none() {
                    self.names.keep_unsent(peer, datagram.clone());
                }
                endpoint
            }
        };
        if let Some(record) = record {
            record.loop_watch.note_sent(&datagram);
        }
        if let Some(to) = to {
            self.send(cause.map_or(FIRST_LANE, |datagram| datagram.lane), datagram, to, record);
        }
    }

    pub(super) fn send(
        &mut self,
        lane: usize,
        message: ControlMessage,
        to: Endpoint,
        record: Option<&Arc<PeerRecord>>,
    ) {
        if self.link.is_down() {
            return;
        }
        let len = message.len();
        if !self.commands[lane].send(message, to, record.map(|record| record.id)) {
            self.metrics.outbound_drops.add_described(DropReason::ControlQueueFull, 1, || {
                Dropped::datagram_to(to.address, len).with_peer(record.map(|record| record.public_key))
            });
        }
    }
}
