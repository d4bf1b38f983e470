//! TUN to UDP, first half: turns superpackets into runs of sealed datagrams.
//!
//! 1. The destination selects the peer. Without a session, the superpacket is staged unchanged. A packet
//!    for the device's own address is written back at once; without a peer or an endpoint, or if the
//!    packet exceeds the path MTU, its sender is answered ([`super::reject`]). Our own sealed datagrams
//!    are dropped ([`crate::lane::routing_loop`]).
//! 2. Each segment is cut directly into the slab, after space for the message header.
//! 3. Consecutive datagrams to one destination and of one traffic class form a run, up to what one GSO
//!    send can carry. The outer header has the ECN field of the packet ([`crate::packet::class`]).
//! 4. When a run ends, its counters are reserved and all its datagrams are sealed in one call. With
//!    sharing on ([`crate::lane::share`]), they are sealed later, possibly by another worker.
//! 5. A full batch, and the last one of a drain, is pushed to the outside worker's ring.
//!
//! Counters are reserved in queue order and there is one ring, so packets of a flow leave in the order
//! they came. The ring cannot be full, since it holds every batch of the pool. When the pool is empty,
//! the queue is not read. If the outside worker sleeps, a lone datagram is sent directly
//! ([`crate::lane::shortcut`]).

mod release;

pub use release::Unstaged;

use std::mem;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Turn;
use super::handover::Handover;
use crate::drops::DropReason;
use crate::faults::{self, Stage};
use crate::lane::bounds::SLAB_BYTES;
use crate::lane::channels::ActorChannel;
use crate::lane::path_limit::told_mtu;
use crate::lane::peers::{PeerRecord, Snapshot};
use crate::lane::ring::batch::{OutboundBatch, Run};
use crate::lane::ring::{Pool, Ring};
use crate::lane::share::jobs::Job;
use crate::lane::share::{SHARE_FROM, Share};
use crate::lane::shortcut::SendShortcut;
use crate::lane::staging::Staging;
use crate::lane::standing::{ShortQueues, StandingQueue};
use crate::lane::wait::sleep::Stopped;
use crate::metrics::{Dropped, InsideMetrics};
use crate::offload::Superpacket;
use crate::packet::class::{self, CE, Dscp, traffic_class};
use crate::packet::reject::{Cause, must_not_be_fragmented};
use crate::underlay::{Endpoint, MAX_RUN_BYTES, max_run};
use crate::units::Nanos;
use crate::wireguard::messages::{DATA_HEADER, DATA_OVERHEAD, padded_len};
use crate::wireguard::session::Session;

/// The longest inner packet that fits one UDP datagram, in bytes.
const MAX_INNER: usize = MAX_RUN_BYTES - DATA_OVERHEAD;

/// The sealing half of an inside worker.
pub struct Sealer {
    pool: Pool<OutboundBatch>,
    handover: Handover,
    shortcut: SendShortcut,
    actor: Arc<ActorChannel>,
    mtu: Arc<AtomicUsize>,
    dscp: Dscp,
    batch: Option<Box<OutboundBatch>>,
    open: Option<PartialRun>,
    staging: Staging,
    /// Whether the TUN queue stands.
    standing: StandingQueue,
    /// The version of the snapshot that the staged packets were routed by.
    routed_by: u64,
    /// Packets taken over that are neither staged nor in a sealed run nor counted as dropped.
    in_hand: u64,
}

/// The run that the next segment may be appended to.
struct PartialRun {
    peer: Arc<PeerRecord>,
    session: Arc<Session>,
    way: Way,
    bytes: Range<usize>,
    stride: usize,
    room: usize,
}

/// Destination and traffic class of the datagrams of a run.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Way {
    to: Endpoint,
    class: u8,
}

impl PartialRun {
    /// Returns whether a datagram of `len` bytes for `session` and `way` can be appended to this run.
    #[inline]
    fn takes(&self, len: usize, session: &Arc<Session>, way: &Way) -> bool {
        len <= self.stride
            && self.room > 0
            && self.bytes.len().is_multiple_of(self.stride)
            && self.bytes.end + len <= SLAB_BYTES
            && Arc::ptr_eq(&self.session, session)
            && self.way == *way
    }
}

impl Sealer {
    /// Creates a sealer that fills batches of `pool` and pushes them to `ring`, or sends them
    /// through `shortcut`. `ring` must hold every batch of `pool`. `mtu` is the TUN's MTU in bytes, `dscp`
    /// the DSCP of the outer headers. With `share`, large batches may be sealed by other workers.
    pub fn new(
        pool: Pool<OutboundBatch>,
        ring: Arc<Ring<OutboundBatch>>,
        share: Option<Share<OutboundBatch>>,
        shortcut: SendShortcut,
        actor: Arc<ActorChannel>,
        mtu: Arc<AtomicUsize>,
        dscp: Dscp,
    ) -> Self {
        Self {
            pool,
            handover: Handover::new(ring, share),
            shortcut,
            actor,
            mtu,
            dscp,
            batch: None,
            open: None,
            staging: Staging::new(),
            standing: StandingQueue::new(ShortQueues::Off),
            routed_by: 0,
            in_hand: 0,
        }
    }

    /// Sets when bulk flows are slowed down to keep the TUN queue short. Initially, they never are.
    #[must_use]
    pub fn with_short_queues(mut self, policy: ShortQueues) -> Self {
        self.standing = StandingQueue::new(policy);
        self
    }

    /// Returns whether there is no batch to seal into.
    pub fn is_starved(&self) -> bool {
        self.batch.is_none() && self.pool.is_empty()
    }

    /// Returns the number of batches held, those on the return ring excluded.
    pub(super) fn batches(&self) -> usize {
        self.pool.kept() + self.handover.batches() + usize::from(self.batch.is_some())
    }

    /// Routes, segments and seals a superpacket, or stages it.
    pub(super) fn forward(&mut self, packet: &Superpacket<'_>, turn: &mut Turn<'_>) -> Result<(), Stopped> {
        self.in_hand += packet.segments() as u64;
        self.route(packet, turn)
    }

    /// Records whether a drain has emptied the TUN queue.
    pub(super) fn note_drain(&mut self, emptied: bool, now: Nanos) {
        self.standing.note(emptied, now);
    }

    /// Does the same for a packet in hand.
    fn route(&mut self, packet: &Superpacket<'_>, turn: &mut Turn<'_>) -> Result<(), Stopped> {
        if turn.rejecter.self_forward(packet, turn.metrics) {
            self.put_down(packet.segments());
            return Ok(());
        }
        faults::point(Stage::Route);
        let snapshot = turn.snapshot;
        let Some(peer) = snapshot.routes.lookup(packet.destination()) else {
            self.refuse(packet, DropReason::NoRoute, None, Cause::NotAllowed, turn);
            return Ok(());
        };
        // Staged packets go first, so later packets to the same peer queue behind them.
        if (self.staging.is_empty() || !self.staging.holds(peer.id))
            && let Some(session) = usable_session(peer, turn.now)
        {
            return self.seal(packet, peer, &session, turn);
        }
        self.stage(packet, peer, turn);
        Ok(())
    }

    /// Notes that `packets` packets are no longer in hand.
    #[inline]
    fn put_down(&mut self, packets: usize) {
        self.in_hand -= packets as u64;
    }

    /// Drops a packet in hand; see [`Turn::refuse`].
    fn refuse(
        &mut self,
        packet: &Superpacket<'_>,
        reason: DropReason,
        peer: Option<&PeerRecord>,
        cause: Cause,
        turn: &mut Turn<'_>,
    ) {
        self.put_down(packet.segments());
        turn.refuse(packet, reason, peer, cause);
    }

    /// Closes the open run, and hands over or sends the current batch.
    pub(super) fn flush(&mut self, snapshot: &Snapshot, metrics: &mut InsideMetrics) {
        self.close_run(metrics);
        if self.batch.as_ref().is_none_or(|batch| batch.runs.is_empty()) {
            return;
        }
        // A batch half sealed must not stay if this panics: nobody could tell which runs are.
        let Some(mut batch) = self.batch.take() else { return };
        let small = batch.used() < SHARE_FROM;
        if small {
            batch.run();
        }
        let batch = self.batch.insert(batch);
        if small && self.shortcut.send(batch, &self.pool, self.handover.ring(), snapshot) {
            batch.runs.clear();
        } else {
            self.hand_over(metrics);
        }
    }

    /// Passes on what other workers have sealed, without sealing anything. Returns whether there was any.
    pub(super) fn pass_on(&mut self, metrics: &mut InsideMetrics) -> bool {
        self.handover.pass_on(metrics)
    }

    /// Seals the oldest batch that no other worker has taken, and passes on what is sealed. Returns whether
    /// there was anything to do.
    pub(super) fn work(&mut self, metrics: &mut InsideMetrics) -> bool {
        self.handover.work(metrics)
    }

    /// The batches that have been filled and are not all sealed yet.
    pub(super) fn handover(&mut self) -> &mut Handover {
        &mut self.handover
    }

    /// Discards the packets in hand after a panic. Returns their number. Sealed runs and staged packets are kept.
    pub(super) fn recover(&mut self) -> u64 {
        self.open = None;
        // If it panicked while it routed staged packets again, some still wait for a previous owner.
        self.routed_by = u64::MAX;
        mem::take(&mut self.in_hand) + self.staging.repair()
    }

    /// Cuts `packet` into datagrams that `session` will seal.
    fn seal(
        &mut self,
        packet: &Superpacket<'_>,
        peer: &Arc<PeerRecord>,
        session: &Arc<Session>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Stopped> {
        let Some(to) = peer.endpoint() else {
            self.refuse(packet, DropReason::NoEndpoint, Some(peer), Cause::Unreachable, turn);
            return Ok(());
        };
        if self.drop_if_looped(packet, peer, &to, Some(session), turn) {
            self.put_down(packet.segments());
            return Ok(());
        }
        let limit = peer.path_limit.get(turn.now).unwrap_or(MAX_INNER).min(MAX_INNER);
        if does_not_fit(packet, limit) {
            let mtu = told_mtu(limit, packet.packet()) as u16;
            self.refuse(packet, DropReason::TooBig, Some(peer), Cause::TooBig(mtu), turn);
            return Ok(());
        }
        let way = Way { to, class: self.dscp.outer(traffic_class(packet.packet())) };
        let segments = packet.segments();
        let mtu = self.mtu.load(Ordering::Relaxed).min(limit);
        let mut dropped = 0;
        let mut signal =
            self.standing.must_signal(peer.id, packet.packet().len() as u64, segments > 1, turn.now);
        for index in 0..segments {
            let len = packet.segment_len(index);
            let padded = padded_len(len, mtu);
            let datagram = padded + DATA_OVERHEAD;
            if !self.open.as_ref().is_some_and(|run| run.takes(datagram, session, &way))
                && let Err(stopped) = self.begin_run(datagram, peer, session, way, turn)
            {
                self.put_down(segments - index);
                let lost = (segments - index) as u64;
                turn.metrics.outbound_drops.add(DropReason::Shutdown, lost);
                return Err(stopped);
            }
            let (Some(run), Some(batch)) = (&mut self.open, &mut self.batch) else {
                unreachable!("a run was just begun")
            };
            faults::point(Stage::Cut);
            let plaintext = run.bytes.end + DATA_HEADER;
            let room = &mut batch.data[plaintext..plaintext + padded];
            packet.write_segment(index, &mut room[..len]);
            if mem::take(&mut signal)
                && self.standing.signals_by(peer.id, &room[..len])
                && !class::decapsulate(&mut room[..len], CE)
            {
                self.in_hand -= 1;
                turn.metrics.outbound_drops.add_described(DropReason::StandingQueue, 1, || {
                    Dropped::packet(&room[..len]).with_peer(peer.public_key)
                });
                dropped += 1;
                continue;
            }
            room[len..].fill(0);
            run.bytes.end += datagram;
            run.room -= 1;
        }
        turn.metrics.segments.add(segments as u64 - dropped);
        if session.rekey_due_on_send(turn.now, session.sent()) {
            self.actor.want_handshake(peer);
        }
        session.activity().sent_data(turn.now);
        Ok(())
    }

    /// Closes the open run and begins one of `stride`-byte datagrams, in a new batch if the current one
    /// has no room.
    fn begin_run(
        &mut self,
        stride: usize,
        peer: &Arc<PeerRecord>,
        session: &Arc<Session>,
        way: Way,
        turn: &mut Turn<'_>,
    ) -> Result<(), Stopped> {
        self.close_run(turn.metrics);
        if self.batch.as_ref().is_some_and(|b| b.runs.is_full() || b.used() + stride > SLAB_BYTES) {
            self.hand_over(turn.metrics);
        }
        if self.batch.is_none() {
            self.batch = Some(turn.batch(&mut self.pool, &mut self.handover)?);
        }
        let start = self.batch.as_ref().map_or(0, |batch| batch.used());
        self.open = Some(PartialRun {
            peer: Arc::clone(peer),
            session: Arc::clone(session),
            way,
            bytes: start..start,
            stride,
            room: max_run(stride),
        });
        Ok(())
    }

    /// Reserves counters for the open run and seals it, or leaves it to be sealed with its batch.
    fn close_run(&mut self, metrics: &mut InsideMetrics) {
        let Some(PartialRun { peer, session, way, bytes, stride, .. }) = self.open.take() else { return };
        let batch = self.batch.as_mut().expect("an open run lies in a batch");
        let datagrams = bytes.len().div_ceil(stride) as u32;
        let Some(first) = session.reserve(datagrams) else {
            self.put_down(datagrams as usize);
            metrics.outbound_drops.add_described(DropReason::SessionExpired, u64::from(datagrams), || {
                Dropped::datagram_to(way.to.address, stride).with_peer(peer.public_key)
            });
            self.actor.want_handshake(&peer);
            return;
        };
        faults::point(Stage::Seal);
        if self.handover.is_shared() {
            batch.unsealed.push(bytes.start, bytes.len(), stride, first, session);
        } else {
            session.seal_run(first, &mut batch.data[bytes.clone()], stride);
        }
        batch.runs.push(Run {
            start: bytes.start as u32,
            len: bytes.len() as u32,
            stride: stride as u16,
            class: way.class,
            to: way.to,
            peer: peer.id,
        });
        self.put_down(datagrams as usize);
    }

    fn hand_over(&mut self, metrics: &mut InsideMetrics) {
        if let Some(batch) = self.batch.take() {
            faults::point(Stage::HandOver);
            self.handover.push(batch, metrics);
        }
    }

    /// Drops `packet` if it is one of our own datagrams to `peer` at `to`. Returns whether it was. No
    /// answer is sent, since we are the sender.
    #[inline]
    fn drop_if_looped(
        &self,
        packet: &Superpacket<'_>,
        peer: &PeerRecord,
        to: &Endpoint,
        session: Option<&Session>,
        turn: &mut Turn<'_>,
    ) -> bool {
        if packet.destination() != to.address.ip() || !peer.loop_watch.is_own(packet.packet(), to, session) {
            return false;
        }
        turn.note_drop(packet, DropReason::RoutingLoop, Some(peer));
        if peer.loop_watch.may_tell(turn.now) {
            self.actor.loops(peer.id);
        }
        true
    }
}

/// Returns whether segments of `packet` are too long for a path limit of `limit` bytes.
///
/// Packets that may be fragmented (IPv4 without DF) and packets no longer than the minimum MTU of their
/// IP version are sent anyway, if they fit one datagram: the kernel then fragments the datagram.
#[inline]
fn does_not_fit(packet: &Superpacket<'_>, limit: usize) -> bool {
    let longest = packet.stride();
    longest > limit
        && (longest > MAX_INNER
            || longest > told_mtu(limit, packet.packet()) && must_not_be_fragmented(packet.packet()))
}

/// Returns the session to seal with, if there is one that may still be used.
fn usable_session(peer: &PeerRecord, now: Nanos) -> Option<Arc<Session>> {
    peer.sending.load_full().filter(|session| session.can_send(now))
}
