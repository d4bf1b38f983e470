//! Jobs: batches whose work any worker may do, and that come back to their owner in order.
//!
//! The owner submits jobs in order. The owner and other workers take them, oldest first, so each job is
//! done once, by one worker. A finished job is stored in the place of its number, from which the owner
//! completes jobs strictly in order. A job changes hands by moving its box, so no memory is shared while
//! it is worked on.
//!
//! The owner never depends on others: it does the oldest job that nobody has taken itself, and waits only
//! for jobs that another worker has in hand. A job that panics is [failed](Job::fail) and comes back like
//! any other.

use std::fmt;

use super::doorbell::{Awaited, Doorbell};
use super::sync::{Arc, ArrayQueue, AtomicU64, Ordering, Place, fence};

/// Work on a batch.
pub trait Job {
    /// Does the work.
    fn run(&mut self);

    /// Makes the batch safe to complete after [`run`](Self::run) has panicked: what is left undone is
    /// discarded and counted.
    fn fail(&mut self);

    /// The job's tag, which only this module changes.
    fn tag(&mut self) -> &mut Tag;
}

/// What a job carries of its history.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tag {
    number: u64,
    done: Done,
}

impl Tag {
    /// Returns whether another worker than the owner does the job.
    pub fn is_helped(&self) -> bool {
        self.done == Done::ByHelper
    }
}

/// Who has done a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Done {
    /// Nobody: there was nothing to do.
    #[default]
    NoWork,
    /// Its owner.
    ByOwner,
    /// Another worker.
    ByHelper,
}

/// The shared half of one owner's jobs.
pub struct Jobs<T> {
    /// Jobs that nobody has taken, oldest first.
    waiting: ArrayQueue<Box<T>>,
    /// Finished jobs, by number modulo the capacity.
    finished: Box<[Place<Box<T>>]>,
    /// The number of the job that the owner sleeps for.
    awaited: AtomicU64,
    bell: Arc<Doorbell>,
}

impl<T: Job> Jobs<T> {
    /// Takes the oldest waiting job.
    #[inline]
    pub fn take(&self) -> Option<Taken<'_, T>> {
        let job = self.waiting.pop()?;
        Some(Taken { jobs: self, job: Some(job), done: false })
    }

    /// Does the oldest waiting job, for its owner. Returns whether there was one.
    #[inline]
    pub fn help(&self) -> bool {
        self.take().map(|taken| taken.run(Done::ByHelper)).is_some()
    }

    /// Returns the number of waiting jobs.
    #[inline]
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Returns whether no job waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn place(&self, number: u64) -> &Place<Box<T>> {
        &self.finished[number as usize % self.finished.len()]
    }

    /// Stores a finished job, and wakes the owner if it sleeps for this one.
    fn finish(&self, mut job: Box<T>) {
        let number = job.tag().number;
        self.place(number).store(Some(job));
        fence(Ordering::SeqCst);
        if self.awaited.load(Ordering::Relaxed) == number {
            self.bell.ring(Awaited::DONE);
        }
    }
}

impl<T> fmt::Debug for Jobs<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jobs").field("waiting", &self.waiting.len()).finish_non_exhaustive()
    }
}

/// A job in hand. Dropping it gives the job back to its owner, as failed unless it has been done.
pub struct Taken<'j, T: Job> {
    jobs: &'j Jobs<T>,
    job: Option<Box<T>>,
    done: bool,
}

impl<T: Job> Taken<'_, T> {
    /// Does the job and gives it back.
    pub fn run(mut self, by: Done) {
        if let Some(job) = &mut self.job {
            job.tag().done = by;
            job.run();
            self.done = true;
        }
    }
}

impl<T: Job> Drop for Taken<'_, T> {
    fn drop(&mut self) {
        if let Some(mut job) = self.job.take() {
            if !self.done {
                job.fail();
            }
            self.jobs.finish(job);
        }
    }
}

/// The owner's half: submits jobs and completes them in the same order.
pub struct OwnJobs<T> {
    shared: Arc<Jobs<T>>,
    /// The number of the oldest job that is not completed.
    oldest: u64,
    /// The number of the next job.
    next: u64,
    /// The oldest job, if it is known to be finished.
    arrived: Option<Box<T>>,
}

impl<T: Job> OwnJobs<T> {
    /// Creates the jobs of the worker that owns `bell`, at most `capacity` at a time.
    pub fn new(capacity: usize, bell: Arc<Doorbell>) -> Self {
        let shared = Jobs {
            waiting: ArrayQueue::new(capacity),
            finished: (0..capacity).map(|_| Place::new(None)).collect(),
            awaited: AtomicU64::new(u64::MAX),
            bell,
        };
        Self { shared: Arc::new(shared), oldest: 0, next: 0, arrived: None }
    }

    /// The half that other workers take jobs from.
    pub fn shared(&self) -> &Arc<Jobs<T>> {
        &self.shared
    }

    /// Returns the number of jobs submitted and not completed.
    #[inline]
    pub fn len(&self) -> usize {
        (self.next - self.oldest) as usize
    }

    /// Returns whether every job is completed.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.next == self.oldest
    }

    /// Returns whether no further job can be submitted now.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.len() == self.shared.finished.len()
    }

    /// Submits a job that anybody may take.
    ///
    /// # Panics
    /// If the capacity is exceeded.
    #[inline]
    pub fn submit(&mut self, mut job: Box<T>) {
        self.number(&mut job);
        assert!(self.shared.waiting.push(job).is_ok(), "there is room for every job");
    }

    /// Adds a batch without work behind the jobs submitted so far.
    ///
    /// # Panics
    /// If the capacity is exceeded.
    pub fn submit_finished(&mut self, mut job: Box<T>) {
        let number = self.number(&mut job);
        self.shared.place(number).store(Some(job));
    }

    /// Gives `job` the next number, and returns it.
    fn number(&mut self, job: &mut T) -> u64 {
        assert!(!self.is_full(), "there is room for every job");
        let number = self.next;
        *job.tag() = Tag { number, done: Done::NoWork };
        self.next += 1;
        number
    }

    /// Does the oldest waiting job. Returns whether there was one.
    #[inline]
    pub fn run_one(&self) -> bool {
        self.shared.take().map(|taken| taken.run(Done::ByOwner)).is_some()
    }

    /// Returns whether the oldest job is finished.
    #[inline]
    pub fn is_oldest_finished(&mut self) -> bool {
        if self.arrived.is_none() && !self.is_empty() {
            self.arrived = self.shared.place(self.oldest).take();
        }
        self.arrived.is_some()
    }

    /// Removes and returns the oldest job if it is finished, and who has done it.
    #[inline]
    pub fn complete(&mut self) -> Option<(Box<T>, Done)> {
        if !self.is_oldest_finished() {
            return None;
        }
        self.oldest += 1;
        self.arrived.take().map(|mut job| {
            let done = job.tag().done;
            (job, done)
        })
    }

    /// Announces that the owner is about to sleep until the oldest job is finished. The owner then arms
    /// its doorbell with [`Awaited::DONE`] and checks [`is_oldest_finished`](Self::is_oldest_finished) once
    /// more.
    #[inline]
    pub fn await_oldest(&self) {
        self.shared.awaited.store(self.oldest, Ordering::Relaxed);
    }
}

impl<T> fmt::Debug for OwnJobs<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnJobs")
            .field("oldest", &self.oldest)
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}
