//! What the peer actor does while the interface is down. As in the kernel (`wg_stop` and `wg_open` in
//! `drivers/net/wireguard/device.c`), there are no sessions then, nothing is sent and nothing answered. The sockets
//! stay open, so that no other process takes the port, and what arrives is dropped.
//!
//! A report that the interface is up arrives later than its first packets. The first of them waits in the inside
//! worker's staging, and handshake messages of the last second are answered.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::PeerActor;
use crate::clock;
use crate::lane::channels::{HandshakeDatagram, PeerEvent};
use crate::peers::reports::Reports;
use crate::wireguard::outputs::HandshakeDrop;

/// Maximum number of handshake messages kept while the interface is down.
const HELD: usize = 16;

/// The age up to which a kept message is answered once the interface is up.
const FRESH: Duration = Duration::from_secs(1);

/// The state that the actor has acted on.
#[derive(Debug, Default)]
pub(crate) struct LinkState {
    is_down: bool,
    /// Handshake messages that arrived while the interface was down, oldest first.
    held: VecDeque<HandshakeDatagram>,
}

impl LinkState {
    /// Returns whether the interface counts as down.
    pub(super) fn is_down(&self) -> bool {
        self.is_down
    }
}

impl PeerActor {
    /// Acts on a change of the interface. Returns whether there was one.
    pub(super) fn follow_interface(&mut self) -> bool {
        let is_down = self.interface.is_down();
        if is_down == self.link.is_down {
            return false;
        }
        self.link.is_down = is_down;
        if is_down {
            self.went_down();
        } else {
            self.came_up();
        }
        true
    }

    /// Keeps a handshake message until the interface is up, and drops the oldest if there are too many.
    pub(super) fn hold(&mut self, datagram: &HandshakeDatagram) {
        if self.link.held.len() == HELD {
            self.link.held.pop_front();
            self.drop_held(1);
        }
        self.link.held.push_back(datagram.clone());
    }

    fn drop_held(&mut self, messages: usize) {
        self.metrics.messages_dropped.add(HandshakeDrop::InterfaceDown as usize, messages as u64);
    }

    fn went_down(&mut self) {
        self.protocol.interface_down();
        self.reports = Reports::default();
        let snapshot = self.peers.load_full();
        for record in snapshot.peers.iter().flatten() {
            record.sending.store(None);
            // Drops the packets that wait for a session.
            record.failed_handshakes.fetch_add(1, Ordering::AcqRel);
            self.schedule.set(record.id, None);
        }
        self.wake_inside();
    }

    fn came_up(&mut self) {
        let now = clock::now();
        for datagram in std::mem::take(&mut self.link.held) {
            if now.since(datagram.at) <= FRESH {
                self.receive(&datagram);
            } else {
                self.drop_held(1);
            }
        }
        let snapshot = self.peers.load_full();
        for record in snapshot.peers.iter().flatten() {
            let keeps_alive =
                self.protocol.peer(record.id).is_some_and(|peer| peer.persistent_keepalive.is_some());
            if keeps_alive || record.asked.load(Ordering::Acquire) {
                self.hear(PeerEvent::WantsHandshake(record.id));
            } else {
                self.look_at(record.id);
            }
        }
    }
}
