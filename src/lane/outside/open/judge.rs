//! Judges opened messages in order of arrival: replayed datagrams and packets from sources that are not the peer's are
//! dropped, the others are placed behind earlier packets for their inside worker.

use std::mem;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Claim, Context, Opener};
use crate::drops::DropReason;
use crate::faults;
use crate::faults::Stage;
use crate::lane::bounds::batches_per_message;
use crate::lane::peers::PeerRecord;
use crate::lane::ring::batch::{InboundBatch, Message, Segment};
use crate::lane::share::opening::Content;
use crate::metrics::{Dropped, OutsideMetrics};
use crate::packet::{class, ip};
use crate::wireguard::session::Session;

impl Opener {
    /// Judges the messages that are opened, up to the oldest one that is not. Returns whether there were
    /// any.
    pub(super) fn judge_opened(&mut self, context: &mut Context<'_>) -> bool {
        let mut judged = false;
        while self.can_judge()
            && let Some(share) = &mut self.share
            && let Some(batch) = share.complete(&mut context.metrics.jobs)
        {
            self.in_hand += batch.unjudged();
            self.open_message(batch, context);
            judged = true;
        }
        judged
    }

    /// Returns whether there are enough free batches to copy the packets of a message for other lanes.
    pub(super) fn can_judge(&self) -> bool {
        !self.is_held() && self.pool.available() >= batches_per_message(self.rings.len())
    }

    /// Judges the opened payloads of a message, by replay window and source, and places the packets.
    pub(super) fn judge(&mut self, claim: &mut Claim, context: &mut Context<'_>) {
        let runs = mem::take(&mut claim.batch.opening.runs);
        let mut end = 0;
        for run in runs {
            let payloads = end..end + usize::from(run.payloads);
            end = payloads.end;
            let drops = &mut context.metrics.inbound_drops;
            let peer = context.snapshot.peer(run.session.peer());
            let Message { from, stride, .. } = claim.batch.message;
            let datagram =
                || Dropped::datagram_from(from.address, stride).with_peer(peer.map(|peer| peer.public_key));
            self.in_hand -= u64::from(run.too_short) + u64::from(run.forged);
            drops.add_described(DropReason::NotWireGuard, run.too_short.into(), datagram);
            drops.add_described(DropReason::Authentication, run.forged.into(), datagram);
            let Some(peer) = peer else {
                self.in_hand -= u64::from(run.payloads);
                drops.add_described(DropReason::UnknownIndex, run.payloads.into(), datagram);
                continue;
            };
            let bytes = self.admit(&run.session, peer, claim, payloads.clone(), context);
            if bytes > 0 {
                let signal = self.standing.must_signal(peer.id, bytes, claim.whole, context.now);
                self.place_packets(peer, claim, payloads, signal, context);
            }
        }
        claim.batch.opening.clear();
    }

    /// Checks the counters of authentic `payloads`. Updates timers, metrics, the endpoint and the session to
    /// send with by those that are not replayed. Returns the bytes of their datagrams.
    pub(super) fn admit(
        &mut self,
        session: &Arc<Session>,
        peer: &PeerRecord,
        claim: &mut Claim,
        payloads: Range<usize>,
        context: &mut Context<'_>,
    ) -> u64 {
        let InboundBatch { opening, message: Message { from, .. }, .. } = &mut *claim.batch;
        let (mut bytes, mut data) = (0, false);
        let mut counters = session.counters();
        for payload in &mut opening.payloads[payloads] {
            if let Some(reason) = counters.refuse(payload.counter) {
                self.in_hand -= 1;
                context.metrics.inbound_drops.add_described(reason, 1, || {
                    let len = usize::from(payload.datagram);
                    Dropped::datagram_from(from.address, len).with_peer(peer.public_key)
                });
                payload.refused = true;
                continue;
            }
            bytes += u64::from(payload.datagram);
            data |= payload.content != Content::Nothing;
        }
        drop(counters);
        if bytes == 0 {
            return 0;
        }
        faults::point(Stage::Open);
        peer.received_bytes.fetch_add(bytes, Ordering::Relaxed);
        if data {
            session.activity().received_data(context.now);
        } else {
            session.activity().received_keepalive(context.now);
        }
        if !peer.is_at(*from) {
            peer.roam(*from, context.now);
            self.actor.moved(peer);
        }
        if session.awaits_confirmation() {
            peer.promote(session);
            self.actor.confirmed(Arc::clone(session));
        }
        if session.rekey_due_on_receive(context.now) {
            self.actor.want_handshake(peer);
        }
        bytes
    }

    /// Places the packets among `payloads` whose source belongs to `peer`. With `signal`, tells the sender of the first
    /// to slow down.
    pub(super) fn place_packets(
        &mut self,
        peer: &PeerRecord,
        claim: &mut Claim,
        payloads: Range<usize>,
        mut signal: bool,
        context: &mut Context<'_>,
    ) {
        // Consecutive packets usually have the same source, so one lookup covers them.
        let mut belongs = None;
        let mut placed = 0;
        for index in payloads {
            let payload = claim.batch.opening.payloads[index];
            let Content::Packet { same_source } = payload.content else {
                if !payload.refused {
                    self.in_hand -= 1;
                    let invalid = payload.content == Content::Invalid;
                    context.metrics.inbound_drops.add_described(
                        DropReason::InnerPacket,
                        invalid.into(),
                        || {
                            let start = payload.start as usize;
                            let packet = &claim.bytes()[start..start + usize::from(payload.len)];
                            Dropped::packet(packet).with_peer(peer.public_key)
                        },
                    );
                }
                continue;
            };
            if !same_source {
                belongs = None;
            }
            if payload.refused {
                continue;
            }
            let start = payload.start as usize;
            let range = start..start + usize::from(payload.len);
            let packet = &mut claim.batch.data[range.clone()];
            let belongs = *belongs.get_or_insert_with(|| {
                let owner = ip::source(packet).and_then(|source| context.snapshot.routes.lookup(source));
                owner.is_some_and(|owner| owner.id == peer.id)
            });
            if !belongs {
                self.in_hand -= 1;
                context.metrics.inbound_drops.add_described(DropReason::SourceNotAllowed, 1, || {
                    Dropped::packet(packet).with_peer(peer.public_key)
                });
                continue;
            }
            let outer = claim.batch.message.ecn;
            let signals =
                mem::take(&mut signal) && outer != class::CE && self.standing.signals_by(peer.id, packet);
            let (ecn, reason) = if signals {
                (class::CE, DropReason::StandingQueue)
            } else {
                (outer, DropReason::EcnNotCapable)
            };
            if !class::decapsulate(packet, ecn) {
                self.in_hand -= 1;
                context
                    .metrics
                    .inbound_drops
                    .add_described(reason, 1, || Dropped::packet(packet).with_peer(peer.public_key));
                continue;
            }
            placed += 1;
            let lane = payload.flow as usize % self.rings.len();
            self.place(claim, lane, range, context.metrics);
        }
        context.metrics.segments.add(placed);
    }

    /// Places a packet of `claim` for `lane`: in place if its batch can be passed to that lane, otherwise
    /// as a copy.
    pub(super) fn place(
        &mut self,
        claim: &mut Claim,
        lane: usize,
        packet: Range<usize>,
        metrics: &mut OutsideMetrics,
    ) {
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
            metrics.inbound_drops.add_described(DropReason::InboxFull, 1, || Dropped::packet(packet));
            return;
        };
        assert!(batch.append(packet), "an empty batch holds any packet");
        self.in_hand -= 1;
        self.pending[lane] = Some(batch);
    }

    /// Finishes a message: hands over its batch, keeps it to be filled further, or frees it.
    pub(super) fn settle(&mut self, claim: Claim, metrics: &mut OutsideMetrics) {
        faults::point(Stage::Settle);
        let Some(lane) = claim.lane else { return self.pool.put_back(claim.batch) };
        // Copies for the batch's own lane exist only if its segment list was full, so they follow it.
        let followers = self.pending[lane].replace(claim.batch);
        if claim.whole || followers.is_some() {
            self.hand_over(lane, metrics);
            self.pending[lane] = followers;
        }
    }
}
