//! Arbitrary input neither panics nor changes the state of a peer.

use crate::wireguard::settings::Settings;
use proptest::prelude::*;

use super::world::{at, connected, pair, send};
use crate::drops::DropReason;
use crate::wireguard::messages::{COOKIE_REPLY, INITIATION, RESPONSE};
use crate::wireguard::outputs::HandshakeDrop;

#[test]
fn truncated_and_oversized_handshake_messages_are_dropped() {
    let (mut a, mut b) = pair(Settings::default());
    let initiation = a.wants_to_send(at(0.0)).remove(0);
    let mut longer = initiation.clone();
    longer.push(0);
    b.receive(at(0.0), &longer);
    for len in 0..initiation.len() {
        b.receive(at(0.0), &initiation[..len]);
    }
    assert_eq!(b.dropped, [HandshakeDrop::NotHandshake; INITIATION + 1]);
    assert!(!b.receive(at(0.0), &initiation).1.is_empty(), "the real one is still accepted");
}

#[test]
fn answers_to_what_we_did_not_send_are_dropped() {
    let (mut a, mut b) = connected(at(0.0), Settings::default());
    let mut other = pair(Settings::default()).0;
    let initiation = other.wants_to_send(at(60.0)).remove(0);
    let response = b.receive(at(60.0), &initiation).1.remove(0);
    a.receive(at(60.0), &response);
    assert_eq!(a.dropped, [HandshakeDrop::UnknownIndex]);
    let mut reply = [0; COOKIE_REPLY];
    reply[0] = 3;
    reply[4..8].fill(0xaa);
    a.receive(at(60.0), &reply);
    assert_eq!(a.dropped.last(), Some(&HandshakeDrop::UnknownIndex));
    assert_eq!(
        a.open(at(60.0), &[4, 0, 0, 0].into_iter().chain([0xaa; 28]).collect::<Vec<_>>()),
        Err(DropReason::UnknownIndex)
    );
}

#[test]
fn a_replayed_data_message_is_dropped() {
    let (mut a, mut b) = connected(at(0.0), Settings::default());
    let datagram = a.seal(at(1.0), b"once");
    assert!(b.open(at(1.0), &datagram).is_ok());
    assert_eq!(b.open(at(1.0), &datagram), Err(DropReason::Replay));
}

/// Random bytes with a plausible type and index, so that they pass the first checks.
fn datagrams() -> impl Strategy<Value = Vec<u8>> {
    let lens = prop_oneof![0usize..300, Just(INITIATION), Just(RESPONSE), Just(COOKIE_REPLY)];
    (0u8..6, lens, any::<u32>(), any::<u64>()).prop_flat_map(|(kind, len, index, _)| {
        prop::collection::vec(any::<u8>(), len).prop_map(move |mut bytes| {
            for (byte, value) in bytes.iter_mut().zip([kind, 0, 0, 0]) {
                *byte = value;
            }
            // A small index is more likely to be in use.
            for (byte, value) in bytes.iter_mut().skip(4).zip((index % 4).to_le_bytes()) {
                *byte = value;
            }
            bytes
        })
    })
}

proptest! {
    #[test]
    fn random_datagrams_never_panic_and_break_nothing(datagrams in prop::collection::vec(datagrams(), 1..20)) {
        let (mut a, mut b) = connected(at(0.0), Settings::default());
        for datagram in datagrams {
            let (opened, sent) = b.receive(at(1.0), &datagram);
            prop_assert!(opened.is_empty() && sent.is_empty());
        }
        prop_assert_eq!((b.initiated, b.handshakes), (1, 1));
        send(at(2.0), &mut a, &mut b, b"as if nothing had happened");
    }

    #[test]
    fn a_flipped_bit_in_a_handshake_message_is_noticed(bit in 0usize..INITIATION * 8, answer: bool) {
        let (mut a, mut b) = pair(Settings::default());
        let mut message = a.wants_to_send(at(0.0)).remove(0);
        let mut receiver = &mut b;
        if answer {
            message = receiver.receive(at(0.0), &message).1.remove(0);
            receiver = &mut a;
        }
        let bit = bit % ((message.len() - 16) * 8);
        message[bit / 8] ^= 1 << (bit % 8);
        receiver.receive(at(0.0), &message);
        prop_assert_eq!(receiver.dropped.len(), 1);
        prop_assert!(receiver.sending.is_none());
    }
}
