//! The peer actor: the thread that owns the WireGuard protocol state.
//!
//! It feeds the sans-IO [`Protocol`] with handshake messages and events from the workers, requests from the
//! UAPI socket, and the time. It turns the protocol's outputs into messages to send, sessions for the
//! workers, and snapshots that the workers read. Data packets never wait for it.
//!
//! Timers: after each call about a peer, the protocol returns when it is next due for that peer. A peer
//! without sessions has no timer and costs nothing.

mod carry;
pub(crate) mod link;
mod outputs;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossbeam::channel::Receiver;
use tokio::sync::watch;

use self::link::LinkState;
use super::handle::{ActorRequest, InterfaceState, Listening};
use super::lookups::{LookupResult, Lookups};
use super::names::Names;
use super::reports::{Named, Reports};
use super::schedule::Schedule;
use super::snapshot_builder::BuilderState;
use crate::clock;
use crate::config::SpreadPorts;
use crate::lane::channels::{ActorChannel, CommandChannel, ControlMessage, HandshakeDatagram, PeerEvent};
use crate::lane::peers::{PeerRecord, Peers};
use crate::lane::ring::doorbell::{Awaited, Doorbell};
use crate::lane::wait::sleep::{Sleeper, Stopped};
use crate::metrics::ActorMetrics;
use crate::sys::{memory, wipe};
use crate::underlay::{Endpoint, MarkedSockets, SocketOptions};
use crate::units::{Nanos, PeerId};
use crate::wireguard::keys::Entropy;
use crate::wireguard::lanes::LaneHash;
use crate::wireguard::messages::DATA_OVERHEAD;
use crate::wireguard::outputs::Outputs;
use crate::wireguard::protocol::Protocol;

/// How long workers may take to let go of a snapshot, or of the sockets of the previous port. Each does so in its next
/// loop iteration, which may be delayed on a busy machine.
pub(super) const LETTING_GO: Duration = Duration::from_secs(1);

/// Maximum number of handshake messages taken from each queue, `priority` and `unverified`, before events and
/// timers are handled again. One message costs up to some hundred microseconds of elliptic curve arithmetic.
const HANDSHAKES_A_TURN: usize = 16;

/// Minimum interval between log lines about routing loops. A default route into the tunnel makes one for
/// every peer.
const LOOP_WARNINGS: Duration = Duration::from_secs(1);

/// Bytes of stack to wipe after each turn, more than a handshake uses. Frames of unoptimized code are larger.
const STACK: usize = if cfg!(debug_assertions) { 256 } else { 32 } * 1024;

/// The lane that sends messages that are not responses to a datagram of another lane.
const FIRST_LANE: usize = 0;

/// The state of the peer actor. See the [module](self).
pub(crate) struct PeerActor {
    /// The WireGuard protocol.
    pub(crate) protocol: Protocol,
    /// The snapshot that the workers read.
    pub(crate) peers: Arc<Peers>,
    /// State kept from one change of the snapshot to the next.
    pub(crate) builder_state: BuilderState,
    /// Channel of handshake messages and events from the workers.
    pub(crate) channel: Arc<ActorChannel>,
    /// Requests from the UAPI socket and from reloads.
    pub(crate) requests: Receiver<ActorRequest>,
    /// The command channel to each outside worker, by lane.
    pub(crate) commands: Vec<Arc<CommandChannel>>,
    /// The doorbell of each inside worker, rung when its staged packets may be sendable.
    pub(crate) inside_bells: Vec<Arc<Doorbell>>,
    /// The sockets' port, mark and options.
    pub(crate) listen: ListenState,
    /// Other sockets that carry the mark.
    pub(crate) marked: Arc<MarkedSockets>,
    /// Tells the admin thread of the sockets' port and mark.
    pub(crate) listening: watch::Sender<Listening>,
    pub(crate) spread_ports: SpreadPorts,
    /// Whether the interface is up, as the admin thread sees it.
    pub(crate) interface: Arc<InterfaceState>,
    /// Whether the interface is up, as far as this thread has acted on it.
    pub(crate) link: LinkState,
    /// Blocks the thread until there is work.
    pub(crate) sleeper: Sleeper,
    /// Source of randomness for keys.
    pub(crate) entropy: Box<dyn Entropy + Send>,
    /// The actor's counters.
    pub(crate) metrics: ActorMetrics,
    /// Whether the router has a private key, for other threads.
    pub(crate) has_key: Arc<AtomicBool>,
    /// What the log has said of the peers.
    pub(crate) reports: Reports,
    /// The protocol's timers.
    pub(crate) schedule: Schedule,
    /// Peers whose endpoints are host names.
    pub(crate) names: Names,
    /// The host name lookups in progress.
    pub(crate) lookups: Lookups,
    /// When to return free memory to the kernel.
    pub(crate) trim_at: Option<Nanos>,
    /// When a routing loop was last logged.
    pub(crate) loop_warning: Nanos,
    /// Scratch buffer for the protocol's outputs.
    pub(crate) outputs: Outputs,
}

/// The listen port, the lanes and the options of the UDP sockets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListenState {
    /// The UDP port of all lanes.
    pub port: u16,
    /// The lane that receives the data messages for an index.
    pub lanes: LaneHash,
    /// Socket options, with the current mark.
    pub options: SocketOptions,
    /// When the port was last changed.
    pub left: Option<Nanos>,
}

impl PeerActor {
    /// Runs until the router stops.
    pub(crate) fn run(&mut self) {
        loop {
            let worked = self.turn();
            if worked {
                // Handshakes and requests leave keys on the stack.
                wipe::stack::<STACK>();
                self.metrics.publish();
                if self.sleeper.stopped() {
                    return;
                }
            } else if self.sleep() == Err(Stopped) {
                return;
            }
        }
    }

    /// Runs the protocol's due timers for a peer and schedules the next, unless the interface is down.
    pub(crate) fn look_at(&mut self, peer: PeerId) {
        if self.link.is_down() {
            return;
        }
        let now = clock::now();
        let next = self.protocol.poll(now, clock::unix_now(), &mut *self.entropy, peer, &mut self.outputs);
        self.schedule.set(peer, next);
        self.carry_out(None);
    }

    /// Adapts to a changed network: host names are looked up again, and `peers`, whose routes have changed, get a
    /// keepalive, so that they follow to this router's new address.
    pub(crate) fn rerouted(&mut self, peers: &[PeerId]) {
        let now = clock::now();
        self.names.network_changed(peers, now);
        for peer in peers {
            self.send_keepalive(*peer);
            self.look_at(*peer);
        }
    }

    /// Seals and sends a keepalive, which is an empty data message.
    fn send_keepalive(&mut self, peer: PeerId) {
        let snapshot = self.peers.load_full();
        let Some(record) = snapshot.peer(peer) else { return };
        let (Some(session), Some(to)) = (record.sending.load_full(), record.endpoint()) else { return };
        let Some(counter) = session.reserve(1) else { return };
        let mut message = ControlMessage::from_iter([0; DATA_OVERHEAD]);
        session.seal_run(counter, &mut message, DATA_OVERHEAD);
        session.activity().sent_keepalive(clock::now());
        self.send(FIRST_LANE, message, to, Some(record));
    }

    /// Returns what the sockets use now.
    pub(super) fn listening(&self) -> Listening {
        let ListenState { port, options, .. } = self.listen;
        let lanes = if self.spread_ports.is_on() { self.commands.len() } else { 1 };
        Listening { port, last_port: port + (lanes - 1) as u16, mark: options.fwmark }
    }

    fn answer(&mut self, request: ActorRequest) {
        // The requester may be gone.
        match request {
            ActorRequest::Apply(update, answer) => drop(answer.send(self.apply(update))),
            ActorRequest::Status(answer) => drop(answer.send(self.status())),
            ActorRequest::Rerouted(peers) => self.rerouted(&peers),
            ActorRequest::Freeze(answer, thaw) => self.freeze(&answer, &thaw),
        }
    }

    // Not inlined, so that its frame is below that of `run`, which wipes it.
    #[inline(never)]
    pub(crate) fn turn(&mut self) -> bool {
        self.sleeper.beat();
        let mut worked = false;
        while let Ok(request) = self.requests.try_recv() {
            worked = true;
            self.answer(request);
        }
        while let Some(event) = self.channel.next_event() {
            worked = true;
            self.hear(event);
        }
        // After the events, of which one may be a packet that was read before the interface went down.
        worked |= self.follow_interface();
        for _ in 0..HANDSHAKES_A_TURN {
            let [priority, unverified] = [self.channel.next_priority(), self.channel.next_unverified()];
            if priority.is_none() && unverified.is_none() {
                break;
            }
            worked = true;
            for datagram in priority.iter().chain(&unverified) {
                self.receive(datagram);
            }
        }
        while let Some(answer) = self.lookups.next() {
            worked = true;
            self.take_answer(answer);
        }
        let now = clock::now();
        self.builder_state.forget(now);
        if self.trim_at.take_if(|at| *at <= now).is_some() {
            memory::trim();
        }
        while let Some(peer) = self.schedule.take_due(now) {
            worked = true;
            self.look_at(peer);
        }
        while self.lookups.has_room()
            && let Some(question) = self.names.take_due(now)
        {
            self.lookups.begin(question, self.listen.options.fwmark);
        }
        worked
    }

    /// Applies the result of a name lookup.
    fn take_answer(&mut self, answer: LookupResult) {
        let snapshot = self.peers.load_full();
        // A removed peer has no name either, so its answer can be ignored.
        let Some(record) = snapshot.peer(answer.question.peer) else { return };
        let before = record.endpoint();
        if let Some(found) = self.names.answered(answer, before.map(|endpoint| endpoint.address)) {
            record.move_from(before, Endpoint::new(found.address));
            self.interface.located.notify_one();
            if let (Some(message), Some(to)) = (found.unsent, record.endpoint()) {
                self.send(FIRST_LANE, message, to, Some(record));
            }
        }
    }

    pub(super) fn hear(&mut self, event: PeerEvent) {
        match event {
            // Heard once the interface is up.
            PeerEvent::WantsHandshake(_) if self.link.is_down() => self.interface.doubted.notify_one(),
            PeerEvent::WantsHandshake(peer) => {
                self.with_record(peer, |record| record.asked.store(false, Ordering::Release));
                self.protocol.data_waits(
                    clock::now(),
                    clock::unix_now(),
                    &mut *self.entropy,
                    peer,
                    &mut self.outputs,
                );
                self.carry_out(None);
                self.look_at(peer);
            }
            PeerEvent::Confirmed(session) => {
                self.protocol.confirmed(clock::unix_now(), &session, &mut self.outputs);
                self.settle(None);
            }
            PeerEvent::Moved(peer) => self.report(peer, |reports, name, record| {
                record.move_reported.store(false, Ordering::Release);
                if let Some(to) = record.endpoint() {
                    reports.moves(peer, name, to.address, clock::now());
                }
            }),
            PeerEvent::Loops(peer) => self.warn_of_loop(peer),
        }
    }

    /// Logs that datagrams to `peer` are routed back into the tunnel, at most once each [`LOOP_WARNINGS`].
    fn warn_of_loop(&mut self, peer: PeerId) {
        let now = clock::now();
        if now.since(self.loop_warning) < LOOP_WARNINGS {
            return;
        }
        let snapshot = self.peers.load();
        let Some(record) = snapshot.peer(peer) else { return };
        let Some(endpoint) = record.endpoint() else { return };
        self.loop_warning = now;
        tracing::warn!(
            "a routing loop: datagrams to the peer {} at {} are routed back into the tunnel and dropped; add \
             a route to {} outside the tunnel, or set a mark (FwMark, `wg set ... fwmark`) and a rule for it",
            record.public_key,
            endpoint.address,
            endpoint.address.ip(),
        );
    }

    pub(super) fn receive(&mut self, datagram: &HandshakeDatagram) {
        if self.link.is_down() {
            return self.hold(datagram);
        }
        self.protocol.handle_datagram(
            clock::now(),
            clock::unix_now(),
            &mut *self.entropy,
            datagram.from.address,
            &datagram.message,
            &mut self.outputs,
        );
        self.settle(Some(datagram));
    }

    /// Reports on a peer in the log.
    fn report(&mut self, peer: PeerId, report: impl FnOnce(&mut Reports, Named<'_>, &PeerRecord)) {
        if let Some(record) = self.peers.load().peer(peer) {
            let friendly = record.friendly_name.load_full();
            let name = friendly.as_deref().map(String::as_str).or_else(|| self.names.host(peer));
            let name = Named { key: record.public_key, name };
            report(&mut self.reports, name, record);
        }
    }

    fn report_silence(&mut self, peer: PeerId) {
        self.report(peer, |reports, name, record| {
            let to = record.endpoint().map(|to| to.address);
            reports.unanswered(peer, name, to, record.control_refusal());
        });
    }

    /// Wakes the inside workers that have staged packets, which have to be routed again.
    pub(super) fn reroute_inside(&self) {
        for bell in &self.inside_bells {
            bell.ring(Awaited::ROUTES);
        }
    }

    /// Wakes all workers, so that they let go of the previous snapshot and its peers, and then returns their memory to the
    /// kernel.
    pub(super) fn let_go(&mut self) {
        self.wake_inside();
        self.commands.iter().for_each(|commands| commands.wake());
        // Not later, if removals follow each other.
        self.trim_at.get_or_insert(clock::now().after(LETTING_GO));
    }

    /// Wakes the inside workers, so that they route their staged packets again.
    pub(super) fn wake_inside(&self) {
        for bell in &self.inside_bells {
            bell.ring(Awaited::WORK);
        }
    }

    fn with_record(&self, peer: PeerId, act: impl FnOnce(&PeerRecord)) {
        if let Some(record) = self.peers.load().peer(peer) {
            act(record);
        }
    }

    fn sleep(&self) -> Result<(), Stopped> {
        // Without room, a due name waits for an answer to another lookup, which wakes the actor.
        let name = self.names.next_due().filter(|_| self.lookups.has_room());
        let next = [self.schedule.next(), self.builder_state.next_due(), name, self.trim_at]
            .into_iter()
            .flatten()
            .min();
        let limit = next.map(|when| when.since(clock::now()));
        let nothing_new = || self.channel.is_empty() && self.requests.is_empty() && self.lookups.is_empty();
        self.sleeper.sleep(Awaited::WORK, None, limit, nothing_new)
    }
}

#[cfg(test)]
mod tests;
