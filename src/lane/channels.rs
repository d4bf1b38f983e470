//! The channels to the peer actor and from it to the outside workers. They carry control messages, never
//! data packets.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use crossbeam::queue::ArrayQueue;

use super::bounds::{CONTROL_QUEUE, COOKIE_QUEUE, EVENT_QUEUE, HANDSHAKE_QUEUE};
use super::peers::PeerRecord;
use super::ring::doorbell::{Awaited, Doorbell};
use super::sockets::LaneSockets;
use crate::underlay::Endpoint;
use crate::units::{Nanos, PeerId};
use crate::wireguard::messages::{Kind, claims_priority};
use crate::wireguard::session::Session;

/// Length in bytes of the longest message other than data: the handshake initiation (whitepaper section
/// 5.4.2).
pub const MAX_CONTROL_MESSAGE: usize = 148;

/// A handshake message or keepalive in wire format.
pub type ControlMessage = ArrayVec<u8, MAX_CONTROL_MESSAGE>;

/// A received handshake message.
#[derive(Clone, Debug)]
pub struct HandshakeDatagram {
    /// The message in wire format.
    pub message: ControlMessage,
    /// The sender's address, and the local address it was sent to.
    pub from: Endpoint,
    /// When it was received.
    pub at: Nanos,
    /// The lane that received it. The reply is sent from the same lane.
    pub lane: usize,
}

/// An event from a worker to the peer actor. Losing one only causes delay: the next batch sends it again.
#[derive(Clone, Debug)]
pub enum PeerEvent {
    /// Packets wait for a session, or the current session is due for rekeying.
    WantsHandshake(PeerId),
    /// Authenticated data arrived on this session, which the actor has not yet confirmed. The worker has
    /// [promoted](PeerRecord::promote) it already.
    Confirmed(Arc<Session>),
    /// The peer's endpoint has changed.
    Moved(PeerId),
    /// Our datagrams to this peer come back through the TUN: a routing loop.
    Loops(PeerId),
}

/// The channel from the workers to the peer actor.
///
/// Handshake messages have two queues, so that a flood of initiations cannot crowd out responses, or
/// peers holding a cookie.
#[derive(Debug)]
pub struct ActorChannel {
    priority: ArrayQueue<HandshakeDatagram>,
    unverified: ArrayQueue<HandshakeDatagram>,
    events: ArrayQueue<PeerEvent>,
    bell: Arc<Doorbell>,
}

impl ActorChannel {
    /// Creates the channel to the actor that owns `bell`.
    pub fn new(bell: Arc<Doorbell>) -> Self {
        let handshakes = || ArrayQueue::new(HANDSHAKE_QUEUE);
        Self { priority: handshakes(), unverified: handshakes(), events: ArrayQueue::new(EVENT_QUEUE), bell }
    }

    /// Sends a handshake message. Returns false if its queue is full and the message was dropped.
    #[must_use]
    pub fn handshake(&self, datagram: HandshakeDatagram) -> bool {
        let queue = if claims_priority(&datagram.message) { &self.priority } else { &self.unverified };
        let taken = queue.push(datagram).is_ok();
        self.bell.ring(Awaited::WORK);
        taken
    }

    /// Requests a handshake with `peer`, unless a request is pending.
    pub fn want_handshake(&self, peer: &PeerRecord) {
        let asked = &peer.asked;
        if asked.load(Ordering::Relaxed) || asked.swap(true, Ordering::AcqRel) {
            return;
        }
        if !self.tell(PeerEvent::WantsHandshake(peer.id)) {
            asked.store(false, Ordering::Release);
        }
    }

    /// Reports that the peer has confirmed `session` by sending authenticated data. If the queue is
    /// full, the session's next batch reports it again.
    pub fn confirmed(&self, session: Arc<Session>) {
        self.tell(PeerEvent::Confirmed(session));
    }

    /// Reports that the peer's endpoint has changed, for the log, unless a report is pending. If the queue is full, the
    /// next change reports it again.
    pub fn moved(&self, peer: &PeerRecord) {
        if !peer.move_reported.swap(true, Ordering::AcqRel) && !self.tell(PeerEvent::Moved(peer.id)) {
            peer.move_reported.store(false, Ordering::Release);
        }
    }

    /// Reports that our datagrams to `peer` come back through the TUN. If the queue is full, the report
    /// is dropped; a later one follows while the loop persists.
    pub fn loops(&self, peer: PeerId) {
        self.tell(PeerEvent::Loops(peer));
    }

    /// Removes and returns the oldest priority message: one that claims earlier contact, such as a
    /// response ([`claims_priority`]). The claim may be false, so call
    /// [`next_unverified`](Self::next_unverified) just as often.
    pub fn next_priority(&self) -> Option<HandshakeDatagram> {
        self.priority.pop()
    }

    /// Removes and returns the oldest unverified handshake message.
    pub fn next_unverified(&self) -> Option<HandshakeDatagram> {
        self.unverified.pop()
    }

    /// Removes and returns the oldest event.
    pub fn next_event(&self) -> Option<PeerEvent> {
        self.events.pop()
    }

    /// Returns whether no message or event waits.
    pub fn is_empty(&self) -> bool {
        self.priority.is_empty() && self.unverified.is_empty() && self.events.is_empty()
    }

    fn tell(&self, event: PeerEvent) -> bool {
        let taken = self.events.push(event).is_ok();
        self.bell.ring(Awaited::WORK);
        taken
    }
}

/// A command to an outside worker.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "queues hold commands by value, so that sending one allocates nothing"
)]
pub enum OutsideCommand {
    /// Send a control message.
    Send {
        /// The message in wire format.
        message: ControlMessage,
        /// The destination.
        to: Endpoint,
        /// The peer whose bytes the message counts among, if any.
        peer: Option<PeerId>,
    },
    /// Replace the sockets, because the listen port has changed.
    Rebind(Arc<LaneSockets>),
    /// Set the firewall mark of outgoing datagrams.
    Fwmark(u32),
}

/// The channel of commands to one outside worker.
///
/// Operator commands come first, then messages to peers, then cookie replies, so that a flood of
/// handshakes cannot crowd out anything else.
///
/// An operator command replaces a pending one of its kind, so it is never dropped. Sockets are replaced
/// before the mark is set, since the new sockets carry the mark in force when they were opened.
#[derive(Debug)]
pub struct CommandChannel {
    rebind: ArrayQueue<OutsideCommand>,
    fwmark: ArrayQueue<OutsideCommand>,
    messages: ArrayQueue<OutsideCommand>,
    cookies: ArrayQueue<OutsideCommand>,
    bell: Arc<Doorbell>,
}

impl CommandChannel {
    /// Creates the channel to the worker that owns `bell`.
    pub fn new(bell: Arc<Doorbell>) -> Self {
        let [rebind, fwmark, messages, cookies] = [1, 1, CONTROL_QUEUE, COOKIE_QUEUE].map(ArrayQueue::new);
        Self { rebind, fwmark, messages, cookies, bell }
    }

    /// Replaces the worker's sockets; see [`OutsideCommand::Rebind`].
    pub fn rebind(&self, sockets: Arc<LaneSockets>) {
        self.rebind.force_push(OutsideCommand::Rebind(sockets));
        self.bell.ring(Awaited::WORK);
    }

    /// Sets the firewall mark; see [`OutsideCommand::Fwmark`].
    pub fn set_fwmark(&self, mark: u32) {
        self.fwmark.force_push(OutsideCommand::Fwmark(mark));
        self.bell.ring(Awaited::WORK);
    }

    /// Sends a control message to a peer. Returns false if the queue for its kind is full and the message
    /// was dropped. A dropped handshake message is retried by its timer.
    #[must_use]
    pub fn send(&self, message: ControlMessage, to: Endpoint, peer: Option<PeerId>) -> bool {
        let queue = match Kind::of(&message) {
            Some(Kind::CookieReply) => &self.cookies,
            _ => &self.messages,
        };
        let taken = queue.push(OutsideCommand::Send { message, to, peer }).is_ok();
        self.bell.ring(Awaited::WORK);
        taken
    }

    /// Wakes the worker without a command.
    pub fn wake(&self) {
        self.bell.ring(Awaited::WORK);
    }

    /// Removes and returns the next command.
    pub fn pop(&self) -> Option<OutsideCommand> {
        [&self.rebind, &self.fwmark, &self.messages, &self.cookies].into_iter().find_map(ArrayQueue::pop)
    }

    /// Returns whether no command waits.
    pub fn is_empty(&self) -> bool {
        [&self.rebind, &self.fwmark, &self.messages, &self.cookies].into_iter().all(ArrayQueue::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wireguard::messages::{COOKIE_REPLY, INITIATION, RESPONSE};

    /// Builds a message of this kind and length with `last` as its last byte.
    fn message(kind: u8, len: usize, last: u8) -> ControlMessage {
        let mut message: ControlMessage = std::iter::repeat_n(0, len).collect();
        message[0] = kind;
        message[len - 1] = last;
        message
    }

    fn to() -> Endpoint {
        Endpoint::new(([192, 0, 2, 1], 51820).into())
    }

    #[test]
    fn orders_and_messages_to_peers_get_through_when_a_flood_wants_cookies() {
        let commands = CommandChannel::new(Arc::new(Doorbell::new().unwrap()));
        let send = |message| commands.send(message, to(), None);
        let cookies = (0..2 * COOKIE_QUEUE).filter(|_| send(message(3, COOKIE_REPLY, 0))).count();
        assert_eq!(cookies, COOKIE_QUEUE);
        assert!(send(message(2, RESPONSE, 0)));
        commands.set_fwmark(7);
        assert!(matches!(commands.pop(), Some(OutsideCommand::Fwmark(7))));
        for kind in [2, 3] {
            let next = commands.pop();
            assert!(matches!(&next, Some(OutsideCommand::Send { message, .. }) if message[0] == kind));
        }
    }

    #[test]
    fn an_order_takes_the_place_of_the_one_before() {
        let commands = CommandChannel::new(Arc::new(Doorbell::new().unwrap()));
        for mark in 0..1000 {
            commands.set_fwmark(mark);
        }
        assert!(matches!(commands.pop(), Some(OutsideCommand::Fwmark(999))));
        assert!(commands.is_empty());
    }

    #[test]
    fn a_peer_with_a_cookie_gets_in_when_unverified_messages_fill_the_queue() {
        let channel = ActorChannel::new(Arc::new(Doorbell::new().unwrap()));
        let arrives =
            |message| channel.handshake(HandshakeDatagram { message, from: to(), at: Nanos(0), lane: 0 });
        let unverified = (0..2 * HANDSHAKE_QUEUE).filter(|_| arrives(message(1, INITIATION, 0))).count();
        assert_eq!(unverified, HANDSHAKE_QUEUE);
        for known in [message(1, INITIATION, 9), message(2, RESPONSE, 0), message(3, COOKIE_REPLY, 0)] {
            assert!(arrives(known.clone()));
            assert_eq!(channel.next_priority().unwrap().message, known);
        }
        assert!(channel.next_priority().is_none() && channel.next_unverified().is_some());
    }
}
