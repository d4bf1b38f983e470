//! The ways to and from the peer actor. None of them carries a data packet.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use crossbeam::queue::ArrayQueue;

use super::bounds::{CONTROL_QUEUE, COOKIE_QUEUE, EVENT_QUEUE, HANDSHAKE_QUEUE};
use super::doorbell::{Awaited, Doorbell};
use super::outside::LaneSockets;
use super::peers::PeerRecord;
use crate::underlay::Endpoint;
use crate::units::PeerId;
use crate::wireguard::messages::{Kind, claims_acquaintance};

/// The longest message that is not data: a handshake initiation (whitepaper section 5.4.2).
pub const MAX_CONTROL_MESSAGE: usize = 148;

/// A handshake message or keepalive, complete on the wire.
pub type ControlMessage = ArrayVec<u8, MAX_CONTROL_MESSAGE>;

/// A handshake message as an outside worker received it.
#[derive(Debug)]
pub struct HandshakeDatagram {
    /// The bytes.
    pub message: ControlMessage,
    /// Who sent it, and which of our addresses it came to.
    pub from: Endpoint,
    /// The lane that received it; the answer leaves from there.
    pub lane: usize,
}

/// What workers tell the peer actor. Losing one delays, and breaks nothing: the next batch tells
/// again.
#[derive(Clone, Copy, Debug)]
pub enum PeerEvent {
    /// Packets wait for a session, or the session in use is due for renewal.
    WantsHandshake(PeerId),
    /// Authenticated data came on the session with this local index, which is not in use yet.
    Confirmed(u32),
    /// Our datagrams to this peer come back through the TUN.
    Loops(PeerId),
}

/// What comes in at the peer actor's door. Handshake messages have two queues, so that strangers who fill
/// one with first messages do not keep out the answers to ours, nor who has been given a cookie.
#[derive(Debug)]
pub struct PeerInbox {
    acquaintances: ArrayQueue<HandshakeDatagram>,
    strangers: ArrayQueue<HandshakeDatagram>,
    events: ArrayQueue<PeerEvent>,
    bell: Arc<Doorbell>,
}

impl PeerInbox {
    /// Empty queues for the actor at `bell`.
    pub fn new(bell: Arc<Doorbell>) -> Self {
        let handshakes = || ArrayQueue::new(HANDSHAKE_QUEUE);
        Self {
            acquaintances: handshakes(),
            strangers: handshakes(),
            events: ArrayQueue::new(EVENT_QUEUE),
            bell,
        }
    }

    /// Hands a handshake message up; false if its queue is full and the message was dropped.
    #[must_use]
    pub fn handshake(&self, datagram: HandshakeDatagram) -> bool {
        let queue =
            if claims_acquaintance(&datagram.message) { &self.acquaintances } else { &self.strangers };
        let taken = queue.push(datagram).is_ok();
        self.bell.ring(Awaited::WORK);
        taken
    }

    /// Asks for a handshake with `peer`, once until the actor has answered.
    pub fn want_handshake(&self, peer: &PeerRecord) {
        let asked = &peer.asked;
        if asked.load(Ordering::Relaxed) || asked.swap(true, Ordering::AcqRel) {
            return;
        }
        if !self.tell(PeerEvent::WantsHandshake(peer.id)) {
            asked.store(false, Ordering::Release);
        }
    }

    /// Says that the peer has proved it has the session with this local index. If the queue is
    /// full, the next batch of the session says it again.
    pub fn confirmed(&self, local_index: u32) {
        self.tell(PeerEvent::Confirmed(local_index));
    }

    /// Says that datagrams to the peer come back through the TUN. If the queue is full, somebody says it again
    /// later.
    pub fn loops(&self, peer: PeerId) {
        self.tell(PeerEvent::Loops(peer));
    }

    /// The oldest message of somebody who claims to know us
    /// ([`claims_acquaintance`]). To be asked for as often as [`next_stranger`](Self::next_stranger): a
    /// claim is not a proof.
    pub fn next_acquaintance(&self) -> Option<HandshakeDatagram> {
        self.acquaintances.pop()
    }

    /// The oldest other handshake message.
    pub fn next_stranger(&self) -> Option<HandshakeDatagram> {
        self.strangers.pop()
    }

    /// The oldest event.
    pub fn next_event(&self) -> Option<PeerEvent> {
        self.events.pop()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.acquaintances.is_empty() && self.strangers.is_empty() && self.events.is_empty()
    }

    fn tell(&self, event: PeerEvent) -> bool {
        let taken = self.events.push(event).is_ok();
        self.bell.ring(Awaited::WORK);
        taken
    }
}

/// What an outside worker is told besides its batches.
#[derive(Debug)]
pub enum OutsideCommand {
    /// Send this.
    Send {
        /// The datagram.
        message: ControlMessage,
        /// Where it goes.
        to: Endpoint,
    },
    /// Use these sockets from now on and close the old ones: the listen port has changed.
    Rebind(Arc<LaneSockets>),
    /// Mark what is sent with this.
    Fwmark(u32),
}

/// Commands on their way to one outside worker: first what the operator orders, then messages to peers, then
/// cookies, of which a flood of handshakes wants more than all others together.
///
/// Of each order only the latest counts, so an order takes the place of one that was not carried out yet, and
/// there is always room. New sockets come before the mark: they were opened with the mark of their time.
#[derive(Debug)]
pub struct CommandBox {
    rebind: ArrayQueue<OutsideCommand>,
    fwmark: ArrayQueue<OutsideCommand>,
    messages: ArrayQueue<OutsideCommand>,
    cookies: ArrayQueue<OutsideCommand>,
    bell: Arc<Doorbell>,
}

impl CommandBox {
    /// An empty box for the worker at `bell`.
    pub fn new(bell: Arc<Doorbell>) -> Self {
        let [rebind, fwmark, messages, cookies] = [1, 1, CONTROL_QUEUE, COOKIE_QUEUE].map(ArrayQueue::new);
        Self { rebind, fwmark, messages, cookies, bell }
    }

    /// New sockets, see [`OutsideCommand::Rebind`].
    pub fn rebind(&self, sockets: Arc<LaneSockets>) {
        self.rebind.force_push(OutsideCommand::Rebind(sockets));
        self.bell.ring(Awaited::WORK);
    }

    /// Another mark, see [`OutsideCommand::Fwmark`].
    pub fn set_fwmark(&self, mark: u32) {
        self.fwmark.force_push(OutsideCommand::Fwmark(mark));
        self.bell.ring(Awaited::WORK);
    }

    /// A message to send; false if there is no room for its kind and it was dropped. That of a handshake
    /// may be dropped, its timer sends another.
    #[must_use]
    pub fn send(&self, message: ControlMessage, to: Endpoint) -> bool {
        let queue = match Kind::of(&message) {
            Some(Kind::CookieReply) => &self.cookies,
            _ => &self.messages,
        };
        let taken = queue.push(OutsideCommand::Send { message, to }).is_ok();
        self.bell.ring(Awaited::WORK);
        taken
    }

    /// What is to be done next.
    pub fn pop(&self) -> Option<OutsideCommand> {
        [&self.rebind, &self.fwmark, &self.messages, &self.cookies].into_iter().find_map(ArrayQueue::pop)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        [&self.rebind, &self.fwmark, &self.messages, &self.cookies].into_iter().all(ArrayQueue::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wireguard::messages::{COOKIE_REPLY, INITIATION, RESPONSE};

    /// A message of this kind and length, with `last` as its last byte.
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
        let commands = CommandBox::new(Arc::new(Doorbell::new().unwrap()));
        let send = |message| commands.send(message, to());
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
        let commands = CommandBox::new(Arc::new(Doorbell::new().unwrap()));
        for mark in 0..1000 {
            commands.set_fwmark(mark);
        }
        assert!(matches!(commands.pop(), Some(OutsideCommand::Fwmark(999))));
        assert!(commands.is_empty());
    }

    #[test]
    fn who_has_a_cookie_gets_in_when_strangers_fill_the_queue() {
        let inbox = PeerInbox::new(Arc::new(Doorbell::new().unwrap()));
        let arrives = |message| inbox.handshake(HandshakeDatagram { message, from: to(), lane: 0 });
        let strangers = (0..2 * HANDSHAKE_QUEUE).filter(|_| arrives(message(1, INITIATION, 0))).count();
        assert_eq!(strangers, HANDSHAKE_QUEUE);
        for known in [message(1, INITIATION, 9), message(2, RESPONSE, 0), message(3, COOKIE_REPLY, 0)] {
            assert!(arrives(known.clone()));
            assert_eq!(inbox.next_acquaintance().unwrap().message, known);
        }
        assert!(inbox.next_acquaintance().is_none() && inbox.next_stranger().is_some());
    }
}
