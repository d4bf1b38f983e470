//! The peer actor: the one thread that owns the WireGuard protocol.
//!
//! It turns what happens (handshake messages from the outside workers, their events, requests from
//! the control socket, time) into calls of the sans-IO [`Protocol`], and what that answers into
//! messages to send, sessions for the workers to use and snapshots for them to read. No data packet
//! ever waits for it.
//!
//! Timers: after each call about a peer the protocol says when it wants to be asked again. A peer
//! without sessions has no such moment and costs nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arrayvec::ArrayVec;
use crossbeam::channel::Receiver;
use nix::errno::Errno;

use super::config::SpreadPorts;
use super::config::update::{DeviceStatus, DeviceUpdate};
use super::device::{self, Bound, Request};
use super::draft::Memory;
use super::lookups::{Answer, Lookups};
use super::names::Names;
use super::schedule::Schedule;
use crate::drops::DropReason;
use crate::lane::doorbell::{Awaited, Doorbell};
use crate::lane::mailbox::{CommandBox, ControlMessage, HandshakeDatagram, PeerEvent, PeerInbox};
use crate::lane::peers::{PeerRecord, Peers};
use crate::lane::sleep::{Sleeper, Stopped};
use crate::lane::telemetry::PeerTelemetry;
use crate::sys::clock;
use crate::underlay::Endpoint;
use crate::units::{Nanos, PeerId};
use crate::wireguard::keys::OsEntropy;
use crate::wireguard::messages::DATA_OVERHEAD;
use crate::wireguard::outputs::{MAX_OUTPUTS, Output, Outputs, SendTo};
use crate::wireguard::protocol::Protocol;
use crate::wireguard::session::Role;

/// Handshake messages of strangers, and of others, that are worked on before events and timers get their
/// turn again. One costs up to some hundred microseconds of elliptic curves.
const HANDSHAKES_A_TURN: usize = 16;

/// How long there is no further line in the log about routing loops. With a default route that leads into the
/// tunnel all peers have one.
const LOOP_WARNINGS: Duration = Duration::from_secs(1);

/// The lane that sends what no lane asked for.
const FIRST_LANE: usize = 0;

/// What the peer actor is made of. See the [module](self).
pub(super) struct PeerActor {
    /// The protocol.
    pub(super) protocol: Protocol,
    /// What the workers read.
    pub(super) peers: Arc<Peers>,
    /// What the next change of that needs to know of the last.
    pub(super) memory: Memory,
    /// What workers send up.
    pub(super) inbox: Arc<PeerInbox>,
    /// What the control socket and the supervisor ask.
    pub(super) requests: Receiver<Request>,
    /// How each outside worker is told what to send.
    pub(super) commands: Vec<Arc<CommandBox>>,
    /// How each inside worker is told that a session is there.
    pub(super) inside_bells: Vec<Arc<Doorbell>>,
    /// The sockets' port and mark, and how to bind anew.
    pub(super) bound: Bound,
    pub(super) spread_ports: SpreadPorts,
    /// How it sleeps.
    pub(super) sleeper: Sleeper,
    /// Where keys come from.
    pub(super) entropy: OsEntropy,
    /// Its counters.
    pub(super) telemetry: PeerTelemetry,
    /// What it watches the clock for.
    pub(super) schedule: Schedule,
    /// Peers whose endpoints are host names.
    pub(super) names: Names,
    /// The names that are being looked up.
    pub(super) lookups: Lookups,
    /// When the log last spoke of a routing loop.
    pub(super) loop_warning: Nanos,
    /// Scratch: what the protocol answered.
    pub(super) outputs: Outputs,
}

impl PeerActor {
    /// Acts until the router stops.
    pub(super) fn run(&mut self) {
        loop {
            let worked = self.turn();
            if worked {
                self.telemetry.publish();
                if self.sleeper.stopped() {
                    return;
                }
            } else if self.sleep() == Err(Stopped) {
                return;
            }
        }
    }

    /// Brings the protocol and the snapshot in line with `update`.
    ///
    /// # Errors
    /// What the control socket answers. What came before the mistake has been done, as with every
    /// WireGuard.
    pub(super) fn apply(&mut self, update: DeviceUpdate) -> Result<(), Errno> {
        device::apply(self, update)
    }

    /// The state that `get=1` shows.
    pub(super) fn status(&self) -> DeviceStatus {
        device::status(self)
    }

    /// Lets the protocol do what is due for a peer, and notes when it wants to be asked again.
    pub(super) fn look_at(&mut self, peer: PeerId) {
        let now = clock::now();
        let next = self.protocol.poll(now, unix_now(), &mut self.entropy, peer, &mut self.outputs);
        self.schedule.set(peer, next);
        self.carry_out(None);
    }

    /// Seals and sends an empty data message.
    fn send_keepalive(&mut self, peer: PeerId) {
        let snapshot = self.peers.load_full();
        let Some(record) = snapshot.peer(peer) else { return };
        let (Some(session), Some(to)) = (record.sending.load_full(), record.endpoint.load()) else { return };
        let Some(counter) = session.reserve(1) else { return };
        let mut message = ControlMessage::from_iter([0; DATA_OVERHEAD]);
        session.seal_run(counter, &mut message, DATA_OVERHEAD);
        session.activity().sent_keepalive(clock::now());
        self.send(FIRST_LANE, message, to, Some(record));
    }

    fn turn(&mut self) -> bool {
        self.sleeper.beat();
        let mut worked = false;
        while let Ok(request) = self.requests.try_recv() {
            worked = true;
            device::answer(self, request);
        }
        while let Some(event) = self.inbox.next_event() {
            worked = true;
            self.hear(event);
        }
        for _ in 0..HANDSHAKES_A_TURN {
            let [acquaintance, stranger] = [self.inbox.next_acquaintance(), self.inbox.next_stranger()];
            if acquaintance.is_none() && stranger.is_none() {
                break;
            }
            worked = true;
            for datagram in acquaintance.iter().chain(&stranger) {
                self.receive(datagram);
            }
        }
        while let Some(answer) = self.lookups.next() {
            worked = true;
            self.take_answer(answer);
        }
        let now = clock::now();
        self.memory.forget(now);
        while let Some(peer) = self.schedule.take_due(now) {
            worked = true;
            self.look_at(peer);
        }
        while self.lookups.has_room()
            && let Some(question) = self.names.take_due(now)
        {
            self.lookups.begin(question);
        }
        worked
    }

    /// A name has been looked up.
    fn take_answer(&mut self, answer: Answer) {
        let snapshot = self.peers.load_full();
        // A peer that is gone has no name any more either, and the answer is not looked at.
        let Some(record) = snapshot.peer(answer.question.peer) else { return };
        let current = record.endpoint.load().map(|endpoint| endpoint.address);
        if let Some(found) = self.names.answered(answer, current) {
            let to = Endpoint::new(found.address);
            record.move_to(to);
            if let Some(message) = found.unsent {
                self.send(FIRST_LANE, message, to, Some(record));
            }
        }
    }

    fn hear(&mut self, event: PeerEvent) {
        match event {
            PeerEvent::WantsHandshake(peer) => {
                self.with_record(peer, |record| record.asked.store(false, Ordering::Release));
                self.protocol.data_waits(
                    clock::now(),
                    unix_now(),
                    &mut self.entropy,
                    peer,
                    &mut self.outputs,
                );
                self.carry_out(None);
                self.look_at(peer);
            }
            PeerEvent::Confirmed(local_index) => {
                self.protocol.confirmed(unix_now(), local_index, &mut self.outputs);
                self.settle(None);
            }
            PeerEvent::Loops(peer) => self.warn_of_loop(peer),
        }
    }

    /// Says that what is sent to `peer` comes back, unless that was said of another just before.
    fn warn_of_loop(&mut self, peer: PeerId) {
        let now = clock::now();
        if now.since(self.loop_warning) < LOOP_WARNINGS {
            return;
        }
        let snapshot = self.peers.load();
        let Some(record) = snapshot.peer(peer) else { return };
        let Some(endpoint) = record.endpoint.load() else { return };
        self.loop_warning = now;
        tracing::warn!(
            "a routing loop: what is sent to the peer {} at {} is led into the tunnel again, and dropped; lead it \
             outside by a route to {}, or by a mark (FwMark, `wg set ... fwmark`) and a rule for it",
            record.public_key,
            endpoint.address,
            endpoint.address.ip(),
        );
    }

    fn receive(&mut self, datagram: &HandshakeDatagram) {
        self.protocol.handle_datagram(
            clock::now(),
            unix_now(),
            &mut self.entropy,
            datagram.from.address,
            &datagram.message,
            &mut self.outputs,
        );
        self.settle(Some(datagram));
    }

    /// Carries out what the protocol answered, and looks at the timers of those it is about.
    fn settle(&mut self, cause: Option<&HandshakeDatagram>) {
        for peer in self.carry_out(cause) {
            self.look_at(peer);
        }
    }

    /// Does what the protocol answered; the peers it is about. `cause` is the datagram it answered
    /// to, if one.
    fn carry_out(&mut self, cause: Option<&HandshakeDatagram>) -> ArrayVec<PeerId, MAX_OUTPUTS> {
        let mut concerned = ArrayVec::new();
        let mut outputs = std::mem::take(&mut self.outputs);
        for output in outputs.drain() {
            concerned.extend(self.act(output, cause));
        }
        self.outputs = outputs;
        concerned
    }

    /// Does one thing; the peer it is about, if one.
    fn act(&mut self, output: Output, cause: Option<&HandshakeDatagram>) -> Option<PeerId> {
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
                self.with_record(peer, |record| record.sending.store(None));
                Some(peer)
            }
            Output::Roamed { peer } => {
                let cause = cause.expect("only a received message shows where a peer is");
                self.with_record(peer, |record| {
                    record.move_to(cause.from);
                    record.received_bytes.fetch_add(cause.message.len() as u64, Ordering::Relaxed);
                });
                Some(peer)
            }
            Output::HandshakeFailed { peer } => {
                self.telemetry.given_up.add(1);
                self.with_record(peer, |record| {
                    record.failed_handshakes.fetch_add(1, Ordering::AcqRel);
                });
                self.wake_inside();
                Some(peer)
            }
            Output::HandshakeDone { peer, role, unix } => {
                self.names.heard(peer);
                self.with_record(peer, |record| {
                    record.last_handshake.store(unix.as_secs(), Ordering::Relaxed);
                });
                match role {
                    Role::Initiator => self.telemetry.initiated.add(1),
                    Role::Responder => self.telemetry.responded.add(1),
                }
                Some(peer)
            }
            Output::MessageDropped { reason } => {
                self.telemetry.messages_dropped.add(reason as usize, 1);
                None
            }
        }
    }

    /// Inside workers look at what they have staged.
    fn wake_inside(&self) {
        for bell in &self.inside_bells {
            bell.ring(Awaited::WORK);
        }
    }

    fn with_record(&self, peer: PeerId, act: impl FnOnce(&PeerRecord)) {
        if let Some(record) = self.peers.load().peer(peer) {
            act(record);
        }
    }

    fn send_handshake(
        &mut self,
        to: SendTo,
        datagram: ControlMessage,
        peer: Option<PeerId>,
        cause: Option<&HandshakeDatagram>,
    ) {
        let snapshot = self.peers.load_full();
        let record = peer.and_then(|peer| snapshot.peer(peer));
        let to = match to {
            SendTo::Source => cause.map(|datagram| datagram.from),
            SendTo::Endpoint(peer) => {
                self.names.initiated(peer, clock::now());
                let endpoint = snapshot.peer(peer).and_then(|record| record.endpoint.load());
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

    fn send(&mut self, lane: usize, message: ControlMessage, to: Endpoint, record: Option<&Arc<PeerRecord>>) {
        if let Some(record) = record {
            record.sent_bytes.fetch_add(message.len() as u64, Ordering::Relaxed);
        }
        if !self.commands[lane].send(message, to) {
            self.telemetry.outbound_drops.add(DropReason::ControlQueueFull, 1);
        }
    }

    fn sleep(&self) -> Result<(), Stopped> {
        // A name that has to wait for another one's answer is begun with that.
        let name = self.names.next_due().filter(|_| self.lookups.has_room());
        let next = [self.schedule.next(), self.memory.next_due(), name].into_iter().flatten().min();
        let limit = next.map(|when| when.since(clock::now()));
        let nothing_new = || self.inbox.is_empty() && self.requests.is_empty() && self.lookups.is_empty();
        self.sleeper.sleep(Awaited::WORK, None, limit, nothing_new)
    }
}

/// The wall clock, for the time stamps of handshakes.
pub(super) fn unix_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
#[path = "actor_tests.rs"]
mod tests;
