//! Handshakes: both roles, replays, authentication failures, and cookies under load.

use crate::wireguard::settings::{LoadLimits, Settings};
use std::net::SocketAddr;

use super::world::{End, at, connected, exchange, pair, private, send};
use crate::wireguard::keys::{KeyError, PresharedKey, PublicKey};
use crate::wireguard::messages::{COOKIE_REPLY, Kind};
use crate::wireguard::outputs::HandshakeDrop;
use crate::wireguard::protocol::AddPeerError;

/// Settings under load from the first message on.
fn loaded() -> Settings {
    Settings { load: LoadLimits { begins_over: 0, ends_at: 0 }, ..Settings::default() }
}

#[test]
fn two_ends_carry_data_both_ways() {
    let (mut a, mut b) = connected(at(0.0), Settings::default());
    send(at(1.0), &mut a, &mut b, b"there");
    send(at(1.0), &mut b, &mut a, b"and back");
    assert_eq!((a.handshakes, b.handshakes), (1, 1));
    assert_eq!((a.roamed, b.roamed, b.initiated), (1, 0, 1));
    assert_eq!(
        a.protocol.peer(a.peer).unwrap().last_handshake,
        b.protocol.peer(b.peer).unwrap().last_handshake
    );
}

#[test]
fn the_responder_sends_only_after_the_first_authentic_packet() {
    let (mut a, mut b) = pair(Settings::default());
    let initiation = a.wants_to_send(at(0.0)).remove(0);
    let response = b.receive(at(0.0), &initiation).1.remove(0);
    assert!(b.sending.is_none());
    let keepalive = a.receive(at(0.0), &response).1.remove(0);
    let mut forged = keepalive.clone();
    forged[31] ^= 1;
    b.receive(at(0.0), &forged);
    assert!(b.sending.is_none(), "a forged packet confirms nothing");
    b.receive(at(0.0), &keepalive);
    assert!(b.sending.is_some());
}

#[test]
fn data_may_be_the_confirmation() {
    let (mut a, mut b) = pair(Settings::default());
    let initiation = a.wants_to_send(at(0.0)).remove(0);
    let response = b.receive(at(0.0), &initiation).1.remove(0);
    a.receive(at(0.0), &response);
    send(at(0.0), &mut a, &mut b, b"before the keepalive");
    assert!(b.sending.is_some());
}

#[test]
fn a_replayed_initiation_is_dropped() {
    let (mut a, mut b) = pair(Settings::default());
    let initiation = a.wants_to_send(at(0.0)).remove(0);
    b.receive(at(0.0), &initiation);
    b.receive(at(0.001), &initiation);
    b.receive(at(60.0), &initiation);
    assert_eq!(b.dropped, [HandshakeDrop::Replay; 2]);
    assert_eq!((b.roamed, b.initiated), (0, 1), "the endpoint does not change");
}

#[test]
fn two_initiations_at_once_are_answered_once_and_the_later_one_counts_when_it_comes_again() {
    let (mut a, mut b) = pair(Settings::default());
    let first = a.wants_to_send(at(0.0)).remove(0);
    let second = a.poll(at(5.4)).remove(0);
    assert_eq!(b.receive(at(5.5), &first).1.len(), 1);
    b.receive(at(5.501), &second);
    assert_eq!(b.dropped, [HandshakeDrop::TooSoon]);
    assert_eq!(b.receive(at(6.0), &second).1.len(), 1, "the dropped initiation was not accepted");
}

#[test]
fn a_replayed_response_is_dropped_and_disturbs_nothing() {
    let (mut a, mut b) = pair(Settings::default());
    let initiation = a.wants_to_send(at(0.0)).remove(0);
    let response = b.receive(at(0.0), &initiation).1.remove(0);
    let keepalive = a.receive(at(0.0), &response).1.remove(0);
    b.receive(at(0.0), &keepalive);
    a.receive(at(0.0), &response);
    assert_eq!(a.dropped, [HandshakeDrop::UnknownIndex]);
    send(at(0.0), &mut a, &mut b, b"still fine");
}

#[test]
fn a_wrong_first_mac_is_dropped_before_anything_else() {
    let (mut a, mut b) = pair(loaded());
    let mut initiation = a.wants_to_send(at(0.0)).remove(0);
    initiation[120] ^= 1;
    assert_eq!(b.receive(at(0.0), &initiation).1, Vec::<Vec<u8>>::new(), "not even a cookie is sent");
    assert_eq!(b.dropped, [HandshakeDrop::Mac1]);
}

#[test]
fn unknown_keys_and_other_preshared_keys_get_no_response() {
    let (_, mut b) = pair(Settings::default());
    let mut unknown = End::new(3, &private(2).public_key(), Settings::default());
    let initiation = unknown.wants_to_send(at(0.0)).remove(0);
    b.receive(at(0.0), &initiation);
    assert_eq!(b.dropped, [HandshakeDrop::UnknownPeer]);

    let (mut a, mut b) = pair(Settings::default());
    a.protocol.set_preshared_key(a.peer, PresharedKey::none());
    let initiation = a.wants_to_send(at(0.0)).remove(0);
    let response = b.receive(at(0.0), &initiation).1.remove(0);
    a.receive(at(0.0), &response);
    assert_eq!(a.dropped, [HandshakeDrop::Authentication]);
    assert!(a.sending.is_none());
}

#[test]
fn under_load_a_cookie_is_demanded_and_then_honoured() {
    let (mut a, mut b) = (
        End::new(1, &private(2).public_key(), Settings::default()),
        End::new(2, &private(1).public_key(), loaded()),
    );
    let initiation = a.wants_to_send(at(0.0)).remove(0);
    let reply = b.receive(at(0.0), &initiation).1.remove(0);
    assert_eq!((Kind::of(&reply), reply.len()), (Some(Kind::CookieReply), COOKIE_REPLY));
    assert_eq!(b.dropped, [HandshakeDrop::CookieDemanded]);
    assert!(a.receive(at(0.1), &reply).1.is_empty(), "a cookie reply triggers no message");

    let again = a.poll(at(5.4)).remove(0);
    let elsewhere: SocketAddr = "192.0.2.1:51821".parse().unwrap();
    let (_, reply) = b.receive_from(at(5.4), elsewhere, &again);
    assert_eq!(Kind::of(&reply[0]), Some(Kind::CookieReply), "a cookie is only valid for its own port");
    exchange(at(5.4), &mut a, &mut b, vec![again]);
    send(at(5.5), &mut b, &mut a, b"through");
}

#[test]
fn under_load_one_source_is_limited_even_with_a_cookie() {
    let (mut a, mut b) = (
        End::new(1, &private(2).public_key(), Settings::default()),
        End::new(2, &private(1).public_key(), loaded()),
    );
    let initiation = a.wants_to_send(at(0.0)).remove(0);
    let reply = b.receive(at(0.0), &initiation).1.remove(0);
    a.receive(at(0.0), &reply);
    let with_cookie = a.poll(at(5.4)).remove(0);
    b.dropped.clear();
    for _ in 0..50 {
        b.receive(at(5.4), &with_cookie);
    }
    let limited = b.dropped.iter().filter(|&&reason| reason == HandshakeDrop::RateLimited).count();
    assert_eq!(
        (limited, b.dropped.len()),
        (45, 49),
        "one is answered, four are replays, the rest are rate limited"
    );
}

#[test]
fn a_replayed_cookie_reply_is_dropped() {
    let (mut a, mut b) = (
        End::new(1, &private(2).public_key(), Settings::default()),
        End::new(2, &private(1).public_key(), loaded()),
    );
    let initiation = a.wants_to_send(at(0.0)).remove(0);
    let reply = b.receive(at(0.0), &initiation).1.remove(0);
    a.receive(at(0.0), &reply);
    a.receive(at(0.0), &reply);
    assert_eq!(a.dropped, [HandshakeDrop::Authentication]);
}

#[test]
fn when_both_start_at_once_data_flows_both_ways() {
    let (mut a, mut b) = pair(Settings::default());
    let from_a = a.wants_to_send(at(0.0)).remove(0);
    let from_b = b.wants_to_send(at(0.0)).remove(0);
    let answer_of_b = b.receive(at(0.0), &from_a).1.remove(0);
    let answer_of_a = a.receive(at(0.0), &from_b).1.remove(0);
    let keepalive_of_a = a.receive(at(0.0), &answer_of_b).1.remove(0);
    let keepalive_of_b = b.receive(at(0.0), &answer_of_a).1.remove(0);
    for _ in 0..3 {
        send(at(0.1), &mut a, &mut b, b"from a");
        send(at(0.1), &mut b, &mut a, b"from b");
    }
    b.receive(at(0.2), &keepalive_of_a);
    a.receive(at(0.2), &keepalive_of_b);
    send(at(0.3), &mut a, &mut b, b"from a");
    send(at(0.3), &mut b, &mut a, b"from b");
    assert!(a.dropped.is_empty() && b.dropped.is_empty());
}

#[test]
fn without_a_private_key_nothing_is_answered_or_sent() {
    let (mut a, mut b) = pair(Settings::default());
    assert!(b.protocol.set_private_key(None).changed);
    let initiation = a.wants_to_send(at(0.0)).remove(0);
    assert!(b.receive(at(0.0), &initiation).1.is_empty());
    assert_eq!(b.dropped, [HandshakeDrop::NoPrivateKey]);
    assert!(b.wants_to_send(at(0.0)).is_empty() && b.poll(at(0.0)).is_empty());
}

#[test]
fn another_private_key_ends_all_sessions_and_the_same_one_none() {
    let (mut a, mut b) = connected(at(0.0), Settings::default());
    assert!(!a.protocol.set_private_key(Some(private(1))).changed);
    send(at(0.0), &mut b, &mut a, b"still here");
    let index = a.sending.take().unwrap().local_index();
    assert!(a.protocol.set_private_key(Some(private(3))).changed);
    assert!(a.table.get(index).is_none());
}

#[test]
fn a_peer_whose_key_becomes_our_own_is_removed() {
    let (mut a, _) = pair(Settings::default());
    let change = a.protocol.set_private_key(Some(private(2)));
    assert_eq!(change.removed, Some(a.peer));
    let own = private(2).public_key();
    assert_eq!(a.protocol.add_peer(own), Err(AddPeerError::OwnKey(own)));
}

#[test]
fn the_identity_of_a_removed_peer_is_never_used_again() {
    let (mut a, _) = connected(at(0.0), Settings::default());
    let (session, key) = (a.sending.take().unwrap(), private(2).public_key());
    assert_eq!(a.protocol.add_peer(key), Err(AddPeerError::Exists(key)));
    assert!(a.protocol.remove_peer(a.peer) && !a.protocol.remove_peer(a.peer));
    assert!(a.table.get(session.local_index()).is_none());
    drop(session);
    let second = a.protocol.add_peer(key).unwrap();
    assert_ne!(second, a.peer);
    assert_eq!(second.slot(), a.peer.slot(), "the slot is free");
    assert!(a.protocol.peer(a.peer).is_none() && !a.protocol.remove_peer(a.peer));
    assert_eq!(a.protocol.peers().map(|(id, _)| id).collect::<Vec<_>>(), [second]);
}

#[test]
fn a_peer_with_a_low_order_key_fails_at_once() -> Result<(), KeyError> {
    for hex in ["00".repeat(32), format!("01{}", "00".repeat(31)), format!("ec{}7f", "ff".repeat(30))] {
        let mut a = End::new(1, &PublicKey::from_hex(&hex)?, Settings::default());
        assert!(a.wants_to_send(at(0.0)).is_empty());
        assert_eq!(a.failures, 1);
    }
    Ok(())
}
