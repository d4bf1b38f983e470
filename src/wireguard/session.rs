//! A session: one key per direction, the send counter and the replay window.
//!
//! Workers share a session through `Arc`. Sending takes no lock: counters are reserved with one
//! `fetch_add` per superpacket. Receiving locks the replay window once per run, after the run has
//! been authenticated; the lock is uncontended, because one lane receives from each peer.
//!
//! Outbound, segmentation writes payloads in place, and sealed runs go to the UDP socket. Inbound,
//! runs come from the UDP socket, and opened payloads go to the check of their inner source.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use arrayvec::ArrayVec;
use crossbeam::utils::CachePadded;
use zeroize::Zeroizing;

use super::activity::Activity;
use super::aead::{Backend, MAX_RUN, TransportKey};
use super::messages::{DATA_HEADER, DATA_OVERHEAD, data_counter, write_data_header};
use super::replay::ReplayWindow;
use super::suite::Suite;
use super::timers::{
    REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME, REKEY_AFTER_MESSAGES, REKEY_AFTER_TIME,
    REKEY_AFTER_TIME_RECEIVING,
};
use crate::drops::{DropReason, DropTally};
use crate::units::{Nanos, PeerId};

/// This end's role in the handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// This end sent message 1.
    Initiator,
    /// This end sent message 2.
    Responder,
}

/// Limits on the number of messages of a session. The defaults are the protocol's; tests lower them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageLimits {
    /// Sending this counter or a greater one requests a new session.
    pub rekey_after: u64,
    /// This counter and greater ones are neither sent nor accepted. At most
    /// [`REJECT_AFTER_MESSAGES`].
    pub reject_after: u64,
}

impl Default for MessageLimits {
    fn default() -> Self {
        MessageLimits { rekey_after: REKEY_AFTER_MESSAGES, reject_after: REJECT_AFTER_MESSAGES }
    }
}

/// Transport keys derived by a handshake (section 5.4.5).
pub struct SessionKeys {
    /// The cipher suite.
    pub suite: Suite,
    /// The key for sealing.
    pub send: Zeroizing<[u8; 32]>,
    /// The key for opening.
    pub receive: Zeroizing<[u8; 32]>,
}

/// Parameters of [`Session::new`].
pub struct SessionParts {
    /// The peer at the other end.
    pub peer: PeerId,
    /// The record of the peer's traffic, shared by all its sessions.
    pub activity: Arc<Activity>,
    /// This end's role in the handshake.
    pub role: Role,
    /// Receiver index of messages from the peer.
    pub local_index: u32,
    /// Receiver index of messages to the peer.
    pub remote_index: u32,
    /// When this end derived the keys.
    pub created: Nanos,
    /// The transport keys.
    pub keys: SessionKeys,
    /// Limits on the number of messages.
    pub limits: MessageLimits,
    /// Implementation that seals and opens.
    pub backend: Backend,
    /// Length of the replay window, in counters.
    pub window: u64,
}

/// The transport keys of a completed handshake, with their counters.
pub struct Session {
    peer: PeerId,
    activity: Arc<Activity>,
    role: Role,
    local_index: u32,
    remote_index: u32,
    created: Nanos,
    limits: MessageLimits,
    send_key: TransportKey,
    receive_key: TransportKey,
    awaits_confirmation: AtomicBool,
    // Padded, because senders write the first and receivers the second.
    next_counter: CachePadded<AtomicU64>,
    replay: CachePadded<Mutex<ReplayWindow>>,
}

/// An opened payload, as a byte range of its run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Offset of the plaintext, in bytes.
    pub offset: u32,
    /// Length of the plaintext with its padding, in bytes; 0 for a keepalive.
    pub len: u32,
}

/// The opened payloads of one run, in the order of its datagrams.
pub type OpenedRun = ArrayVec<Opened, MAX_RUN>;

impl Session {
    /// Creates a session that has carried no messages.
    ///
    /// # Panics
    /// Panics if `limits.reject_after` exceeds [`REJECT_AFTER_MESSAGES`].
    pub fn new(parts: SessionParts) -> Self {
        assert!(parts.limits.reject_after <= REJECT_AFTER_MESSAGES, "limits are lowered, never raised");
        Session {
            peer: parts.peer,
            activity: parts.activity,
            role: parts.role,
            local_index: parts.local_index,
            remote_index: parts.remote_index,
            created: parts.created,
            limits: parts.limits,
            send_key: TransportKey::new(&parts.keys.send, parts.keys.suite, parts.backend),
            receive_key: TransportKey::new(&parts.keys.receive, parts.keys.suite, parts.backend),
            awaits_confirmation: AtomicBool::new(parts.role == Role::Responder),
            next_counter: CachePadded::default(),
            replay: CachePadded::new(Mutex::new(ReplayWindow::new(parts.window))),
        }
    }

    /// Returns the peer at the other end.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Returns the record of the peer's traffic. Workers update it once per batch.
    pub fn activity(&self) -> &Activity {
        &self.activity
    }

    /// Returns this end's role in the handshake.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Returns the receiver index of messages from the peer.
    pub fn local_index(&self) -> u32 {
        self.local_index
    }

    /// Returns the receiver index of messages to the peer.
    pub fn remote_index(&self) -> u32 {
        self.remote_index
    }

    /// Returns when this end derived the keys.
    pub fn created(&self) -> Nanos {
        self.created
    }

    /// Returns how many counters have been reserved.
    pub fn sent(&self) -> u64 {
        self.next_counter.load(Relaxed)
    }

    /// Reserves `n` consecutive counters, at most [`MAX_RUN`], and returns the first. Returns `None` if
    /// that would exceed the message limit: the session is exhausted.
    ///
    /// # Panics
    /// Panics if `n` exceeds [`MAX_RUN`].
    #[inline]
    pub fn reserve(&self, n: u32) -> Option<u64> {
        assert!(n as usize <= MAX_RUN, "a run has at most MAX_RUN datagrams");
        // The check keeps the counter of an exhausted session from growing until it wraps. Threads
        // that pass the check together overshoot by one run each; 2^13 counters above the highest
        // limit leave room for that.
        if self.sent() >= self.limits.reject_after {
            return None;
        }
        let first = self.next_counter.fetch_add(u64::from(n), Relaxed);
        (first.checked_add(u64::from(n))? <= self.limits.reject_after).then_some(first)
    }

    /// Returns whether the session is young enough to send with (section 6.2).
    #[inline]
    pub fn can_send(&self, now: Nanos) -> bool {
        now.since(self.created) < REJECT_AFTER_TIME
    }

    /// Returns whether the session is young enough to receive with (section 6.2).
    #[inline]
    pub fn can_receive(&self, now: Nanos) -> bool {
        now.since(self.created) < REJECT_AFTER_TIME
    }

    /// Returns whether sending the message with this `counter` requires a new session (section 6.2).
    /// Only the initiator considers age, so that the two ends do not start handshakes at once.
    #[inline]
    pub fn rekey_due_on_send(&self, now: Nanos, counter: u64) -> bool {
        counter >= self.limits.rekey_after
            || (self.role == Role::Initiator && now.since(self.created) >= REKEY_AFTER_TIME)
    }

    /// Returns whether receiving requires a new session (section 6.2).
    #[inline]
    pub fn rekey_due_on_receive(&self, now: Nanos) -> bool {
        self.role == Role::Initiator && now.since(self.created) >= REKEY_AFTER_TIME_RECEIVING
    }

    /// Returns whether the protocol still needs to be told of an authentic message on this session
    /// (`Protocol::confirmed`). A responder must not send before that (section 5.4.5).
    ///
    /// Workers check this after each run with an authentic message and notify the protocol while it is
    /// true, so a lost notification does no harm.
    #[inline]
    pub fn awaits_confirmation(&self) -> bool {
        self.awaits_confirmation.load(Relaxed)
    }

    pub(super) fn set_confirmed(&self) {
        self.awaits_confirmation.store(false, Relaxed);
    }

    /// Writes headers and seals a run in place. The datagrams lie back to back in `run`, each
    /// `stride` bytes, the last one possibly shorter. Each has room for the header before its padded
    /// payload and for the tag after it. Datagram i gets the counter `first + i`; the counters come
    /// from [`reserve`](Self::reserve). A keepalive is a run of [`DATA_OVERHEAD`] bytes.
    ///
    /// # Panics
    /// Panics if there are more than [`MAX_RUN`] datagrams, or if one is shorter than
    /// [`DATA_OVERHEAD`] bytes.
    #[inline]
    pub fn seal_run(&self, first: u64, run: &mut [u8], stride: usize) {
        assert!(run.len().div_ceil(stride) <= MAX_RUN, "a run has at most MAX_RUN datagrams");
        for (counter, datagram) in (first..).zip(run.chunks_mut(stride)) {
            write_data_header(datagram, self.remote_index, counter);
        }
        self.send_key.seal_run(first, run, stride);
    }

    /// Opens a run in place, replaces the contents of `opened` with the payloads that are authentic
    /// and not replayed, and counts the other datagrams in `drops`. The datagrams lie in `run` as in
    /// [`seal_run`](Self::seal_run). The caller has checked that those long enough for a header are
    /// of [`Kind::Data`](super::messages::Kind) and carry our [`local_index`](Self::local_index).
    ///
    /// # Panics
    /// Panics if there are more than [`MAX_RUN`] datagrams.
    #[inline]
    pub fn open_run(&self, run: &mut [u8], stride: usize, opened: &mut OpenedRun, drops: &mut DropTally) {
        assert!(run.len().div_ceil(stride) <= MAX_RUN, "a run has at most MAX_RUN datagrams");
        opened.clear();
        let authentic = self.receive_key.open_run(run, stride);
        // A poisoned window is still sound: every step of `accept` only forgets counters that are too
        // old or marks one that was authenticated.
        let mut window = self.replay.lock().unwrap_or_else(PoisonError::into_inner);
        for (i, datagram) in run.chunks(stride).enumerate() {
            if datagram.len() < DATA_OVERHEAD {
                drops.add(DropReason::NotWireGuard, 1);
            } else if authentic >> i & 1 == 0 {
                drops.add(DropReason::Authentication, 1);
            } else if data_counter(datagram) >= self.limits.reject_after {
                drops.add(DropReason::SessionExpired, 1);
            } else if !window.accept(data_counter(datagram)) {
                drops.add(DropReason::Replay, 1);
            } else {
                let offset = (i * stride + DATA_HEADER) as u32;
                opened.push(Opened { offset, len: (datagram.len() - DATA_OVERHEAD) as u32 });
            }
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("peer", &self.peer)
            .field("role", &self.role)
            .field("local_index", &self.local_index)
            .field("remote_index", &self.remote_index)
            .field("created", &self.created)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::super::replay::WINDOW;
    use super::*;
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
}
