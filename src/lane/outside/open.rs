//! UDP to TUN, first half: opens received datagrams in place and passes the packets to the inside worker
//! of their flow.
//!
//! 1. Up to eight messages are received, each into its own batch. A message is one datagram, or several
//!    that the kernel coalesced (UDP GRO).
//! 2. Consecutive datagrams with the same receiver index are opened in one call, including the replay
//!    check. By longest-prefix match, each packet's source must belong to the sender (whitepaper section
//!    2.1). A congestion mark on the outer header moves to the packet ([`crate::packet::class`]).
//! 3. Handshake messages go to the peer actor.
//! 4. The batch goes to the inside worker that the first packet's flow hash selects. Packets for other
//!    workers, and small receives, are copied into a batch that is handed over at the end of this receive.
//!    If the inside worker sleeps, a lone packet is written directly ([`crate::lane::shortcut`]).
//!
//! A packet is always placed behind earlier packets for the same worker, so flows stay in order. When a
//! ring is full, its batch waits and nothing more is received; datagrams queue in the socket's buffer.
//! Workers cannot deadlock, because an inside worker serves its ring while it waits for anything else. A
//! batch that has waited for `PATIENCE` is dropped, so that a stuck worker cannot block the others' flows
//! forever. With one lane the ring is never full; see
//! [`inbound_pool`](crate::lane::bounds::inbound_pool).

use std::collections::VecDeque;
use std::mem;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrayvec::ArrayVec;

use crate::clock;
use crate::drops::DropReason;
use crate::faults::{self, Stage};
use crate::lane::bounds::{COPY_BELOW, batches_per_message};
use crate::lane::channels::{ActorChannel, HandshakeDatagram};
use crate::lane::peers::{PeerRecord, Snapshot};
use crate::lane::ring::batch::{InboundBatch, Segment};
use crate::lane::ring::{Pool, Ring};
use crate::lane::shortcut::WriteShortcut;
use crate::metrics::OutsideMetrics;
use crate::packet::class::{self, ECN};
use crate::packet::{flow, ip};
use crate::underlay::{DEPTH, Endpoint, Receiver, UdpSocket};
use crate::units::Nanos;
use crate::wireguard::aead::MAX_RUN;
use crate::wireguard::messages::{DATA_OVERHEAD, Kind, data_receiver};
use crate::wireguard::session::{Opened, OpenedRun};
use crate::wireguard::table::{SessionGuard, SessionTable};

/// How long a batch waits for room in a ring: several scheduler time slices, but less than the socket's
/// buffer can absorb.
const PATIENCE: Duration = Duration::from_millis(20);

/// How long an outside worker with held batches sleeps before it pushes them again. Room in a ring rings
/// no doorbell; only returned batches do, and those may go to another lane.
pub(super) const OFFER_AGAIN: Duration = Duration::from_millis(1);

/// The receiving half of an outside worker.
pub struct Opener {
    lane: usize,
    receiver: Receiver,
    pool: Pool<InboundBatch>,
    rings: Vec<Arc<Ring<InboundBatch>>>,
    shortcuts: Vec<WriteShortcut>,
    pending: Vec<Option<Box<InboundBatch>>>,
    /// Batches held back by a full ring, with their lanes, in order.
    held: VecDeque<(usize, Box<InboundBatch>)>,
    /// When the first held batch began to wait.
    held_since: Nanos,
    sessions: Arc<SessionTable>,
    actor: Arc<ActorChannel>,
    /// Datagrams received that are neither in a batch's list nor counted as dropped nor used up.
    in_hand: u64,
}

/// The accepted packets of one run, each with the lane of its flow.
type Accepted = ArrayVec<(usize, Range<usize>), MAX_RUN>;

/// The context of one received message.
struct Context<'w> {
    now: Nanos,
    from: Endpoint,
    /// The ECN field of the outer IP headers.
    ecn: u8,
    snapshot: &'w Snapshot,
    metrics: &'w mut OutsideMetrics,
}

impl Opener {
    /// Creates a receiver into the batches of `pool`. `rings` are the rings of the inside workers and
    /// `shortcuts` lead to their TUN queues, one per lane.
    pub fn new(
        lane: usize,
        pool: Pool<InboundBatch>,
        rings: Vec<Arc<Ring<InboundBatch>>>,
        shortcuts: Vec<WriteShortcut>,
        sessions: Arc<SessionTable>,
        actor: Arc<ActorChannel>,
    ) -> Self {
        let pending = rings.iter().map(|_| None).collect();
        let held = VecDeque::with_capacity(pool.size());
        Self {
            lane,
            receiver: Receiver::new(),
            pool,
            rings,
            shortcuts,
            pending,
            held,
            held_since: Nanos::NEVER,
            sessions,
            actor,
            in_hand: 0,
        }
    }

    /// Returns whether there are too few free batches to receive into.
    pub fn is_starved(&self) -> bool {
        self.pool.available() < batches_per_message(self.rings.len())
    }

    /// Returns the number of batches held, those on the return ring excluded.
    pub(super) fn batches(&self) -> usize {
        self.pool.kept() + self.pending.iter().flatten().count() + self.held.len()
    }

    /// Returns whether batches wait for room in a ring.
    pub fn is_held(&self) -> bool {
        !self.held.is_empty()
    }

    /// Receives once, opens the datagrams and hands over the packets. Returns whether anything was
    /// received.
    ///
    /// # Errors
    /// If the UDP socket fails.
    pub fn receive(
        &mut self,
        socket: &UdpSocket,
        snapshot: &Snapshot,
        now: Nanos,
        metrics: &mut OutsideMetrics,
    ) -> std::io::Result<bool> {
        self.hand_on_held(now, metrics);
        if self.is_held() {
            return Ok(false);
        }
        let messages = (self.pool.available() / batches_per_message(self.rings.len())).min(DEPTH);
        let mut batches: ArrayVec<Box<InboundBatch>, DEPTH> =
            (0..messages).map_while(|_| self.pool.take()).collect();
        if batches.is_empty() {
            return Ok(false);
        }
        let received = self.receiver.receive(socket, batches.iter_mut().map(|batch| &mut batch.data[..]));
        metrics.note_receives(self.receiver.tally());
        let received = received.inspect_err(|_| batches.clear())?;
        self.in_hand = (0..received).map(|index| self.receiver.message(index).segments().max(1) as u64).sum();
        faults::point(Stage::Receive);
        // Put back in reverse order, so that the next receive starts with the same batch.
        for batch in batches.drain(received..).rev() {
            self.pool.put_back(batch);
        }
        for (index, batch) in batches.into_iter().enumerate() {
            let message = self.receiver.message(index);
            let mut context =
                Context { now, from: message.from, ecn: message.class & ECN, snapshot, metrics };
            match message.drop_reason() {
                Some(reason) => {
                    self.in_hand -= message.segments().max(1) as u64;
                    context.metrics.inbound_drops.add(reason, 1);
                    self.pool.put_back(batch);
                }
                None => self.open_message(batch, message.len, message.stride, &mut context),
            }
        }
        debug_assert_eq!(self.in_hand, 0, "each datagram is placed, used up or counted as dropped");
        for lane in 0..self.pending.len() {
            self.hand_over(lane, metrics);
        }
        Ok(received > 0)
    }

    /// Opens a copy of `message`, made of datagrams of `stride` bytes, as if it had just been received.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn open_copy(
        &mut self,
        message: &[u8],
        stride: usize,
        from: Endpoint,
        snapshot: &Snapshot,
        now: Nanos,
        metrics: &mut OutsideMetrics,
    ) {
        let mut batch = self.pool.take().expect("a free batch");
        batch.data[..message.len()].copy_from_slice(message);
        self.in_hand = message.len().div_ceil(stride) as u64;
        let mut context = Context { now, from, ecn: 0, snapshot, metrics };
        self.open_message(batch, message.len(), stride, &mut context);
        for lane in 0..self.pending.len() {
            self.hand_over(lane, metrics);
        }
    }

    /// Discards the datagrams in hand after a panic. Returns their number. Packets that are already in batches are
    /// kept for the next turn.
    pub(super) fn recover(&mut self) -> u64 {
        if self.held.is_empty() {
            self.held_since = clock::now();
        }
        let pending = self.pending.iter_mut().enumerate();
        self.held.extend(pending.filter_map(|(lane, batch)| Some((lane, batch.take()?))));
        mem::take(&mut self.in_hand)
    }

    /// Drops all batches in hand on shutdown. Returns the number of packets dropped.
    pub(super) fn drop_waiting(&mut self) -> u64 {
        let mut lost = 0;
        let held = self.held.drain(..).map(|(_, batch)| batch);
        for mut batch in self.pending.iter_mut().filter_map(Option::take).chain(held) {
            lost += batch.segments.len() as u64;
            batch.segments.clear();
            self.pool.put_back(batch);
        }
        lost
    }

    /// Opens a message of `len` bytes in `batch`, made of datagrams of `stride` bytes, and places its
    /// packets.
    fn open_message(
        &mut self,
        batch: Box<InboundBatch>,
        len: usize,
        stride: usize,
        context: &mut Context<'_>,
    ) {
        let mut claim = Claim { batch, lane: None, whole: len >= COPY_BELOW };
        let mut at = 0;
        while at < len {
            let end = len.min(at + stride);
            let datagram = &claim.bytes()[at..end];
            match Kind::of(datagram) {
                Some(Kind::Data) => {
                    let receiver = data_receiver(datagram);
                    let run = at..data_run_end(&claim.bytes()[..len], at, stride, receiver);
                    at = run.end;
                    let mut accepted = Accepted::new();
                    self.open_run(
                        &mut claim.batch.data[run.clone()],
                        stride,
                        receiver,
                        &mut accepted,
                        context,
                    );
                    for (lane, packet) in accepted {
                        let packet = run.start + packet.start..run.start + packet.end;
                        self.place(&mut claim, lane, packet, context.metrics);
                    }
                    continue;
                }
                Some(_) => self.hand_up(datagram, context),
                None => {
                    self.in_hand -= 1;
                    context.metrics.inbound_drops.add(DropReason::NotWireGuard, 1);
                }
            }
            at = end;
        }
        self.settle(claim, context.metrics);
    }

    /// Opens the datagrams of one session. Adds the accepted packets to `accepted`, as lane and range in
    /// `run`.
    fn open_run(
        &mut self,
        run: &mut [u8],
        stride: usize,
        receiver: u32,
        accepted: &mut Accepted,
        context: &mut Context<'_>,
    ) {
        let datagrams = run.len().div_ceil(stride) as u64;
        let drops = &mut context.metrics.inbound_drops;
        let Some(session) = self.sessions.get(receiver) else {
            self.in_hand -= datagrams;
            return drops.add(DropReason::UnknownIndex, datagrams);
        };
        let Some(peer) = context.snapshot.peer(session.peer()) else {
            self.in_hand -= datagrams;
            return drops.add(DropReason::UnknownIndex, datagrams);
        };
        if !session.can_receive(context.now) {
            self.in_hand -= datagrams;
            return drops.add(DropReason::SessionExpired, datagrams);
        }
        let mut opened = OpenedRun::new();
        session.open_run(run, stride, &mut opened, drops.tally());
        self.in_hand -= datagrams - opened.len() as u64;
        if opened.is_empty() {
            return;
        }
        faults::point(Stage::Open);
        self.note_authentic(&session, peer, &opened, context);
        // Consecutive packets usually have the same source, so one lookup covers them.
        let mut allowed = None;
        for packet in &opened {
            // Unless the packet is accepted.
            self.in_hand -= 1;
            if packet.len == 0 {
                continue;
            }
            let start = packet.offset as usize;
            let Some(packet) = ip::trimmed(&run[start..start + packet.len as usize]) else {
                context.metrics.inbound_drops.add(DropReason::InnerPacket, 1);
                continue;
            };
            let belongs = |source| {
                allowed == Some(source)
                    || context.snapshot.routes.lookup(source).is_some_and(|owner| owner.id == peer.id)
            };
            let Some(source) = ip::source(packet).filter(|source| belongs(*source)) else {
                context.metrics.inbound_drops.add(DropReason::SourceNotAllowed, 1);
                continue;
            };
            allowed = Some(source);
            let packet = start..start + packet.len();
            if !class::decapsulate(&mut run[packet.clone()], context.ecn) {
                context.metrics.inbound_drops.add(DropReason::EcnNotCapable, 1);
                continue;
            }
            self.in_hand += 1;
            accepted.push((flow::lane_of(&run[packet.clone()], self.rings.len()), packet));
        }
        context.metrics.segments.add(accepted.len() as u64);
    }

    /// Updates timers, counters, the endpoint and the session to send with after authenticated datagrams.
    fn note_authentic(
        &self,
        session: &SessionGuard,
        peer: &PeerRecord,
        opened: &[Opened],
        context: &Context<'_>,
    ) {
        let bytes: u64 = opened.iter().map(|packet| u64::from(packet.len) + DATA_OVERHEAD as u64).sum();
        peer.received_bytes.fetch_add(bytes, Ordering::Relaxed);
        if opened.iter().any(|packet| packet.len > 0) {
            session.activity().received_data(context.now);
        } else {
            session.activity().received_keepalive(context.now);
        }
        if !peer.is_at(context.from) {
            peer.roam(context.from, context.now);
        }
        if session.awaits_confirmation() {
            let session = session.to_arc();
            peer.promote(&session);
            self.actor.confirmed(session);
        }
        if session.rekey_due_on_receive(context.now) {
            self.actor.want_handshake(peer);
        }
    }

    /// Sends a handshake message to the peer actor.
    fn hand_up(&mut self, datagram: &[u8], context: &mut Context<'_>) {
        faults::point(Stage::Handshake);
        let message = datagram.try_into().expect("Kind::of checks the length");
        let handed = HandshakeDatagram { message, from: context.from, at: context.now, lane: self.lane };
        self.in_hand -= 1;
        if !self.actor.handshake(handed) {
            context.metrics.inbound_drops.add(DropReason::PeerInboxFull, 1);
        }
    }

    /// Places a packet of `claim` for `lane`: in place if its batch can be passed to that lane, otherwise
    /// as a copy.
    fn place(&mut self, claim: &mut Claim, lane: usize, packet: Range<usize>, metrics: &mut OutsideMetrics) {
        faults::point(Stage::Place);
        if claim.lane.is_none() && (claim.whole || self.pending[lane].is_none()) {
            // Packets collected earlier for this lane must go before this batch.
            self.hand_over(lane, metrics);
            claim.lane = Some(lane);
        }
        if claim.lane == Some(lane) && !claim.batch.segments.is_full() {
            let segment = Segment { start: packet.start as u32, len: packet.len() as u32 };
            claim.batch.segments.push(segment);
            self.in_hand -= 1;
            return;
        }
        let packet = &claim.bytes()[packet];
        if self.pending[lane].as_mut().is_some_and(|batch| batch.append(packet)) {
            self.in_hand -= 1;
            return;
        }
        self.hand_over(lane, metrics);
        // Only a message of hundreds of tiny datagrams needs more batches than were reserved.
        let Some(mut batch) = self.pool.take() else {
            self.in_hand -= 1;
            metrics.inbound_drops.add(DropReason::InboxFull, 1);
            return;
        };
        assert!(batch.append(packet), "an empty batch holds any packet");
        self.in_hand -= 1;
        self.pending[lane] = Some(batch);
    }

    /// Finishes a message: hands over its batch, keeps it to be filled further, or frees it.
    fn settle(&mut self, claim: Claim, metrics: &mut OutsideMetrics) {
        faults::point(Stage::Settle);
        let Some(lane) = claim.lane else { return self.pool.put_back(claim.batch) };
        // Copies for the batch's own lane exist only if its segment list was full, so they follow it.
        let followers = self.pending[lane].replace(claim.batch);
        if claim.whole || followers.is_some() {
            self.hand_over(lane, metrics);
            self.pending[lane] = followers;
        }
    }

    /// Pushes the batch collected for `lane` to its ring, or writes it directly to the TUN queue.
    fn hand_over(&mut self, lane: usize, metrics: &mut OutsideMetrics) {
        let Some(mut batch) = self.pending[lane].take() else { return };
        faults::point(Stage::Push);
        if self.shortcuts[lane].write(&batch, &self.pool, &self.rings[lane]) {
            batch.segments.clear();
            return self.pool.put_back(batch);
        }
        // All batches queue behind a held one, so nothing is reordered.
        if self.held.is_empty() {
            match self.rings[lane].push(batch) {
                Ok(()) => return,
                Err(batch) => self.held.push_back((lane, batch)),
            }
            self.held_since = clock::now();
            metrics.inbox_full.add(1);
        } else {
            self.held.push_back((lane, batch));
        }
    }

    /// Pushes held batches again, and drops those that have waited for [`PATIENCE`].
    pub(super) fn hand_on_held(&mut self, now: Nanos, metrics: &mut OutsideMetrics) {
        while let Some((lane, batch)) = self.held.pop_front() {
            let Err(mut batch) = self.rings[lane].push(batch) else {
                self.held_since = now;
                continue;
            };
            if now.since(self.held_since) < PATIENCE {
                self.held.push_front((lane, batch));
                return;
            }
            let segments = batch.segments.len() as u64;
            metrics.inbox_dropped_segments.add(segments);
            metrics.inbound_drops.add(DropReason::InboxFull, segments);
            batch.segments.clear();
            self.pool.put_back(batch);
        }
    }
}

/// A received message in its batch, while its datagrams are processed.
struct Claim {
    batch: Box<InboundBatch>,
    /// The lane it goes to, once a packet has determined that.
    lane: Option<usize>,
    /// Whether it holds enough bytes to be handed over on its own. Otherwise it is kept to collect more
    /// packets.
    whole: bool,
}

impl Claim {
    fn bytes(&self) -> &[u8] {
        &self.batch.data
    }
}

/// Returns the end of the run of data messages for session index `receiver` that begins at `at`.
fn data_run_end(message: &[u8], at: usize, stride: usize, receiver: u32) -> usize {
    let same =
        |datagram: &&[u8]| Kind::of(datagram) == Some(Kind::Data) && data_receiver(datagram) == receiver;
    message[at..].chunks(stride).take(MAX_RUN).take_while(same).fold(at, |end, datagram| end + datagram.len())
}
