//! UDP to TUN, first half: opens received datagrams in place and passes the packets to the inside worker
//! of their flow.
//!
//! 1. Up to eight messages are received, each into its own batch. A message is one datagram, or several
//!    that the kernel coalesced (UDP GRO).
//! 2. Consecutive datagrams with the same receiver index are opened in one call. With sharing on
//!    ([`crate::lane::share`]), another worker may do that.
//! 3. Opened messages are judged in order of arrival. Replayed datagrams are dropped. By longest-prefix
//!    match, each packet's source must belong to the sender (whitepaper section 2.1). A congestion mark on the outer
//!    header moves to the packet ([`crate::packet::class`]).
//! 4. Handshake messages go to the peer actor.
//! 5. The batch goes to the inside worker that the first packet's flow hash selects. Packets for other
//!    workers, and small receives, are copied into a batch that is handed over at the end of this receive.
//!    If the inside worker sleeps, a lone packet is written directly ([`crate::lane::shortcut`]).
//!
//! A packet is always placed behind earlier packets for the same worker, so flows stay in order. When a
//! ring is full, its batch waits and nothing more is received; datagrams queue in the socket's buffer.
//! Workers cannot deadlock, because an inside worker serves its ring while it waits for anything else. A
//! batch that has waited for `PATIENCE` is dropped, so that a stuck worker cannot block the others' flows
//! forever. With one lane the ring is never full; see
//! [`inbound_pool`](crate::lane::bounds::inbound_pool).

mod judge;
mod shared;

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;

use crate::clock;
use crate::drops::DropReason;
use crate::faults::{self, Stage};
use crate::lane::bounds::{COPY_BELOW, batches_per_message};
use crate::lane::channels::{ActorChannel, HandshakeDatagram};
use crate::lane::peers::Snapshot;
use crate::lane::ring::batch::{InboundBatch, Message};
use crate::lane::ring::{Pool, Ring};
use crate::lane::share::Share;
use crate::lane::shortcut::WriteShortcut;
use crate::lane::standing::{ShortQueues, StandingQueue};
use crate::metrics::{Dropped, OutsideMetrics};
use crate::packet::class::ECN;
use crate::underlay::{DEPTH, Endpoint, Received, Receiver, UdpSocket};
use crate::units::Nanos;
use crate::wireguard::aead::MAX_RUN;
use crate::wireguard::messages::{Kind, data_receiver};
use crate::wireguard::session::Session;
use crate::wireguard::table::SessionTable;

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
    /// The messages in other workers' hands, if sharing is on.
    share: Option<Share<InboundBatch>>,
    /// Whether the sockets' queues stand.
    standing: StandingQueue,
    /// Whether the last receives from all sockets have emptied them; `None` if there were none.
    emptied: Option<bool>,
    /// Datagrams received that are neither shared nor in a batch's list nor counted as dropped nor used up.
    in_hand: u64,
}

/// The context of one receive.
struct Context<'w> {
    now: Nanos,
    snapshot: &'w Snapshot,
    metrics: &'w mut OutsideMetrics,
}

impl Opener {
    /// Creates a receiver into the batches of `pool`. `rings` are the rings of the inside workers and
    /// `shortcuts` lead to their TUN queues, one per lane. With `share`, large messages may be opened by
    /// other workers.
    pub fn new(
        lane: usize,
        pool: Pool<InboundBatch>,
        share: Option<Share<InboundBatch>>,
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
            share,
            standing: StandingQueue::new(ShortQueues::Off),
            emptied: None,
            in_hand: 0,
        }
    }

    /// Sets when bulk flows are slowed down to keep the sockets' queues short. Initially, they never are.
    #[must_use]
    pub fn with_short_queues(mut self, policy: ShortQueues) -> Self {
        self.standing = StandingQueue::new(policy);
        self
    }

    /// Returns whether there are too few free batches to receive into.
    pub fn is_starved(&self) -> bool {
        self.receivable() == 0
    }

    /// Returns the number of batches held or shared, those on the return ring excluded.
    pub(super) fn batches(&self) -> usize {
        let shared = self.share.as_ref().map_or(0, Share::len);
        self.pool.kept() + self.pending.iter().flatten().count() + self.held.len() + shared
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
        let mut context = Context { now, snapshot, metrics };
        let judged = self.judge_opened(&mut context);
        let messages = self.receivable().min(DEPTH);
        let mut batches: ArrayVec<Box<InboundBatch>, DEPTH> =
            (0..messages).map_while(|_| self.pool.take()).collect();
        if batches.is_empty() {
            self.hand_over_all(metrics);
            return Ok(judged);
        }
        let received = self.receiver.receive(socket, batches.iter_mut().map(|batch| &mut batch.data[..]));
        context.metrics.note_receives(self.receiver.tally());
        let received = received.inspect_err(|_| batches.clear())?;
        self.emptied = Some(self.emptied.unwrap_or(true) && received < messages);
        self.in_hand = (0..received).map(|index| self.receiver.message(index).segments().max(1) as u64).sum();
        faults::point(Stage::Receive);
        // Put back in reverse order, so that the next receive starts with the same batch.
        for batch in batches.drain(received..).rev() {
            self.pool.put_back(batch);
        }
        for (index, mut batch) in batches.into_iter().enumerate() {
            let message = self.receiver.message(index);
            if let Some(reason) = message.drop_reason() {
                self.in_hand -= message.segments().max(1) as u64;
                context
                    .metrics
                    .inbound_drops
                    .add_described(reason, 1, || Dropped::datagram_from(message.from.address, message.len));
                self.pool.put_back(batch);
                continue;
            }
            let Received { len, stride, from, class, .. } = message;
            batch.message = Message { len, stride, from, ecn: class & ECN, begun: 0 };
            self.accept(batch, &mut context);
        }
        self.judge_opened(&mut context);
        debug_assert_eq!(self.in_hand, 0, "each datagram is shared, placed, used up or counted as dropped");
        self.hand_over_all(metrics);
        Ok(judged || received > 0)
    }

    /// Records, after the receives of a turn, whether they have emptied the sockets.
    pub(super) fn note_queues(&mut self, now: Nanos) {
        if let Some(emptied) = self.emptied.take() {
            self.standing.note(emptied, now);
        }
    }

    /// Returns how many messages may be received: each message may need a batch per lane when it is
    /// judged. Shared messages are judged one after another, so they have these batches in common.
    fn receivable(&self) -> usize {
        let (available, per_message) = (self.pool.available(), batches_per_message(self.rings.len()));
        match self.share {
            None => available / per_message,
            Some(_) => available.saturating_sub(per_message),
        }
    }

    fn hand_over_all(&mut self, metrics: &mut OutsideMetrics) {
        for lane in 0..self.pending.len() {
            self.hand_over(lane, metrics);
        }
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
        batch.message = Message { len: message.len(), stride, from, ecn: 0, begun: 0 };
        self.in_hand = message.len().div_ceil(stride) as u64;
        self.open_message(batch, &mut Context { now, snapshot, metrics });
        self.hand_over_all(metrics);
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

    /// Judges the message in `batch` and places its packets. Opens what has not been opened yet.
    fn open_message(&mut self, batch: Box<InboundBatch>, context: &mut Context<'_>) {
        let mut claim = Claim { whole: batch.message.len >= COPY_BELOW, batch, lane: None };
        let lost = mem::take(&mut claim.batch.lost);
        context.metrics.inbound_drops.add(DropReason::WorkerRestart, lost);
        loop {
            let batch = &mut claim.batch;
            if !batch.opening.is_open() {
                self.begin(batch, context);
                batch.opening.open(&mut batch.data);
            }
            self.judge(&mut claim, context);
            if claim.batch.message.begun == claim.batch.message.len {
                break;
            }
        }
        self.settle(claim, context.metrics);
    }

    /// Adds the next runs of data messages to the batch's opening, until it is full or the message ends.
    /// Passes on the handshake messages between them.
    fn begin(&mut self, batch: &mut InboundBatch, context: &mut Context<'_>) {
        let Message { len, stride, from, .. } = batch.message;
        while batch.message.begun < len {
            let at = batch.message.begun;
            let datagram = &batch.data[at..len.min(at + stride)];
            let mut end = at + datagram.len();
            match Kind::of(datagram) {
                Some(Kind::Data) => {
                    let receiver = data_receiver(datagram);
                    end = data_run_end(&batch.data[..len], at, stride, receiver);
                    match self.session_for(receiver, context) {
                        Ok(session) => {
                            if !batch.opening.push(session, at, end - at, stride) {
                                return;
                            }
                        }
                        Err(reason) => {
                            let datagrams = (end - at).div_ceil(stride) as u64;
                            self.in_hand -= datagrams;
                            context.metrics.inbound_drops.add_described(reason, datagrams, || {
                                let len = stride.min(end - at);
                                Dropped::datagram_from(from.address, len)
                            });
                        }
                    }
                }
                Some(_) => self.hand_up(datagram, from, context),
                None => {
                    self.in_hand -= 1;
                    context.metrics.inbound_drops.add_described(DropReason::NotWireGuard, 1, || {
                        Dropped::datagram_from(from.address, datagram.len())
                    });
                }
            }
            batch.message.begun = end;
        }
    }

    /// Returns the session with the local index `receiver`, or the reason to drop messages to it.
    fn session_for(&self, receiver: u32, context: &Context<'_>) -> Result<Arc<Session>, DropReason> {
        let session = self.sessions.get(receiver).ok_or(DropReason::UnknownIndex)?;
        if context.snapshot.peer(session.peer()).is_none() {
            return Err(DropReason::UnknownIndex);
        }
        if !session.can_receive(context.now) {
            return Err(DropReason::SessionExpired);
        }
        Ok(session.to_arc())
    }

    /// Sends a handshake message to the peer actor.
    fn hand_up(&mut self, datagram: &[u8], from: Endpoint, context: &mut Context<'_>) {
        faults::point(Stage::Handshake);
        let message = datagram.try_into().expect("Kind::of checks the length");
        let handed = HandshakeDatagram { message, from, at: context.now, lane: self.lane };
        self.in_hand -= 1;
        if !self.actor.handshake(handed) {
            context.metrics.inbound_drops.add_described(DropReason::PeerInboxFull, 1, || {
                Dropped::datagram_from(from.address, datagram.len())
            });
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
            metrics.inbound_drops.add_described(DropReason::InboxFull, segments, || {
                Dropped::packet(batch.packets().next().unwrap_or_default())
            });
            batch.segments.clear();
            self.pool.put_back(batch);
        }
    }
}

/// Returns the end of the run of data messages for session index `receiver` that begins at `at`.
fn data_run_end(message: &[u8], at: usize, stride: usize, receiver: u32) -> usize {
    let same =
        |datagram: &&[u8]| Kind::of(datagram) == Some(Kind::Data) && data_receiver(datagram) == receiver;
    message[at..].chunks(stride).take(MAX_RUN).take_while(same).fold(at, |end, datagram| end + datagram.len())
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
