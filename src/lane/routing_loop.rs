//! Detects routing loops, where the route to a peer's endpoint leads into the tunnel.
//!
//! In such a loop, each datagram for the peer comes back through the TUN, is sealed again, and grows every
//! time. The kernel's WireGuard detects the route on sending (`ELOOP` in `drivers/net/wireguard/socket.c`).
//! We detect the returning datagram: a UDP packet to the peer's endpoint whose message carries one of our
//! indexes. A data message has the index of the session it would be sealed with again; a handshake message
//! has the sender index we chose. The source address and port are not compared, since a packet filter may
//! have rewritten them. Another WireGuard inside the tunnel uses other indexes, even between the same ports.
//!
//! Only packets to the address of their own peer's endpoint are examined. All others cost one comparison
//! per superpacket.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::packet::{Udp, ip, protocol};
use crate::underlay::Endpoint;
use crate::units::Nanos;
use crate::wireguard::messages::{Initiation, Kind, Response, data_receiver};
use crate::wireguard::session::Session;

/// Minimum interval between reports of the same loop, which persists until a route is changed.
const TELL_AGAIN: Duration = Duration::from_secs(60);

/// Marks an index as present, since any 32-bit value is a valid index.
const KNOWN: u64 = 1 << 32;

/// The state needed to recognize our own datagrams to a peer.
#[derive(Debug, Default)]
pub struct LoopWatch {
    /// The sender index of our latest handshake message to the peer, with [`KNOWN`] set; zero if none
    /// was sent.
    handshake: AtomicU64,
    /// When a loop was last reported, in nanoseconds.
    told: AtomicU64,
}

impl LoopWatch {
    /// Records the index of a handshake message sent to the peer. Ignores all other messages.
    pub fn note_sent(&self, message: &[u8]) {
        if let Some(index) = handshake_sender(message) {
            self.handshake.store(KNOWN | u64::from(index), Ordering::Relaxed);
        }
    }

    /// Returns whether `packet` from the TUN is one of our own datagrams to the peer at `to`.
    ///
    /// `session` is the peer's current sending session. Call this only for packets to the endpoint's
    /// address.
    #[cold]
    pub fn is_own(&self, packet: &[u8], to: &Endpoint, session: Option<&Session>) -> bool {
        let Some(transport) = ip::transport(packet).filter(|found| found.protocol == protocol::UDP) else {
            return false;
        };
        // Only the first fragment has the UDP header. The others are caught when they return sealed.
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

    /// Returns whether the caller may report the loop now: at most once per [`TELL_AGAIN`].
    pub fn may_tell(&self, now: Nanos) -> bool {
        let told = self.told.load(Ordering::Relaxed);
        (told == Nanos::NEVER.0 || now.since(Nanos(told)) >= TELL_AGAIN)
            && self.told.compare_exchange(told, now.0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// Returns the sender index of a handshake initiation or response.
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

    /// Builds a message of this kind and length with the sender index `index`.
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
            assert!(!own(PORT, &ours), "the index is not ours");
            watch.note_sent(&ours);
            assert!(own(PORT, &ours));
            assert!(!own(PORT + 1, &ours), "it goes to another port");
            assert!(!own(PORT, &ours[1..]), "not a WireGuard message");
            // A message without a sender index changes nothing.
            watch.note_sent(&message(3, 64, 9));
            assert!(own(PORT, &ours));
        }
        assert!(!own(PORT, &message(4, 32, 7)), "without a session, no data message is ours");
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
