//! A session: one key per direction, the send counter and the replay window.
//!
//! Workers share a session through `Arc`. Sending takes no lock: counters are reserved with one
//! `fetch_add` per run. Receiving locks the replay window once per run, after the run has been
//! authenticated; the lock is uncontended, because one lane receives from each peer.
//!
//! Outbound, segmentation writes payloads in place, and sealed runs go to the UDP socket. Inbound,
//! runs come from the UDP socket, and opened payloads go to the check of their inner source.

use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrayvec::ArrayVec;
use crossbeam::utils::CachePadded;
use zeroize::Zeroizing;

use super::activity::Activity;
use super::aead::{Backend, MAX_RUN, TransportKey, Verdicts};
use super::messages::{DATA_HEADER, DATA_OVERHEAD, data_counter, write_data_header};
use super::replay::ReplayWindow;
use super::settings::MessageLimits;
use super::state::SessionState;
use super::suite::Suite;
use super::timers::{REJECT_AFTER_MESSAGES, REJECT_AFTER_TIME, REKEY_AFTER_TIME, REKEY_AFTER_TIME_RECEIVING};
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

/// How far the confirmation of a session has come. Only a responder's session starts unconfirmed.
mod stage {
    /// No authentic message was received yet.
    pub(super) const UNCONFIRMED: u8 = 0;
    /// A worker has received one; the protocol has not heard of it.
    pub(super) const PROMOTED: u8 = 1;
    /// Confirmed, or overtaken by a session of this end's own handshake.
    pub(super) const SETTLED: u8 = 2;
    /// Retired.
    pub(super) const ENDED: u8 = 3;
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
    /// The keys themselves, for a process that takes over.
    keys: SessionKeys,
    /// One of the constants in [`stage`].
    stage: AtomicU8,
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
            stage: AtomicU8::new(match parts.role {
                Role::Initiator => stage::SETTLED,
                Role::Responder => stage::UNCONFIRMED,
            }),
            keys: parts.keys,
            next_counter: CachePadded::default(),
            replay: CachePadded::new(Mutex::new(ReplayWindow::new(parts.window))),
        }
    }

    /// Creates the session that another process has carried on up to `state`. `parts` are those of `state`; `reserve`
    /// counters are not sent.
    pub(super) fn restored(parts: SessionParts, state: &SessionState, reserve: u64) -> Self {
        let window = parts.window;
        let session = Self::new(parts);
        if state.confirmed {
            session.settle();
        }
        session.next_counter.store(state.next_counter.saturating_add(reserve), Relaxed);
        let received = ReplayWindow::restored(window, &state.received);
        *session.replay.lock().unwrap_or_else(PoisonError::into_inner) = received;
        session
    }

    /// Returns the session's state. No worker may use the session meanwhile.
    pub(super) fn export(&self) -> SessionState {
        SessionState {
            initiator: self.role == Role::Initiator,
            local_index: self.local_index,
            remote_index: self.remote_index,
            created: self.created,
            confirmed: self.stage.load(Ordering::SeqCst) != stage::UNCONFIRMED,
            suite: self.keys.suite as u8,
            send_key: self.keys.send.clone(),
            receive_key: self.keys.receive.clone(),
            next_counter: self.sent(),
            received: self.replay.lock().unwrap_or_else(PoisonError::into_inner).export(),
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
    /// Workers check this after each run with an authentic message. While it is true, they
    /// [promote](Self::promote) the session and notify the protocol, so a lost notification does no harm.
    #[inline]
    pub fn awaits_confirmation(&self) -> bool {
        matches!(self.stage.load(Relaxed), stage::UNCONFIRMED | stage::PROMOTED)
    }

    /// Records that a worker has received an authentic message on this session, which makes it the one to
    /// send with. Returns whether the worker may install it: false once the protocol has settled the
    /// session itself, because it was confirmed, overtaken by a later session, or ended.
    ///
    /// Of a worker that promotes and a protocol that settles at the same time, the first decides: the
    /// protocol treats a session that was promoted before as confirmed.
    pub fn promote(&self) -> bool {
        let exchanged = self.stage.compare_exchange(
            stage::UNCONFIRMED,
            stage::PROMOTED,
            Ordering::SeqCst,
            Ordering::SeqCst,
        );
        matches!(exchanged, Ok(_) | Err(stage::PROMOTED))
    }

    /// Returns whether the session was retired: nothing is sent on it any more.
    pub fn has_ended(&self) -> bool {
        self.stage.load(Ordering::SeqCst) == stage::ENDED
    }

    /// Returns whether a worker has promoted the session and the protocol has not settled it yet.
    pub(super) fn is_promoted(&self) -> bool {
        self.stage.load(Ordering::SeqCst) == stage::PROMOTED
    }

    /// Settles the session: from here on only the protocol decides whether it is sent with. Returns
    /// whether a worker promoted it before.
    pub(super) fn settle(&self) -> bool {
        self.stage.swap(stage::SETTLED, Ordering::SeqCst) == stage::PROMOTED
    }

    /// Ends the session for good. Must come before the caller withdraws it from the workers.
    pub(super) fn end(&self) {
        self.stage.store(stage::ENDED, Ordering::SeqCst);
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
        opened.clear();
        let authentic = self.authenticate(run, stride);
        let mut counters = self.counters();
        for (i, datagram) in run.chunks(stride).enumerate() {
            if datagram.len() < DATA_OVERHEAD {
                drops.add(DropReason::NotWireGuard, 1);
            } else if authentic >> i & 1 == 0 {
                drops.add(DropReason::Authentication, 1);
            } else if let Some(reason) = counters.refuse(data_counter(datagram)) {
                drops.add(reason, 1);
            } else {
                let offset = (i * stride + DATA_HEADER) as u32;
                opened.push(Opened { offset, len: (datagram.len() - DATA_OVERHEAD) as u32 });
            }
        }
    }

    /// Opens a run in place and returns which of its datagrams are authentic: the first half of
    /// [`open_run`](Self::open_run), which any worker may do. The second half is [`counters`](Self::counters).
    ///
    /// # Panics
    /// Panics if there are more than [`MAX_RUN`] datagrams.
    #[inline]
    pub fn authenticate(&self, run: &mut [u8], stride: usize) -> Verdicts {
        assert!(run.len().div_ceil(stride) <= MAX_RUN, "a run has at most MAX_RUN datagrams");
        self.receive_key.open_run(run, stride)
    }

    /// Locks the received counters, to check those of authentic datagrams. Hold the lock for one run.
    #[inline]
    pub fn counters(&self) -> Counters<'_> {
        // A poisoned window is still sound: every step of `accept` only forgets counters that are too
        // old or marks one that was authenticated.
        let window = self.replay.lock().unwrap_or_else(PoisonError::into_inner);
        Counters { window, limit: self.limits.reject_after }
    }
}

/// The received counters of a session, locked.
pub struct Counters<'s> {
    window: MutexGuard<'s, ReplayWindow>,
    limit: u64,
}

impl Counters<'_> {
    /// Marks the `counter` of an authentic datagram as received. Returns the reason to drop the datagram
    /// if it is a replay or beyond the session's limit.
    #[inline]
    pub fn refuse(&mut self, counter: u64) -> Option<DropReason> {
        if counter >= self.limit {
            Some(DropReason::SessionExpired)
        } else if !self.window.accept(counter) {
            Some(DropReason::Replay)
        } else {
            None
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
mod tests;
