use super::*;
use crate::wireguard::replay::WINDOW;
use proptest::prelude::*;

const STRIDE: usize = 100 + DATA_OVERHEAD;

/// The two ends of one session.
fn pair(limits: MessageLimits) -> (Session, Session) {
    let end = |role, local_index, remote_index, send, receive| {
        Session::new(SessionParts {
            peer: PeerId(0),
            activity: Arc::default(),
            role,
            local_index,
            remote_index,
            created: Nanos(1),
            keys: SessionKeys {
                suite: Suite::default(),
                send: Zeroizing::new([send; 32]),
                receive: Zeroizing::new([receive; 32]),
            },
            limits,
            backend: Backend::default(),
            window: WINDOW,
        })
    };
    (end(Role::Initiator, 1, 2, 3, 4), end(Role::Responder, 2, 1, 4, 3))
}

fn sealed(session: &Session, payloads: &[u8]) -> Vec<u8> {
    let mut run: Vec<u8> = payloads.iter().flat_map(|&fill| [fill; STRIDE]).collect();
    let first = session.reserve(payloads.len() as u32).expect("counters are left");
    session.seal_run(first, &mut run, STRIDE);
    run
}

fn open(session: &Session, run: &mut [u8]) -> (Vec<Vec<u8>>, DropTally) {
    let (mut opened, mut drops) = (OpenedRun::new(), DropTally::default());
    session.open_run(run, STRIDE, &mut opened, &mut drops);
    let payloads = opened.iter().map(|o| run[o.offset as usize..][..o.len as usize].to_vec()).collect();
    (payloads, drops)
}

#[test]
fn a_run_arrives_as_it_was_sent() {
    let (a, b) = pair(MessageLimits::default());
    let mut run = sealed(&a, b"xyz");
    let (payloads, mut drops) = open(&b, &mut run);
    assert_eq!(payloads, [[b'x'; 100], [b'y'; 100], [b'z'; 100]]);
    drops.take(|reason, _| panic!("{reason:?}"));
}

#[test]
fn a_keepalive_is_a_run_of_one_empty_payload() {
    let (a, b) = pair(MessageLimits::default());
    let mut keepalive = [0; DATA_OVERHEAD];
    a.seal_run(a.reserve(1).unwrap(), &mut keepalive, DATA_OVERHEAD);
    assert_eq!(open(&b, &mut keepalive).0, [b""]);
}

#[test]
fn a_replayed_run_is_dropped_and_counted() {
    let (a, b) = pair(MessageLimits::default());
    let run = sealed(&a, b"xyz");
    assert_eq!(open(&b, &mut run.clone()).0.len(), 3);
    let (payloads, drops) = open(&b, &mut run.clone());
    assert!(payloads.is_empty());
    assert_eq!(drops.of(DropReason::Replay), 3);
}

#[test]
fn a_forged_counter_does_not_move_the_replay_window() {
    let (a, b) = pair(MessageLimits::default());
    let run = sealed(&a, b"xy");
    let mut forged = run.clone();
    write_data_header(&mut forged, 2, u64::MAX >> 1);
    let (payloads, drops) = open(&b, &mut forged);
    assert_eq!((payloads.len(), drops.of(DropReason::Authentication)), (1, 1));
    let (payloads, drops) = open(&b, &mut run.clone());
    assert_eq!((payloads.len(), drops.of(DropReason::Replay)), (1, 1), "the first is still accepted");
}

#[test]
fn a_cut_short_datagram_spoils_only_itself() {
    let (a, b) = pair(MessageLimits::default());
    for left in 0..STRIDE {
        let mut run = sealed(&a, b"xy");
        run.truncate(STRIDE + left);
        let (payloads, drops) = open(&b, &mut run);
        assert_eq!(payloads, [[b'x'; 100]]);
        let reason = match left {
            0 => continue,
            1..DATA_OVERHEAD => DropReason::NotWireGuard,
            _ => DropReason::Authentication,
        };
        assert_eq!(drops.of(reason), 1, "{left} bytes left");
    }
}

#[test]
fn counters_end_at_the_limit_and_stay_ended() {
    let (a, _) = pair(MessageLimits { rekey_after: 5, reject_after: 10 });
    assert_eq!(a.reserve(8), Some(0));
    assert!(!a.rekey_due_on_send(Nanos(2), 4) && a.rekey_due_on_send(Nanos(2), 5));
    assert_eq!(a.reserve(3), None, "would exceed the limit");
    for _ in 0..1000 {
        assert_eq!(a.reserve(1), None);
    }
    assert!(a.sent() < 20, "the counter of an exhausted session stops");
}

#[test]
fn the_limit_holds_for_what_is_received() {
    let (a, _) = pair(MessageLimits::default());
    let (_, b) = pair(MessageLimits { rekey_after: 5, reject_after: 2 });
    let (payloads, drops) = open(&b, &mut sealed(&a, b"xyz"));
    assert_eq!((payloads.len(), drops.of(DropReason::SessionExpired)), (2, 1));
}

#[test]
fn threads_never_share_a_counter() {
    let (a, _) = pair(MessageLimits { rekey_after: 0, reject_after: 10_000 });
    let mut counters: Vec<u64> = std::thread::scope(|scope| {
        let take = || std::iter::from_fn(|| a.reserve(7)).flat_map(|first| first..first + 7).collect();
        let threads: Vec<std::thread::ScopedJoinHandle<'_, Vec<u64>>> =
            (0..4).map(|_| scope.spawn(take)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    counters.sort_unstable();
    assert!(counters.windows(2).all(|pair| pair[0] < pair[1]));
    assert!(counters.last().is_some_and(|&last| last < 10_000));
}

#[test]
fn age_is_judged_by_role_and_direction() {
    let (initiator, responder) = pair(MessageLimits::default());
    let at = |seconds: u64| Nanos(1 + seconds * 1_000_000_000);
    assert!(!initiator.rekey_due_on_send(at(119), 0) && initiator.rekey_due_on_send(at(120), 0));
    assert!(!initiator.rekey_due_on_receive(at(164)) && initiator.rekey_due_on_receive(at(165)));
    assert!(!responder.rekey_due_on_send(at(179), 0) && !responder.rekey_due_on_receive(at(179)));
    for session in [initiator, responder] {
        assert!(session.can_send(at(179)) && !session.can_send(at(180)));
        assert!(session.can_receive(at(179)) && !session.can_receive(at(180)));
        assert!(session.can_send(Nanos::NEVER), "the clock stepped back");
    }
}

proptest! {
    #[test]
    fn random_bytes_never_open_and_never_panic(
        mut run in prop::collection::vec(any::<u8>(), 0..2000),
        stride in 16usize..200,
    ) {
        let (_, b) = pair(MessageLimits::default());
        let (mut opened, mut drops) = (OpenedRun::new(), DropTally::default());
        b.open_run(&mut run, stride, &mut opened, &mut drops);
        prop_assert!(opened.is_empty());
        let dropped = drops.of(DropReason::NotWireGuard) + drops.of(DropReason::Authentication);
        prop_assert_eq!(dropped as usize, run.len().div_ceil(stride));
    }
}
