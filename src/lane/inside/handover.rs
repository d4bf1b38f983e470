//! How filled batches get to the outside worker: in the order in which they were filled, sealed by this
//! worker or, with sharing on, by another one.

use std::sync::Arc;

use crate::drops::DropReason;
use crate::lane::ring::Ring;
use crate::lane::ring::batch::OutboundBatch;
use crate::lane::ring::doorbell::Awaited;
use crate::lane::share::jobs::Job;
use crate::lane::share::{SHARE_FROM, Share};
use crate::metrics::InsideMetrics;

/// Hands batches over to the outside worker.
pub(super) struct Handover {
    ring: Arc<Ring<OutboundBatch>>,
    share: Option<Share<OutboundBatch>>,
}

impl Handover {
    pub(super) fn new(ring: Arc<Ring<OutboundBatch>>, share: Option<Share<OutboundBatch>>) -> Self {
        Self { ring, share }
    }

    /// The outside worker's ring.
    pub(super) fn ring(&self) -> &Ring<OutboundBatch> {
        &self.ring
    }

    /// Returns whether runs are sealed later, with their batch, and possibly by another worker.
    pub(super) fn is_shared(&self) -> bool {
        self.share.is_some()
    }

    /// Hands over a batch, behind all earlier ones.
    ///
    /// # Panics
    /// If there are more batches than the ring holds.
    pub(super) fn push(&mut self, mut batch: Box<OutboundBatch>, metrics: &mut InsideMetrics) {
        let Some(share) = &mut self.share else { return push(&self.ring, batch) };
        if batch.used() >= SHARE_FROM {
            share.offer(batch);
        } else {
            batch.run();
            if share.is_empty() {
                return push(&self.ring, batch);
            }
            share.offer_finished(batch);
        }
        self.pass_on(metrics);
    }

    /// Passes on the batches that are sealed, up to the oldest one that is not. Returns whether there were
    /// any.
    pub(super) fn pass_on(&mut self, metrics: &mut InsideMetrics) -> bool {
        let Some(share) = &mut self.share else { return false };
        let mut passed = false;
        while let Some(mut batch) = share.complete(&mut metrics.jobs) {
            metrics.outbound_drops.add(DropReason::WorkerRestart, std::mem::take(&mut batch.lost));
            push(&self.ring, batch);
            passed = true;
        }
        passed
    }

    /// Seals the oldest batch that no other worker has taken, and passes on what is
    /// sealed. Returns whether there was anything to do.
    pub(super) fn work(&mut self, metrics: &mut InsideMetrics) -> bool {
        let Some(share) = &mut self.share else { return false };
        if share.is_empty() {
            return false;
        }
        let ran = !share.is_oldest_finished() && share.run_one();
        self.pass_on(metrics) || ran
    }

    /// Returns the number of batches that are not passed on.
    pub(super) fn batches(&self) -> usize {
        self.share.as_ref().map_or(0, Share::len)
    }

    /// Drops the batches that are not passed on. Returns the number of datagrams dropped.
    pub(super) fn discard(&mut self) -> u64 {
        let mut lost = 0;
        if let Some(share) = &mut self.share {
            share.discard(|batch| {
                lost += batch.datagrams() + batch.lost;
                batch.runs.clear();
            });
        }
        lost
    }

    /// Returns whether every batch handed over is in the ring or beyond.
    pub(super) fn is_empty(&self) -> bool {
        self.share.as_ref().is_none_or(Share::is_empty)
    }

    /// Returns `awaited`, and in addition what this must be woken for. The caller sleeps only if
    /// [`must_wait`](Self::must_wait) then still holds.
    pub(super) fn awaited(&self, awaited: Awaited) -> Awaited {
        self.share.as_ref().map_or(awaited, |share| share.awaited(awaited))
    }

    /// Returns whether [`work`](Self::work) would find nothing to do.
    pub(super) fn must_wait(&mut self) -> bool {
        self.share
            .as_mut()
            .is_none_or(|share| share.is_empty() || (!share.has_waiting() && !share.is_oldest_finished()))
    }
}

fn push(ring: &Ring<OutboundBatch>, batch: Box<OutboundBatch>) {
    assert!(ring.push(batch).is_ok(), "the ring holds every batch of its pool");
}
