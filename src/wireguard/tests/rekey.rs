//! Timers: sessions are replaced before they expire, silence is detected, and handshakes with an
//! absent peer are abandoned (whitepaper, section 6).

use crate::wireguard::settings::{MessageLimits, Settings};
use std::time::Duration;

use super::world::{at, connected, exchange, pair, private, send};
use crate::drops::DropReason;
use crate::wireguard::messages::{DATA_OVERHEAD, INITIATION, Kind};
use crate::wireguard::timers::{MAX_ATTEMPTS, MAX_JITTER, REKEY_TIMEOUT};
use proptest::prelude::*;

fn is_initiation(datagram: &[u8]) -> bool {
    Kind::of(datagram) == Some(Kind::Initiation) && datagram.len() == INITIATION
}

fn is_keepalive(datagram: &[u8]) -> bool {
    Kind::of(datagram) == Some(Kind::Data) && datagram.len() == DATA_OVERHEAD
}

#[test]
fn an_initiator_that_sends_replaces_its_session_after_120_seconds() {
    let (mut a, mut b) = connected(at(0.0), Settings::default());
    assert!(a.wants_to_send(at(119.9)).is_empty());
    assert!(b.wants_to_send(at(121.0)).is_empty(), "only the initiator rekeys by age");
    let old = a.sending.clone().unwrap();
    let initiation = a.wants_to_send(at(121.0));
    assert!(is_initiation(&initiation[0]));
    send(at(121.0), &mut a, &mut b, b"meanwhile the old one works");
    let late = b.seal(at(121.0), b"late");
    exchange(at(121.1), &mut a, &mut b, initiation);
    assert_ne!(a.sending.as_ref().unwrap().local_index(), old.local_index());
    send(at(121.2), &mut a, &mut b, b"on the new one");
    send(at(121.2), &mut b, &mut a, b"on the new one");
    assert_eq!(a.receive(at(121.2), &late).0, [b"late"], "a datagram in flight still arrives");
    assert_eq!((a.handshakes, b.handshakes), (2, 2));
}

#[test]
fn an_initiator_that_only_receives_replaces_its_session_after_165_seconds() {
    let (a, b) = connected(at(0.0), Settings::default());
    let (ours, theirs) = (a.sending.unwrap(), b.sending.unwrap());
    assert!(!ours.rekey_due_on_receive(at(164.9)) && ours.rekey_due_on_receive(at(165.0)));
    assert!(!theirs.rekey_due_on_receive(at(179.0)));
}

#[test]
fn a_session_carries_nothing_after_180_seconds_and_is_erased_after_540() {
    let (mut a, mut b) = connected(at(0.0), Settings::default());
    let datagram = a.seal(at(179.0), b"too slow");
    assert_eq!(b.open(at(180.0), &datagram), Err(DropReason::SessionExpired));
    let index = b.sending.as_ref().unwrap().local_index();
    b.poll_until(at(0.0), at(539.0));
    assert!(b.sending.is_none(), "the workers stopped sending");
    assert!(b.table.get(index).is_some());
    b.poll(at(540.0));
    assert!(b.table.get(index).is_none());
    assert_eq!(b.next_poll, None, "an idle peer costs nothing");
    assert_eq!(b.open(at(541.0), &datagram), Err(DropReason::UnknownIndex));
}

#[test]
fn either_end_starts_anew_when_the_session_has_ended() {
    let (mut a, mut b) = connected(at(0.0), Settings::default());
    b.poll(at(181.0));
    let initiation = b.wants_to_send(at(181.0));
    exchange(at(181.0), &mut b, &mut a, initiation);
    send(at(181.0), &mut b, &mut a, b"again");
}

#[test]
fn a_session_that_carried_its_share_is_replaced() {
    let messages = MessageLimits { rekey_after: 3, reject_after: 6 };
    let (mut a, mut b) = connected(at(0.0), Settings { messages, ..Settings::default() });
    // The keepalive that ends the handshake used the first counter.
    send(at(6.0), &mut a, &mut b, b"1");
    assert!(a.wants_to_send(at(6.0)).is_empty());
    send(at(6.0), &mut a, &mut b, b"2");
    let initiation = a.wants_to_send(at(6.0));
    assert!(is_initiation(&initiation[0]));
    let session = a.sending.clone().unwrap();
    assert_eq!(session.reserve(4), None, "a run is reserved as a whole or not at all");
    assert_eq!(session.reserve(1), None, "the session is exhausted");
    exchange(at(6.0), &mut a, &mut b, initiation);
    send(at(6.0), &mut a, &mut b, b"on the next session");
}

#[test]
fn an_unanswered_initiation_is_repeated_and_given_up_after_90_seconds() {
    let (mut a, _) = pair(Settings::default());
    let first = a.wants_to_send(at(0.0)).remove(0);
    let sent = a.poll_until(at(0.0), at(200.0));
    assert_eq!(sent.len() as u32 + 1, MAX_ATTEMPTS);
    let mut last = at(0.0);
    for (moment, datagram) in &sent {
        assert!(is_initiation(datagram) && datagram[..40] != first[..40], "each has a new index and key");
        let waited = moment.since(last);
        assert!(REKEY_TIMEOUT <= waited && waited <= REKEY_TIMEOUT + MAX_JITTER, "{waited:?}");
        last = *moment;
    }
    assert!(last >= at(85.0) && last <= at(91.0));
    assert_eq!((a.failures, a.next_poll), (1, None));
    assert_eq!(a.wants_to_send(at(100.0)).len(), 1, "new data tries again");
}

#[test]
fn data_that_keeps_coming_keeps_the_handshake_going() {
    let (mut a, _) = pair(Settings::default());
    a.wants_to_send(at(0.0));
    for seconds in 0..300 {
        let now = at(f64::from(seconds));
        assert!(a.wants_to_send(now).is_empty(), "waiting data does not cause more initiations");
        a.poll(now);
    }
    assert_eq!(a.failures, 0);
}

#[test]
fn a_late_response_to_a_repeated_initiation_is_dropped() {
    let (mut a, mut b) = pair(Settings::default());
    let first = a.wants_to_send(at(0.0)).remove(0);
    let late = b.receive(at(0.0), &first).1.remove(0);
    let second = a.poll(at(6.0));
    assert!(a.receive(at(6.0), &late).1.is_empty());
    assert!(a.sending.is_none());
    exchange(at(6.0), &mut a, &mut b, second);
    send(at(6.0), &mut b, &mut a, b"fine");
}

#[test]
fn received_data_is_acknowledged_after_10_seconds() {
    let (mut a, mut b) = connected(at(0.0), Settings::default());
    send(at(5.0), &mut a, &mut b, b"no answer needed");
    assert!(b.poll(at(14.9)).is_empty());
    assert_eq!(b.next_poll, Some(at(15.0)));
    let keepalive = b.poll(at(15.0));
    assert!(is_keepalive(&keepalive[0]));
    assert_eq!(a.receive(at(15.0), &keepalive[0]).0, [b""]);
    assert!(b.poll_until(at(15.0), at(170.0)).is_empty(), "a keepalive is not acknowledged");
    assert!(a.poll_until(at(15.0), at(170.0)).is_empty(), "the data counts as answered");
}

#[test]
fn an_answer_makes_the_keepalive_unnecessary() {
    let (mut a, mut b) = connected(at(0.0), Settings::default());
    send(at(5.0), &mut a, &mut b, b"ping");
    send(at(6.0), &mut b, &mut a, b"pong");
    assert!(b.poll_until(at(6.0), at(15.9)).is_empty());
}

#[test]
fn unanswered_data_calls_for_a_new_handshake_after_15_seconds() {
    let (mut a, mut b) = connected(at(0.0), Settings::default());
    a.seal(at(20.0), b"lost");
    a.seal(at(30.0), b"lost too");
    assert!(a.poll_until(at(30.0), at(34.9)).is_empty());
    let sent = a.poll_until(at(34.9), at(36.0));
    assert_eq!(sent.len(), 1);
    let (moment, initiation) = sent.into_iter().next().unwrap();
    assert!(is_initiation(&initiation) && moment >= at(35.0) && moment <= at(35.4));
    exchange(moment, &mut a, &mut b, vec![initiation]);
    send(at(37.0), &mut b, &mut a, b"back again");
}

#[test]
fn a_peer_that_never_answers_is_not_called_for_ever() {
    let (mut a, _) = connected(at(0.0), Settings::default());
    a.seal(at(20.0), b"lost");
    let sent = a.poll_until(at(20.0), at(10_000.0));
    assert_eq!((sent.len() as u32, a.failures), (MAX_ATTEMPTS, 1));
    assert_eq!(a.next_poll, None);
}

#[test]
fn a_persistent_keepalive_goes_out_at_once_and_then_in_silence() {
    let (mut a, mut b) = connected(at(0.0), Settings::default());
    a.protocol.set_persistent_keepalive(a.peer, Some(Duration::from_secs(25)));
    let sent = a.poll_until(at(1.0), at(60.0));
    assert_eq!(sent.iter().map(|(moment, _)| *moment).collect::<Vec<_>>(), [at(1.0), at(26.0), at(51.0)]);
    assert!(sent.iter().all(|(_, datagram)| is_keepalive(datagram)));
    b.receive(at(60.0), &sent[2].1);
    send(at(70.0), &mut b, &mut a, b"not silent");
    assert_eq!(a.poll_until(at(70.0), at(100.0))[0].0, at(80.0), "data is acknowledged after 10 seconds");
    a.protocol.set_persistent_keepalive(a.peer, Some(Duration::ZERO));
    assert_eq!(a.protocol.peer(a.peer).unwrap().persistent_keepalive, None);
}

#[test]
fn a_persistent_keepalive_keeps_a_tunnel_up_by_itself() {
    let (mut a, mut b) = pair(Settings::default());
    a.protocol.set_persistent_keepalive(a.peer, Some(Duration::from_secs(25)));
    let mut now = at(0.0);
    while now < at(1000.0) {
        let sent = a.poll(now);
        exchange(now, &mut a, &mut b, sent);
        if now > at(1.0) && a.sending.is_some() && b.sending.is_some() {
            send(now, &mut b, &mut a, b"reachable at any time");
        }
        now = a.next_poll.unwrap().min(now.after(Duration::from_secs(7)));
        // As a worker does when sending.
        let initiation = a.wants_to_send(now);
        exchange(now, &mut a, &mut b, initiation);
    }
    assert!(a.handshakes >= 8 && a.failures == 0);
}

#[test]
fn a_persistent_keepalive_calls_an_absent_peer_again_and_again() {
    let (mut a, _) = pair(Settings::default());
    a.protocol.set_persistent_keepalive(a.peer, Some(Duration::from_secs(25)));
    let sent = a.poll_until(at(0.0), at(500.0));
    assert!(sent.len() > 70 && sent.iter().all(|(_, datagram)| is_initiation(datagram)));
    assert!(sent.windows(2).all(|pair| pair[1].0.since(pair[0].0) >= REKEY_TIMEOUT));
    assert!(a.failures >= 4);
}

#[test]
fn a_handshake_that_must_wait_is_not_forgotten() {
    let (mut a, mut b) = connected(at(0.0), Settings::default());
    let session = a.sending.take().unwrap();
    a.protocol.set_private_key(None);
    a.protocol.set_private_key(Some(private(1)));
    assert!(a.wants_to_send(at(1.0)).is_empty(), "at least five seconds between two initiations");
    a.poll(at(1.0));
    assert_eq!(a.next_poll, Some(at(5.0)));
    let initiation = a.poll(at(5.0));
    exchange(at(5.0), &mut a, &mut b, initiation);
    assert_ne!(a.sending.as_ref().unwrap().local_index(), session.local_index());
}

#[test]
fn a_machine_that_slept_comes_back_by_itself() {
    let (mut a, mut b) = connected(at(0.0), Settings::default());
    send(at(1.0), &mut a, &mut b, b"good night");
    let morning = at(8.0 * 3600.0);
    let sent = a.poll(morning);
    assert!(sent.iter().all(|datagram| is_initiation(datagram)) && a.sending.is_none());
    b.poll(morning);
    let initiation = if sent.is_empty() { a.wants_to_send(morning) } else { sent };
    exchange(morning, &mut a, &mut b, initiation);
    send(morning, &mut a, &mut b, b"good morning");
}

#[test]
fn a_handshake_under_way_survives_sleep() {
    let (mut a, mut b) = pair(Settings::default());
    a.wants_to_send(at(0.0));
    let retry = a.poll(at(3600.0));
    assert!(is_initiation(&retry[0]) && a.failures == 0);
    exchange(at(3600.0), &mut a, &mut b, retry);
    send(at(3600.0), &mut b, &mut a, b"awake");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// For any sequence of clock jumps, losses and calls, nothing panics, polling does not spin
    /// (checked by `End::poll`), and data flows in the end.
    #[test]
    fn after_any_history_data_flows_again(
        steps in prop::collection::vec((0u8..8, 0.0f64..400.0, any::<bool>(), any::<bool>()), 1..60),
    ) {
        let (mut a, mut b) = pair(Settings::default());
        let mut clock = 1000.0;
        for (what, seconds, lost, swapped) in steps {
            clock = if what == 7 { (clock - seconds).max(0.0) } else { clock + seconds };
            let now = at(clock);
            let (one, other) = if swapped { (&mut b, &mut a) } else { (&mut a, &mut b) };
            let mut sent = one.poll(now);
            other.poll(now);
            match what {
                0..3 => sent.extend(one.wants_to_send(now)),
                3..5 if one.sending.as_ref().is_some_and(|s| s.can_send(now)) => sent.push(one.seal(now, b"data")),
                5 => { one.protocol.set_persistent_keepalive(one.peer, lost.then_some(Duration::from_secs(25))); }
                _ => {}
            }
            if !lost {
                exchange(now, one, other, sent);
            }
        }
        let now = at(clock + 1000.0);
        a.poll(now);
        b.poll(now);
        let now = at(clock + 1010.0);
        let mut initiation = a.wants_to_send(now);
        initiation.extend(a.poll(now));
        exchange(now, &mut a, &mut b, initiation);
        send(now, &mut a, &mut b, b"in the end");
        send(now, &mut b, &mut a, b"in the end");
    }
}
