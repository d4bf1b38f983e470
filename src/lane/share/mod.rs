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
//! An owner that has nothing left to read does its jobs itself, oldest first. It waits only for jobs that
//! another worker has in hand, which takes as long as one job does. If nobody helps and no worker sleeps that
//! could be called, the owner does its jobs at once, as without sharing.

pub mod helpers;
pub mod jobs;
pub mod opening;
pub mod sealing;
#[cfg(test)]
mod tests;

// The names under which `jobs` and its copy in the model checker find these modules.
use super::ring::{doorbell, sync};

use doorbell::Awaited;
use helpers::Helper;
use jobs::{Done, Job, OwnJobs};

use crate::metrics::JobTally;

/// Smallest batch in bytes that is submitted as a job. A smaller one takes a few microseconds, about as
/// long as handing it to another worker and back.
pub const SHARE_FROM: usize = 16 * 1024;

/// One worker's own jobs, and the workers that help with them.
#[derive(Debug)]
pub struct Share<T> {
    jobs: OwnJobs<T>,
    helper: Helper,
}

impl<T: Job> Share<T> {
    /// Shares `jobs` with the workers that `helper` calls.
    pub fn new(jobs: OwnJobs<T>, helper: Helper) -> Self {
        Self { jobs, helper }
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

    /// Does the oldest job that nobody has taken. Returns whether there was one.
    pub fn run_one(&mut self) -> bool {
        self.jobs.run_one()
    }

    /// Removes and returns the oldest batch if it is finished.
    #[inline]
    pub fn complete(&mut self, tally: &mut JobTally) -> Option<Box<T>> {
        let (batch, done) = self.jobs.complete()?;
        match done {
            Done::ByOwner => tally.by_owner.add(1),
            Done::ByHelper => tally.by_helper.add(1),
            Done::NoWork => {}
        }
        Some(batch)
    }

    /// Drops every batch that no other worker has in hand, after a call of `each`.
    pub fn discard(&mut self, mut each: impl FnMut(&mut T)) {
        // A job that is given back undone is finished as failed.
        while self.jobs.shared().take().is_some() {}
        while let Some((mut batch, _)) = self.jobs.complete() {
            each(&mut batch);
        }
    }

    /// Returns the number of batches that have not been completed.
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Returns whether every batch has been completed.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Returns whether a job waits that nobody has taken.
    pub fn has_waiting(&self) -> bool {
        !self.jobs.shared().is_empty()
    }

    /// Returns whether the oldest batch is finished.
    pub fn is_oldest_finished(&mut self) -> bool {
        self.jobs.is_oldest_finished()
    }

    /// Announces that the owner is about to sleep. Returns `awaited`, and in addition the end of the oldest
    /// batch, if there is one.
    pub fn awaited(&self, awaited: Awaited) -> Awaited {
        if self.is_empty() {
            return awaited;
        }
        self.jobs.await_oldest();
        awaited.with(Awaited::DONE)
    }
}
