//! Routing loops: the route to a peer's endpoint leads into the tunnel, so what was sealed for the peer comes
//! back through the TUN, to be sealed for it once more and to grow each time around.
//!
//! The kernel's WireGuard sees such a route when it sends (`ELOOP` in `drivers/net/wireguard/socket.c`). We see
//! it when the datagram comes back: a UDP packet for the peer's own endpoint whose message has an index that is
//! ours. Data is known by the session it would be sealed with again, a handshake message by the index that we
//! drew for it. Addresses and ports of the sender say nothing, for a packet filter may have rewritten them; and
//! another WireGuard inside of this tunnel, be it from our port to the very port of the peer, has other indexes.
//!
//! Only packets for the address of their own peer's endpoint are looked at: all others cost one comparison for each
//! superpacket.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::packet::{Udp, ip, protocol};
use crate::underlay::Endpoint;
use crate::units::Nanos;
use crate::wireguard::messages::{Initiation, Kind, Response, data_receiver};
use crate::wireguard::session::Session;

/// How long a loop is not told of again. It goes on until somebody changes a route.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// Marks an index as there: any 32 bits can be one.
const KNOWN: u64 = 1 << 32;

/// What it takes to know one's own datagrams to a peer, and when it was last told that some came back.
#[derive(Debug, Default)]
pub struct LoopWatch {
    /// The index of our latest handshake message to the peer, with [`KNOWN`]; zero if there was none.
    handshake: AtomicU64,
    told: AtomicU64,
}

impl LoopWatch {
    /// This handshake message goes to the peer now. What is none is not noted.
    pub fn note_sent(&self, message: &[u8]) {
        if let Some(index) = handshake_sender(message) {
            self.handshake.store(KNOWN | u64::from(index), Ordering::Relaxed);
        }
    }

    /// Whether `packet` from the TUN is one of our own datagrams to the peer at `to`, where `session` is what data
    /// for it is sealed with. To be asked if the packet is for the endpoint's address.
    #[cold]
    pub fn is_own(&self, packet: &[u8], to: &Endpoint, session: Option<&Session>) -> bool {
        let Some(transport) = ip::transport(packet).filter(|found| found.protocol == protocol::UDP) else {
            return false;
        };
        // Of fragments, the first has the header; the others are caught when they come back sealed.
        let datagram = &packet[transport.offset..];
        let Some(header) = Udp::new_checked(datagram) else { return false };
        let message = &datagram[Udp::HEADER..];
        header.destination_port() == to.address.port()
            && match Kind::of(message) {
                Some(Kind::Data) => session.is_some_and(|own| own.remote_index() == data_receiver(message)),
                _ => handshake_sender(message)
                    .is_some_and(|index| self.handshake.load(Ordering::Relaxed) == KNOWN | u64::from(index)),
            }
    }

    /// Whether somebody is to be told now: once per [`TELL_AGAIN`].
    pub fn may_tell(&self, now: Nanos) -> bool {
        let told = self.told.load(Ordering::Relaxed);
        (told == Nanos::NEVER.0 || now.since(Nanos(told)) >= TELL_AGAIN)
            && self.told.compare_exchange(told, now.0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// The index that the sender of message 1 or 2 has drawn.
fn handshake_sender(message: &[u8]) -> Option<u32> {
    let initiation = Initiation::new_checked(message).map(Initiation::handshake);
    let handshake = initiation.or_else(|| Response::new_checked(message).map(Response::handshake))?;
    Some(handshake.sender())
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;
    use crate::wireguard::messages::{INITIATION, RESPONSE};

    const PEER: [u8; 4] = [192, 0, 2, 1];
    const PORT: u16 = 51820;

    fn to() -> Endpoint {
        Endpoint::new((PEER, PORT).into())
    }

    /// A message of this kind and length, whose sender has drawn `index`.
    fn message(kind: u8, len: usize, index: u32) -> Vec<u8> {
        let mut message = vec![0; len];
        message[0] = kind;
        message[4..8].copy_from_slice(&index.to_le_bytes());
        message
    }

    fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
        let mut packet = Vec::new();
        PacketBuilder::ipv4([10, 0, 0, 9], PEER, 64).udp(PORT, port).write(&mut packet, payload).unwrap();
        packet
    }

    #[test]
    fn a_handshake_message_is_known_by_its_index_and_where_it_goes() {
        let watch = LoopWatch::default();
        let own = |port, message: &[u8]| watch.is_own(&udp(port, message), &to(), None);
        for (kind, len) in [(1, INITIATION), (2, RESPONSE)] {
            let ours = message(kind, len, 7);
            watch.note_sent(&message(kind, len, 8));
            assert!(!own(PORT, &ours), "somebody else drew this index");
            watch.note_sent(&ours);
            assert!(own(PORT, &ours));
            assert!(!own(PORT + 1, &ours), "it goes to another port");
            assert!(!own(PORT, &ours[1..]), "it is no message");
            // What has no index of ours changes nothing.
            watch.note_sent(&message(3, 64, 9));
            assert!(own(PORT, &ours));
        }
        assert!(!own(PORT, &message(4, 32, 7)), "without a session no data is ours");
        assert!(!LoopWatch::default().is_own(&udp(PORT, &message(1, INITIATION, 0)), &to(), None));
    }

    #[test]
    fn other_packets_for_the_endpoint_are_not_ours() {
        let watch = LoopWatch::default();
        watch.note_sent(&message(1, INITIATION, 7));
        let mut tcp = Vec::new();
        let builder = PacketBuilder::ipv4([10, 0, 0, 9], PEER, 64).tcp(1, PORT, 0, 0);
        builder.write(&mut tcp, &message(1, INITIATION, 7)).unwrap();
        assert!(!watch.is_own(&tcp, &to(), None));
        let whole = udp(PORT, &message(1, INITIATION, 7));
        for len in [20, 27, 28, 31, 32, 100] {
            assert!(!watch.is_own(&whole[..len], &to(), None), "{len} bytes of it");
        }
    }

    #[test]
    fn a_loop_is_told_of_once_in_a_while() {
        let (watch, now) = (LoopWatch::default(), Nanos(1 << 30));
        assert!(watch.may_tell(now));
        assert!(!watch.may_tell(now) && !watch.may_tell(now.after(TELL_AGAIN / 2)));
        assert!(watch.may_tell(now.after(TELL_AGAIN)));
    }
}
