//! Sharing: sealing and opening by whatever worker has nothing else to do.
//!
//! With sharing on, a worker that reads does not seal or open a large batch at once. It submits the batch
//! as a [job](jobs), reads on, and passes finished batches on in the order in which they came. Workers of
//! any lane that have been [called](helpers) take jobs meanwhile. Reading, order and writing stay with
//! their owners:
//!
//! - An inside worker reserves the counters of a batch before it submits it ([`sealing`]), and pushes
//!   sealed batches to its ring in order.
//! - An outside worker judges opened messages (replay, source, flow) in the order of their arrival
//!   ([`opening`]), and only then hands them on.
//!
//! An owner that has nothing left to read does its jobs itself, oldest first, except for those that called
//! workers are about to take; it waits for these for at most [`PATIENCE`]. It waits longer only for jobs that
//! another worker has in hand. If no worker sleeps, nobody is called, and everything is done by its owner.

pub mod helpers;
pub mod jobs;
pub mod opening;
pub mod sealing;
#[cfg(test)]
mod tests;

use std::time::Duration;

// The names under which `jobs` and its copy in the model checker find these modules.
use super::ring::{doorbell, sync};

use helpers::Helper;
use jobs::{Done, Job, OwnJobs};

use crate::clock;
use crate::metrics::JobTally;
use crate::units::Nanos;

/// Smallest batch in bytes that is submitted as a job. A smaller one takes a few microseconds, about as
/// long as handing it to another worker and back.
pub const SHARE_FROM: usize = 16 * 1024;

/// How long an owner without other work leaves a job to workers that have been called and have not taken
/// it. They usually come within tens of microseconds.
pub const PATIENCE: Duration = Duration::from_millis(1);

/// One worker's own jobs, and the workers that help with them.
#[derive(Debug)]
pub struct Share<T> {
    jobs: OwnJobs<T>,
    helper: Helper,
    /// Since when the owner has left jobs to helpers and made no progress.
    left_since: Option<Nanos>,
}

impl<T: Job> Share<T> {
    /// Shares `jobs` with the workers that `helper` calls.
    pub fn new(jobs: OwnJobs<T>, helper: Helper) -> Self {
        Self { jobs, helper, left_since: None }
    }

    /// Submits a batch as a job, and calls a helper or does a job if too many wait.
    pub fn offer(&mut self, batch: Box<T>) {
        self.jobs.submit(batch);
        while self.helper.should_run_one(self.jobs.shared().waiting()) && self.jobs.run_one() {}
    }

    /// Adds a batch without work behind the jobs submitted so far.
    pub fn offer_finished(&mut self, batch: Box<T>) {
        self.jobs.submit_finished(batch);
    }

    /// Does the oldest job that nobody has taken, unless a helper is about to. Returns whether it did one.
    pub fn run_due(&mut self) -> bool {
        let waiting = self.jobs.shared().waiting();
        if waiting == 0 {
            return false;
        }
        if self.helper.leaves(waiting) {
            let now = clock::now();
            if now.since(*self.left_since.get_or_insert(now)) < PATIENCE {
                return false;
            }
        }
        self.left_since = None;
        self.jobs.run_one()
    }

    /// Removes and returns the oldest batch if it is finished.
    #[inline]
    pub fn complete(&mut self, tally: &mut JobTally) -> Option<Box<T>> {
        let (batch, done) = self.jobs.complete()?;
        self.left_since = None;
        match done {
            Done::ByOwner => tally.by_owner.add(1),
            Done::ByHelper => tally.by_helper.add(1),
            Done::NoWork => {}
        }
        Some(batch)
    }

    /// Drops every batch that no other worker has in hand, after a call of `each`.
    pub fn discard(&mut self, mut each: impl FnMut(&T)) {
        // A job that is given back undone is finished as failed.
        while self.jobs.shared().take().is_some() {}
        while let Some((batch, _)) = self.jobs.complete() {
            each(&batch);
        }
    }

    /// Returns whether every batch has been completed.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Returns whether all jobs are taken, or left to helpers for the moment.
    pub fn must_wait(&self) -> bool {
        let waiting = self.jobs.shared().waiting();
        waiting == 0 || self.helper.leaves(waiting)
    }

    /// Returns how long the owner may sleep.
    pub fn limit(&self) -> Option<Duration> {
        (!self.jobs.shared().is_empty()).then_some(PATIENCE)
    }

    /// Returns whether the oldest batch is finished.
    pub fn is_oldest_finished(&mut self) -> bool {
        self.jobs.is_oldest_finished()
    }

    /// Announces that the owner is about to sleep until the oldest batch is finished.
    pub fn await_oldest(&self) {
        self.jobs.await_oldest();
    }
}
