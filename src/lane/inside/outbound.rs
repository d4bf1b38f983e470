//! TUN to socket, first half: from a superpacket that was read to runs of sealed datagrams.
//!
//! 1. the destination picks the peer, and the peer has a session, or the superpacket is staged as it is
//!    until it has. What is for this device itself goes back at once; without a peer, an endpoint, or
//!    a path wide enough, the sender is told ([`super::reject`]). What was sealed here before is dropped
//!    ([`crate::lane::routing_loop`]);
//! 2. each segment is cut straight into the slab, behind room for the message header;
//! 3. neighbours for one destination grow into one run, as long as one GSO send can carry it;
//! 4. when a run ends its counters are reserved and all its datagrams are sealed in one call;
//! 5. a full slab, and what is left at the end of a drain, goes into the outside worker's inbox.
//!
//! Counters are reserved in the order of the queue and all goes through one inbox, so packets of a
//! flow leave in the order they came. The inbox cannot be full: it holds as many batches as there
//! are. What runs out is slabs, and then the queue is not read. A lone datagram whose outside worker sleeps
//! is sent from here ([`crate::lane::shortcut`]).

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Turn;
use crate::drops::DropReason;
use crate::lane::batch::{OutboundBatch, Run};
use crate::lane::bounds::SLAB_BYTES;
use crate::lane::inbox::{Inbox, Pool};
use crate::lane::mailbox::PeerInbox;
use crate::lane::path_limit::told_mtu;
use crate::lane::peers::{PeerRecord, Snapshot};
use crate::lane::shortcut::SendShortcut;
use crate::lane::sleep::Stopped;
use crate::lane::staging::Staging;
use crate::lane::telemetry::InsideTelemetry;
use crate::offload::{Superpacket, VirtioHeader};
use crate::packet::reject::{Cause, must_not_be_fragmented};
use crate::underlay::{Endpoint, MAX_RUN_BYTES, max_run};
use crate::units::{MAX_PACKET, Nanos, PeerId};
use crate::wireguard::messages::{DATA_HEADER, DATA_OVERHEAD, padded_len};
use crate::wireguard::session::Session;

/// The longest inner packet that any path takes: one UDP datagram holds no more. In bytes.
const MAX_INNER: usize = MAX_RUN_BYTES - DATA_OVERHEAD;

/// The sealing half of an inside worker.
pub struct Outbound {
    pool: Pool<OutboundBatch>,
    outbox: Arc<Inbox<OutboundBatch>>,
    shortcut: SendShortcut,
    actor: Arc<PeerInbox>,
    mtu: Arc<AtomicUsize>,
    batch: Option<Box<OutboundBatch>>,
    open: Option<OpenRun>,
    staging: Staging,
    restored: Box<[u8]>,
}

/// The run that the next segment may join.
struct OpenRun {
    peer: Arc<PeerRecord>,
    session: Arc<Session>,
    to: Endpoint,
    bytes: Range<usize>,
    stride: usize,
    room: usize,
}

impl OpenRun {
    /// Whether a datagram of `len` bytes for `peer` can be the next of this run.
    #[inline]
    fn takes(&self, len: usize, session: &Arc<Session>, to: &Endpoint) -> bool {
        len <= self.stride
            && self.room > 0
            && self.bytes.len().is_multiple_of(self.stride)
            && self.bytes.end + len <= SLAB_BYTES
            && Arc::ptr_eq(&self.session, session)
            && self.to == *to
    }
}

impl Outbound {
    /// Seals into the slabs of `pool` and puts them into `outbox`, which holds all of them, unless the
    /// `shortcut` can be taken. `mtu` is the TUN's, in bytes.
    pub fn new(
        pool: Pool<OutboundBatch>,
        outbox: Arc<Inbox<OutboundBatch>>,
        shortcut: SendShortcut,
        actor: Arc<PeerInbox>,
        mtu: Arc<AtomicUsize>,
    ) -> Self {
        Self {
            pool,
            outbox,
            shortcut,
            actor,
            mtu,
            batch: None,
            open: None,
            staging: Staging::new(),
            restored: vec![0; VirtioHeader::LEN + MAX_PACKET].into_boxed_slice(),
        }
    }

    /// Whether there is no slab to seal into.
    pub fn is_starved(&self) -> bool {
        self.batch.is_none() && self.pool.is_empty()
    }

    /// Whether no packet waits for a handshake.
    pub fn nothing_staged(&self) -> bool {
        self.staging.is_empty()
    }

    /// Routes, segments and seals a superpacket, or stages it.
    pub(super) fn forward(&mut self, packet: &Superpacket<'_>, turn: &mut Turn<'_>) -> Result<(), Stopped> {
        if turn.rejects.self_forward(packet, turn.telemetry) {
            return Ok(());
        }
        let snapshot = turn.snapshot;
        let Some(peer) = snapshot.routes.lookup(packet.destination()) else {
            turn.refuse(packet, DropReason::NoRoute, Cause::NotAllowed);
            return Ok(());
        };
        // What is staged goes first, so more for the same peer waits behind it.
        if (self.staging.is_empty() || !self.staging.holds(peer.id))
            && let Some(session) = usable_session(peer, turn.now)
        {
            return self.seal(packet, peer, &session, turn);
        }
        self.stage(packet, peer, turn);
        Ok(())
    }

    /// Ends the open run, and hands over or sends what is in the current slab.
    pub(super) fn flush(&mut self, snapshot: &Snapshot, telemetry: &mut InsideTelemetry) {
        self.close_run(telemetry);
        let Some(batch) = self.batch.as_mut().filter(|batch| !batch.runs.is_empty()) else { return };
        if self.shortcut.send(batch, &self.pool, &self.outbox, snapshot) {
            batch.runs.clear();
        } else {
            self.hand_over();
        }
    }

    /// Seals what was staged for peers that have a session now, in order, and drops what waited
    /// for a handshake that was given up. Whether there was anything.
    pub(super) fn release_staged(&mut self, turn: &mut Turn<'_>) -> Result<bool, Stopped> {
        let mut ready: Option<(PeerId, Option<Arc<PeerRecord>>)> = None;
        for (id, attempt) in self.staging.peers() {
            let peer = turn.snapshot.peer(id);
            if peer.is_none_or(|peer| {
                peer.failed_handshakes.load(Ordering::Acquire) != attempt || peer.sending.load().is_some()
            }) {
                ready = Some((id, peer.cloned()));
                break;
            }
        }
        let Some((id, peer)) = ready else { return Ok(false) };
        let session = peer.as_ref().and_then(|peer| usable_session(peer, turn.now));
        let (Some(peer), Some(session)) = (peer, session) else {
            let lost = self.staging.clear(id);
            turn.telemetry.outbound_drops.add(DropReason::HandshakeFailed, lost);
            return Ok(true);
        };
        let mut staged = std::mem::take(&mut self.restored);
        let mut outcome = Ok(());
        while outcome.is_ok()
            && let Some(len) = self.staging.pop(id, &mut staged)
        {
            let (header, packet) = staged[..len].split_at_mut(VirtioHeader::LEN);
            let header = VirtioHeader::decode((&*header).try_into().expect("split at its length"));
            let superpacket = Superpacket::parse(header, packet).expect("it was parsed before it was staged");
            outcome = self.seal(&superpacket, &peer, &session, turn);
        }
        self.restored = staged;
        outcome.map(|()| true)
    }

    /// Forgets what was half done when the worker panicked: how many datagrams of finished runs
    /// are lost with it.
    pub(super) fn abandon(&mut self) -> u64 {
        self.open = None;
        let Some(mut batch) = self.batch.take() else { return 0 };
        let lost = batch.runs.iter().map(|run| u64::from(run.len.div_ceil(u32::from(run.stride)))).sum();
        batch.runs.clear();
        self.pool.put_back(batch);
        lost
    }

    /// Drops what waits for handshakes: how many packets.
    pub(super) fn drop_staged(&mut self) -> u64 {
        let mut lost = 0;
        while let Some((peer, _)) = { self.staging.peers().next() } {
            lost += self.staging.clear(peer);
        }
        lost
    }

    /// Cuts `packet` into datagrams of `session`.
    fn seal(
        &mut self,
        packet: &Superpacket<'_>,
        peer: &Arc<PeerRecord>,
        session: &Arc<Session>,
        turn: &mut Turn<'_>,
    ) -> Result<(), Stopped> {
        let Some(to) = peer.endpoint.load() else {
            turn.refuse(packet, DropReason::NoEndpoint, Cause::Unreachable);
            return Ok(());
        };
        if self.drop_if_looped(packet, peer, &to, Some(session), turn) {
            return Ok(());
        }
        let limit = peer.path_limit.get(turn.now).unwrap_or(MAX_INNER).min(MAX_INNER);
        if does_not_fit(packet, limit) {
            let mtu = told_mtu(limit, packet.packet()) as u16;
            turn.refuse(packet, DropReason::TooBig, Cause::TooBig(mtu));
            return Ok(());
        }
        let segments = packet.segments();
        let mtu = self.mtu.load(Ordering::Relaxed).min(limit);
        for index in 0..segments {
            let len = packet.segment_len(index);
            let padded = padded_len(len, mtu);
            let datagram = padded + DATA_OVERHEAD;
            if !self.open.as_ref().is_some_and(|run| run.takes(datagram, session, &to)) {
                self.begin_run(datagram, peer, session, to, turn).inspect_err(|_| {
                    let unsealed = (segments - index) as u64;
                    turn.telemetry.outbound_drops.add(DropReason::Shutdown, unsealed);
                })?;
            }
            let (Some(run), Some(batch)) = (&mut self.open, &mut self.batch) else {
                unreachable!("a run was just begun")
            };
            let plaintext = run.bytes.end + DATA_HEADER;
            let room = &mut batch.data[plaintext..plaintext + padded];
            packet.write_segment(index, &mut room[..len]);
            room[len..].fill(0);
            run.bytes.end += datagram;
            run.room -= 1;
        }
        turn.telemetry.segments.add(segments as u64);
        if session.rekey_due_on_send(turn.now, session.sent()) {
            self.actor.want_handshake(peer);
        }
        session.activity().sent_data(turn.now);
        Ok(())
    }

    /// Ends the open run and begins one whose datagrams are `stride` bytes, in a new slab if this
    /// one has no room.
    fn begin_run(
        &mut self,
        stride: usize,
        peer: &Arc<PeerRecord>,
        session: &Arc<Session>,
        to: Endpoint,
        turn: &mut Turn<'_>,
    ) -> Result<(), Stopped> {
        self.close_run(turn.telemetry);
        if self.batch.as_ref().is_some_and(|b| b.runs.is_full() || b.used() + stride > SLAB_BYTES) {
            self.hand_over();
        }
        if self.batch.is_none() {
            self.batch = Some(turn.slab(&mut self.pool)?);
        }
        let start = self.batch.as_ref().map_or(0, |batch| batch.used());
        self.open = Some(OpenRun {
            peer: Arc::clone(peer),
            session: Arc::clone(session),
            to,
            bytes: start..start,
            stride,
            room: max_run(stride),
        });
        Ok(())
    }

    /// Reserves the counters of the open run and seals it.
    fn close_run(&mut self, telemetry: &mut InsideTelemetry) {
        let Some(OpenRun { peer, session, to, bytes, stride, .. }) = self.open.take() else { return };
        let batch = self.batch.as_mut().expect("an open run lies in a batch");
        let datagrams = bytes.len().div_ceil(stride) as u32;
        let Some(first) = session.reserve(datagrams) else {
            telemetry.outbound_drops.add(DropReason::SessionExpired, u64::from(datagrams));
            self.actor.want_handshake(&peer);
            return;
        };
        session.seal_run(first, &mut batch.data[bytes.clone()], stride);
        batch.runs.push(Run {
            start: bytes.start as u32,
            len: bytes.len() as u32,
            stride: stride as u16,
            to,
            peer: peer.id,
        });
        peer.sent_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    }

    fn hand_over(&mut self) {
        if let Some(batch) = self.batch.take() {
            assert!(self.outbox.push(batch).is_ok(), "the outbox holds every batch there is");
        }
    }

    /// Drops a packet that is a datagram of our own to `peer`, which is at `to`; whether it was one. Nobody is
    /// answered, for we are the sender.
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
        turn.telemetry.outbound_drops.add(DropReason::RoutingLoop, packet.segments() as u64);
        if peer.loop_watch.may_tell(turn.now) {
            self.actor.loops(peer.id);
        }
        true
    }

    /// Puts a superpacket aside until its peer has a session.
    fn stage(&mut self, packet: &Superpacket<'_>, peer: &PeerRecord, turn: &mut Turn<'_>) {
        let Some(to) = peer.endpoint.load() else {
            return turn.refuse(packet, DropReason::NoEndpoint, Cause::Unreachable);
        };
        if self.drop_if_looped(packet, peer, &to, None, turn) {
            return;
        }
        let attempt = peer.failed_handshakes.load(Ordering::Acquire);
        let dropped = self.staging.push(peer.id, attempt, [&packet.header().encode(), packet.packet()]);
        turn.telemetry.outbound_drops.add(DropReason::StagingFull, dropped);
        self.actor.want_handshake(peer);
    }
}

/// Whether segments of `packet` are too long to be sent where `limit` bytes leave in one piece. What
/// may be fragmented (IPv4 without DF) is sent all the same, as long as a datagram holds it: the kernel
/// fragments the datagram then, and so it does with what is no longer than senders can be told to keep to.
#[inline]
fn does_not_fit(packet: &Superpacket<'_>, limit: usize) -> bool {
    let longest = packet.stride();
    longest > limit
        && (longest > MAX_INNER
            || longest > told_mtu(limit, packet.packet()) && must_not_be_fragmented(packet.packet()))
}

/// The session to seal with, if there is one that may still be used.
fn usable_session(peer: &PeerRecord, now: Nanos) -> Option<Arc<Session>> {
    peer.sending.load_full().filter(|session| session.can_send(now))
}
