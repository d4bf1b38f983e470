//! Messages that other workers may open ([`crate::lane::share`]), and their order.

use super::{Context, Opener};
use crate::lane::peers::Snapshot;
use crate::lane::ring::batch::InboundBatch;
use crate::lane::ring::doorbell::Awaited;
use crate::lane::share::{SHARE_FROM, Share};
use crate::metrics::OutsideMetrics;
use crate::units::Nanos;

impl Opener {
    /// Opens and judges a received message now, or submits it as a job. A small message waits behind the
    /// jobs submitted before.
    pub(super) fn accept(&mut self, mut batch: Box<InboundBatch>, context: &mut Context<'_>) {
        if self.share.is_some() && batch.message.len >= SHARE_FROM {
            self.begin(&mut batch, context);
        }
        let Some(share) = &mut self.share else { return self.open_message(batch, context) };
        let shared = batch.unjudged();
        if batch.opening.datagrams() > 0 && batch.message.begun == batch.message.len {
            self.in_hand -= shared;
            share.offer(batch);
        } else if share.is_empty() {
            self.open_message(batch, context);
        } else {
            self.in_hand -= shared;
            share.offer_finished(batch);
        }
    }

    /// Opens the oldest message that no other worker has taken, and judges what is
    /// opened. Returns whether there was anything to do.
    pub(in crate::lane::outside) fn work(
        &mut self,
        snapshot: &Snapshot,
        now: Nanos,
        metrics: &mut OutsideMetrics,
    ) -> bool {
        let may_judge = self.can_judge();
        let Some(share) = self.share.as_mut().filter(|share| !share.is_empty()) else { return false };
        if !(may_judge && share.is_oldest_finished()) {
            return share.run_one();
        }
        let judged = self.judge_opened(&mut Context { now, snapshot, metrics });
        self.hand_over_all(metrics);
        judged
    }

    /// Returns whether every message received has been judged.
    pub(in crate::lane::outside) fn is_idle(&self) -> bool {
        self.share.as_ref().is_none_or(Share::is_empty)
    }

    /// Returns `awaited`, and in addition what this must be woken for. The caller sleeps only if
    /// [`must_wait`](Self::must_wait) then still holds.
    pub(in crate::lane::outside) fn awaited(&self, awaited: Awaited) -> Awaited {
        self.share.as_ref().map_or(awaited, |share| share.awaited(awaited))
    }

    /// Returns whether [`work`](Self::work) would find nothing to do.
    pub(in crate::lane::outside) fn must_wait(&mut self) -> bool {
        let may_judge = self.can_judge();
        self.share.as_mut().is_none_or(|share| {
            share.is_empty() || !(share.has_waiting() || may_judge && share.is_oldest_finished())
        })
    }

    /// Drops the messages that have not been judged. Returns the number of datagrams dropped.
    pub(in crate::lane::outside) fn drop_unjudged(&mut self) -> u64 {
        let mut lost = 0;
        if let Some(share) = &mut self.share {
            share.discard(|batch| lost += batch.unjudged() + batch.lost);
        }
        lost
    }
}
