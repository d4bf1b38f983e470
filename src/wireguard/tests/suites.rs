//! The AES-256-GCM suite: two ends configured for it can talk, and WireGuard peers reject it.

use crate::wireguard::settings::Settings;
use std::net::IpAddr;

use ::boringtun::noise::errors::WireGuardError;
use ::boringtun::noise::{Tunn, TunnResult};
use ::boringtun::x25519::{PublicKey, StaticSecret};

use super::world::{End, at, connected, exchange, pair, private, send};
use crate::wireguard::outputs::HandshakeDrop;
use crate::wireguard::suite::Suite;

const AES: Suite = Suite::Aes256Gcm;

/// Configures the peer of `end` for AES-256-GCM.
fn set(mut end: End) -> End {
    assert!(end.protocol.set_suite(end.peer, AES));
    end
}

#[test]
fn two_ends_set_to_it_talk() {
    let (a, b) = pair(Settings::default());
    let (mut a, mut b) = (set(a), set(b));
    let initiation = a.wants_to_send(at(0.0));
    exchange(at(0.0), &mut a, &mut b, initiation);
    send(at(1.0), &mut a, &mut b, b"there");
    send(at(1.0), &mut b, &mut a, b"and back");
}

#[test]
fn an_end_set_to_another_suite_neither_answers_nor_has_a_session() {
    let refuses = |from: &mut End, to: &mut End, why| {
        let initiation = from.wants_to_send(at(0.0)).remove(0);
        assert!(to.receive(at(0.0), &initiation).1.is_empty(), "no answer");
        assert_eq!(to.dropped, [why]);
        assert!(to.sending.is_none());
    };
    let (a, mut b) = pair(Settings::default());
    let mut a = set(a);
    // An end that uses no other suite does not even compute its first MAC.
    refuses(&mut a, &mut b, HandshakeDrop::Mac1);
    refuses(&mut b, &mut a, HandshakeDrop::Suite);
}

#[test]
fn a_suite_is_known_as_long_as_some_peer_uses_it() {
    let (a, mut b) = pair(Settings::default());
    let mut a = set(a);
    let mut refused = |b: &mut End, seconds| {
        let initiation = a.poll_until(at(seconds), at(seconds + 9.0)).pop();
        let initiation = initiation.map_or_else(|| a.wants_to_send(at(seconds)).remove(0), |(_, sent)| sent);
        assert!(b.receive(at(seconds + 9.0), &initiation).1.is_empty(), "no answer");
        b.dropped.pop().unwrap()
    };
    let other = b.protocol.add_peer(private(9).public_key()).unwrap();
    assert_eq!(refused(&mut b, 0.0), HandshakeDrop::Mac1);
    assert!(b.protocol.set_suite(other, AES) && !b.protocol.set_suite(other, AES));
    assert_eq!(refused(&mut b, 10.0), HandshakeDrop::Suite);
    assert!(b.protocol.remove_peer(other));
    assert_eq!(refused(&mut b, 20.0), HandshakeDrop::Mac1);
}

#[test]
fn a_wireguard_peer_takes_it_for_noise() {
    let mut ours = set(End::new(1, &private(2).public_key(), Settings::default()));
    let initiation = ours.wants_to_send(at(0.0)).remove(0);
    let secret = StaticSecret::from(*private(2).as_bytes());
    let public = PublicKey::from(*private(1).public_key().as_bytes());
    let mut theirs = Tunn::new(secret, public, Some([42; 32]), None, 7, None);
    let mut room = [0; 2000];
    let outcome = theirs.decapsulate(Some(IpAddr::from([192, 0, 2, 9])), &initiation, &mut room);
    assert!(matches!(outcome, TunnResult::Err(WireGuardError::InvalidMac)), "{outcome:?}");
}

#[test]
fn another_suite_ends_the_session_and_the_next_handshake_is_of_it() {
    let (a, b) = connected(at(0.0), Settings::default());
    let (mut a, mut b) = (set(a), set(b));
    assert!(!a.protocol.set_suite(a.peer, AES), "no change");
    let late = a.seal(at(1.0), b"sealed before");
    assert!(b.open(at(1.0), &late).is_err(), "the session is gone");
    // After the minimum time between two initiations.
    let initiation: Vec<_> = a.wants_to_send(at(10.0));
    exchange(at(10.0), &mut a, &mut b, initiation);
    send(at(11.0), &mut a, &mut b, b"there");
}
