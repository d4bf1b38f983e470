//! A protocol whose state was exported and imported continues as if nothing had happened.

use super::world::{at, connected, exchange, pair, send};
use crate::drops::DropReason;
use crate::wireguard::messages::{Kind, data_counter};
use crate::wireguard::outputs::HandshakeDrop;
use crate::wireguard::settings::Settings;

const RESERVE: u64 = 1024;

#[test]
fn sessions_go_on_in_both_directions_without_a_handshake() {
    let (mut a, mut b) = connected(at(0.0), Settings::default());
    for n in 0..100_u8 {
        send(at(1.0), &mut a, &mut b, &[n]);
        send(at(1.0), &mut b, &mut a, &[n]);
    }
    let in_flight = b.seal(at(1.0), b"in flight");
    let replayed = b.seal(at(1.0), b"received before");
    assert_eq!(a.receive(at(1.0), &replayed).0, [b"received before"]);
    let last = data_counter(&a.seal(at(1.0), b"sent last"));

    let mut a = a.successor(RESERVE);
    assert_eq!(a.open(at(1.1), &in_flight).unwrap(), [b"in flight"]);
    assert_eq!(a.open(at(1.1), &in_flight), Err(DropReason::Replay));
    assert_eq!(a.open(at(1.1), &replayed), Err(DropReason::Replay));
    let first = a.seal(at(1.1), b"first");
    assert_eq!(data_counter(&first), last + 1 + RESERVE);
    assert_eq!(b.receive(at(1.1), &first).0, [b"first"]);
    send(at(1.1), &mut b, &mut a, b"back");
    assert_eq!((a.handshakes, b.handshakes), (0, 1));
}

#[test]
fn the_age_of_a_session_and_the_timers_are_carried() {
    let (mut a, mut b) = connected(at(0.0), Settings::default());
    send(at(1.0), &mut a, &mut b, b"unanswered");
    let mut a = a.successor(RESERVE);
    // New data without an answer for fifteen seconds starts a handshake, also under the successor.
    let sent = a.poll_until(at(1.0), at(17.0));
    assert!(sent.iter().any(|(_, datagram)| Kind::of(datagram) == Some(Kind::Initiation)));
    let mut b = b.successor(RESERVE);
    b.poll_until(at(1.0), at(181.0));
    assert!(b.sending.is_none(), "the session is as old as before");
}

#[test]
fn a_handshake_in_progress_starts_again_and_its_timestamp_grows() {
    let (mut a, mut b) = pair(Settings::default());
    let lost = a.wants_to_send(at(0.0));
    let mut b_answers = b.receive(at(0.0), &lost[0]).1;
    let mut a = a.successor(RESERVE);
    a.receive(at(0.1), &b_answers.remove(0));
    assert_eq!(a.dropped, [HandshakeDrop::UnknownIndex]);
    let again = a.poll(at(0.1));
    exchange(at(0.1), &mut a, &mut b, again);
    send(at(0.2), &mut a, &mut b, b"there");
    send(at(0.2), &mut b, &mut a, b"and back");
}

#[test]
fn an_unconfirmed_session_is_still_unconfirmed() {
    let (mut a, mut b) = pair(Settings::default());
    let initiation = a.wants_to_send(at(0.0));
    let response = b.receive(at(0.0), &initiation[0]).1;
    let mut b = b.successor(RESERVE);
    assert!(b.sending.is_none());
    exchange(at(0.1), &mut b, &mut a, response);
    send(at(0.1), &mut b, &mut a, b"confirmed by the initiator's keepalive");
    assert_eq!((a.handshakes, b.handshakes), (1, 1));
}

#[test]
fn new_indices_do_not_collide_with_adopted_ones() {
    let (mut a, mut b) = connected(at(0.0), Settings::default());
    for n in 0..5 {
        a = a.successor(RESERVE);
        b = b.successor(RESERVE);
        let now = at(f64::from(n).mul_add(121.0, 121.0));
        let initiation = a.wants_to_send(now);
        assert_eq!(initiation.len(), 1);
        exchange(now, &mut a, &mut b, initiation);
        send(now, &mut a, &mut b, b"on the new session");
        send(now, &mut b, &mut a, b"on the new session");
    }
}

#[test]
fn state_survives_its_encoding_and_contradictions_are_refused() {
    let (a, _) = connected(at(0.0), Settings::default());
    let state = a.protocol.export();
    let bytes = postcard::to_allocvec(&state).unwrap();
    let mut decoded: crate::wireguard::state::ProtocolState = postcard::from_bytes(&bytes).unwrap();
    assert_eq!(postcard::to_allocvec(&decoded).unwrap(), bytes);
    let twice: crate::wireguard::state::ProtocolState = postcard::from_bytes(&bytes).unwrap();
    decoded.peers.extend(twice.peers);
    let fresh = pair(Settings::default()).0;
    let mut protocol = crate::wireguard::protocol::Protocol::new(None, fresh.table, Settings::default());
    assert!(protocol.import(decoded, RESERVE).is_err());
}
