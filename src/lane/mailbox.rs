//! The ways to and from the peer actor. None of them carries a data packet.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;
use crossbeam::queue::ArrayQueue;

use super::bounds::{CONTROL_QUEUE, EVENT_QUEUE, HANDSHAKE_QUEUE, ORDER_QUEUE};
use super::doorbell::{Awaited, Doorbell};
use super::peers::PeerRecord;
use crate::underlay::{Endpoint, UdpSocket};
use crate::units::PeerId;

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
}

/// What comes in at the peer actor's door.
#[derive(Debug)]
pub struct PeerInbox {
    handshakes: ArrayQueue<HandshakeDatagram>,
    events: ArrayQueue<PeerEvent>,
    bell: Arc<Doorbell>,
}

impl PeerInbox {
    /// Empty queues for the actor at `bell`.
    pub fn new(bell: Arc<Doorbell>) -> Self {
        Self { handshakes: ArrayQueue::new(HANDSHAKE_QUEUE), events: ArrayQueue::new(EVENT_QUEUE), bell }
    }

    /// Hands a handshake message up; false if the queue is full and the message was dropped.
    #[must_use]
    pub fn handshake(&self, datagram: HandshakeDatagram) -> bool {
        let taken = self.handshakes.push(datagram).is_ok();
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

    /// The oldest handshake message.
    pub fn next_handshake(&self) -> Option<HandshakeDatagram> {
        self.handshakes.pop()
    }

    /// The oldest event.
    pub fn next_event(&self) -> Option<PeerEvent> {
        self.events.pop()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.handshakes.is_empty() && self.events.is_empty()
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
    /// Use this socket from now on and close the old one: the listen port has changed.
    Rebind(Box<UdpSocket>),
    /// Mark what is sent with this.
    Fwmark(u32),
}

/// Commands on their way to one outside worker. Orders of the operator have a queue of their own and go
/// first: messages fill theirs when somebody floods us with handshakes.
#[derive(Debug)]
pub struct CommandBox {
    orders: ArrayQueue<OutsideCommand>,
    messages: ArrayQueue<OutsideCommand>,
    bell: Arc<Doorbell>,
}

impl CommandBox {
    /// An empty box for the worker at `bell`.
    pub fn new(bell: Arc<Doorbell>) -> Self {
        let (orders, messages) = (ArrayQueue::new(ORDER_QUEUE), ArrayQueue::new(CONTROL_QUEUE));
        Self { orders, messages, bell }
    }

    /// Puts a command in; false if the box is full and the command was dropped. A handshake message
    /// may be dropped then, its timer sends another.
    #[must_use]
    pub fn push(&self, command: OutsideCommand) -> bool {
        let queue = match command {
            OutsideCommand::Send { .. } => &self.messages,
            OutsideCommand::Rebind(_) | OutsideCommand::Fwmark(_) => &self.orders,
        };
        let taken = queue.push(command).is_ok();
        self.bell.ring(Awaited::WORK);
        taken
    }

    /// The oldest order, or the oldest message if there is none.
    pub fn pop(&self) -> Option<OutsideCommand> {
        self.orders.pop().or_else(|| self.messages.pop())
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.orders.is_empty() && self.messages.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_gets_through_when_messages_fill_the_box() {
        let commands = CommandBox::new(Arc::new(Doorbell::new().unwrap()));
        let to = Endpoint::new(([192, 0, 2, 1], 51820).into());
        let flood = || commands.push(OutsideCommand::Send { message: ControlMessage::new(), to });
        assert_eq!((0..2 * CONTROL_QUEUE).filter(|_| flood()).count(), CONTROL_QUEUE);
        assert!(commands.push(OutsideCommand::Fwmark(7)));
        assert!(matches!(commands.pop(), Some(OutsideCommand::Fwmark(7))));
        assert!(matches!(commands.pop(), Some(OutsideCommand::Send { .. })));
    }
}
