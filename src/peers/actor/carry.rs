//! Stops the peer actor for a process that takes over, and starts it from the state of its predecessor.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crossbeam::channel::{Receiver, Sender};
use ipnet::IpNet;

use super::{HANDSHAKES_A_TURN, PeerActor};
use crate::clock;
use crate::lane::peers::PeerRecord;
use crate::peers::snapshot_builder::SnapshotBuilder;
use crate::peers::state::{ActorState, RecordState, Thaw};
use crate::sys::wipe;
use crate::underlay::{Endpoint, LocalSource};
use crate::units::PeerId;
use crate::wireguard::state::Contradiction;

/// Bytes of stack that encoding and decoding keys may use.
const STACK: usize = 64 * 1024;

impl PeerActor {
    /// Finishes what the workers have passed on, except a flood of handshake messages, answers with the state, and waits
    /// for `thaw`. The workers must be quiet. Whoever waits for the answer may drop `thaw` only if the router ends or the
    /// sessions are not to be used.
    pub(super) fn freeze(&mut self, answer: &Sender<ActorState>, thaw: &Receiver<Thaw>) {
        while let Some(event) = self.channel.next_event() {
            self.hear(event);
        }
        // Not all of a flood, each of whose messages may cost key agreements while the workers are paused. Those left are
        // handled if the actor goes on. Otherwise their senders try again.
        for _ in 0..HANDSHAKES_A_TURN {
            let [priority, unverified] = [self.channel.next_priority(), self.channel.next_unverified()];
            for datagram in priority.iter().chain(&unverified) {
                self.receive(datagram);
            }
        }
        self.metrics.publish();
        // The requester may be gone.
        let _ = answer.send(self.export());
        wipe::stack::<STACK>();
        match thaw.recv() {
            Ok(Thaw::GoOn) => {}
            Ok(Thaw::Forget) | Err(_) => self.forget_sessions(),
        }
    }

    fn export(&self) -> ActorState {
        let snapshot = self.peers.load();
        let mut allowed_ips: Vec<Vec<IpNet>> = vec![Vec::new(); snapshot.peers.len()];
        for (net, owner) in snapshot.routes.iter() {
            allowed_ips[owner.id.slot()].push(net);
        }
        let records = snapshot.peers.iter().flatten();
        ActorState {
            fwmark: self.listen.options.fwmark,
            protocol: self.protocol.export(),
            records: records
                .map(|record| record.export(mem::take(&mut allowed_ips[record.id.slot()])))
                .collect(),
        }
    }

    /// Continues from `state`, in a router that has not started. `reserve` counters of each session are not sent.
    /// Returns each peer's id in the exporting process and here.
    ///
    /// # Errors
    /// See [`Contradiction`]. The actor is then of no use.
    pub(crate) fn import(
        &mut self,
        state: ActorState,
        reserve: u64,
    ) -> Result<Vec<(PeerId, PeerId)>, Contradiction> {
        let ActorState { fwmark, protocol, records } = state;
        self.listen.options.fwmark = fwmark;
        self.marked.set(fwmark);
        let listening = self.listening();
        self.listening.send_replace(listening);
        let imported = self.protocol.import(protocol, reserve)?;
        if imported.len() != records.len() {
            return Err(Contradiction);
        }
        self.has_key.store(self.protocol.private_key().is_some(), Ordering::Relaxed);
        let mut ids = Vec::with_capacity(records.len());
        let mut builder = SnapshotBuilder::of(self.peers.load_full(), mem::take(&mut self.builder_state));
        let now = clock::now();
        for (peer, state) in imported.into_iter().zip(records) {
            ids.push((PeerId(state.id), peer.id));
            let spreads = self.spread_ports.includes(&peer.public_key);
            builder.add_peer(PeerRecord::new(peer.id, peer.public_key, spreads));
            let record = Arc::clone(builder.peer(peer.id).expect("just added"));
            record.restore(&state);
            record.sending.store(peer.sending);
            for net in state.allowed_ips {
                builder.allow(net, &record);
            }
            // Finds out itself when it is next due.
            self.schedule.set(peer.id, Some(now));
        }
        self.builder_state = builder.publish(&self.peers, now);
        wipe::stack::<STACK>();
        Ok(ids)
    }

    /// Drops all sessions. Data or a timer starts the next handshake, unless the router stops: its peers are those of
    /// another process then, so nothing more is sent to them.
    fn forget_sessions(&mut self) {
        self.protocol.interface_down();
        let next = (!self.sleeper.stopped()).then(clock::now);
        let snapshot = self.peers.load_full();
        for record in snapshot.peers.iter().flatten() {
            record.sending.store(None);
            self.schedule.set(record.id, next);
        }
        self.wake_inside();
    }
}

impl PeerRecord {
    fn export(&self, allowed_ips: Vec<IpNet>) -> RecordState {
        RecordState {
            id: self.id.0,
            endpoint: self.endpoint().map(|endpoint| {
                (endpoint.address, endpoint.source.map(|source| (source.ip, source.ifindex)))
            }),
            moved: self.moved(),
            avoided: self.avoided.load(Ordering::Relaxed),
            path_limit: self.path_limit.word(),
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
            received_bytes: self.received_bytes.load(Ordering::Relaxed),
            friendly_name: self.friendly_name.load_full().map(|name| name.to_string()),
            last_handshake: self.last_handshake.load(Ordering::Relaxed),
            failed_handshakes: self.failed_handshakes.load(Ordering::Relaxed),
            allowed_ips,
        }
    }

    fn restore(&self, state: &RecordState) {
        if let Some((address, source)) = state.endpoint {
            let source = source.map(|(ip, ifindex)| LocalSource { ip, ifindex });
            self.roam(Endpoint { address, source }, state.moved);
        }
        // After the endpoint, which forgets what was known of the path before.
        self.avoided.store(state.avoided, Ordering::Relaxed);
        self.path_limit.set_word(state.path_limit);
        self.sent_bytes.store(state.sent_bytes, Ordering::Relaxed);
        self.received_bytes.store(state.received_bytes, Ordering::Relaxed);
        self.friendly_name.store(state.friendly_name.clone().map(Arc::new));
        self.last_handshake.store(state.last_handshake, Ordering::Relaxed);
        self.failed_handshakes.store(state.failed_handshakes, Ordering::Release);
    }
}
