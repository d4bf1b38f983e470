//! Who helps: the workers of all lanes, and how they are called.
//!
//! A worker takes other workers' jobs only after it was *called*, and only while it has no work of its
//! own. It stops helping when it finds no job. Only sleeping workers are called, the one that has slept
//! longest first: those have the least to do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};

use crossbeam::utils::CachePadded;

use super::jobs::Jobs;
use crate::clock;
use crate::lane::ring::batch::{InboundBatch, OutboundBatch};
use crate::lane::ring::doorbell::{Awaited, Doorbell};
use crate::metrics::Tally;

/// Maximum number of workers that a caller looks at, and of owners whose jobs a helper looks at between
/// two looks at its own work.
const LOOK_AT: usize = 16;

/// Jobs per helping worker that an owner leaves waiting: enough that a helper finds the next one.
const AHEAD: usize = 2;

/// The jobs of one owner.
#[derive(Clone, Debug)]
pub enum JobsOf {
    /// Batches to seal, of an inside worker.
    Inside(Arc<Jobs<OutboundBatch>>),
    /// Batches to open, of an outside worker.
    Outside(Arc<Jobs<InboundBatch>>),
}

impl JobsOf {
    fn waiting(&self) -> usize {
        match self {
            Self::Inside(jobs) => jobs.waiting(),
            Self::Outside(jobs) => jobs.waiting(),
        }
    }

    /// Does the oldest waiting job. Returns whether there was one.
    fn run_one(&self) -> bool {
        match self {
            Self::Inside(jobs) => jobs.help(),
            Self::Outside(jobs) => jobs.help(),
        }
    }
}

/// A worker that may be called.
#[derive(Debug)]
struct SharingWorker {
    bell: Arc<Doorbell>,
    jobs: JobsOf,
    state: CachePadded<WorkerState>,
}

#[derive(Debug, Default)]
struct WorkerState {
    called: AtomicBool,
    /// When the worker last began to sleep, in nanoseconds.
    asleep_since: AtomicU64,
}

/// The workers that share their jobs.
#[derive(Debug)]
struct Helpers {
    workers: Box<[SharingWorker]>,
    /// Number of workers that have been called and have not stopped helping.
    helping: CachePadded<AtomicUsize>,
}

/// One worker's part in the sharing of jobs, as owner and as helper.
#[derive(Clone, Debug)]
pub struct Helper {
    helpers: Arc<Helpers>,
    me: usize,
}

impl Helper {
    /// Creates the handles of all workers, given each one's doorbell and jobs.
    pub fn of_workers(workers: impl IntoIterator<Item = (Arc<Doorbell>, JobsOf)>) -> Vec<Helper> {
        let workers: Box<[_]> = workers
            .into_iter()
            .map(|(bell, jobs)| SharingWorker { bell, jobs, state: CachePadded::default() })
            .collect();
        let helpers = Arc::new(Helpers { workers, helping: CachePadded::default() });
        (0..helpers.workers.len()).map(|me| Helper { helpers: Arc::clone(&helpers), me }).collect()
    }

    /// Calls a helper if those that help have too little time for this worker's `waiting` jobs. Returns
    /// whether it should do one itself at once: nobody helps, and nobody sleeps who could be called.
    #[inline]
    pub fn should_run_one(&self, waiting: usize) -> bool {
        let helping = self.helping();
        // A single job is not worth a call: it may be the last.
        waiting > 1 && waiting > AHEAD * helping && !self.call() && helping == 0
    }

    /// Returns the number of workers that help at present.
    #[inline]
    pub fn helping(&self) -> usize {
        self.helpers.helping.load(Relaxed)
    }

    /// Does one job of another worker, if this worker was called and has found one. Returns whether it
    /// has.
    pub fn help(&self, calls: &mut Tally) -> bool {
        let state = &self.me().state;
        if !state.called.load(Relaxed) {
            return false;
        }
        for jobs in self.owners().map(|worker| &worker.jobs) {
            let waiting = jobs.waiting();
            if waiting == 0 {
                continue;
            }
            // Whoever comes passes the call on while there is more than the helpers can do.
            if waiting > AHEAD * self.helping() {
                self.call();
            }
            if jobs.run_one() {
                return true;
            }
        }
        calls.add(1);
        self.stop();
        false
    }

    /// Returns whether this worker was called. A worker checks this before it sleeps.
    #[inline]
    pub fn is_called(&self) -> bool {
        self.me().state.called.load(Relaxed)
    }

    /// Records that this worker is about to sleep. Returns `awaited`, and in addition a call. The worker
    /// sleeps only if [`is_called`](Self::is_called) is then still false.
    #[inline]
    pub fn awaited(&self, awaited: Awaited) -> Awaited {
        self.me().state.asleep_since.store(clock::now().0, Relaxed);
        awaited.with(Awaited::CALL)
    }

    /// Stops helping.
    fn stop(&self) {
        if self.me().state.called.swap(false, Relaxed) {
            self.helpers.helping.fetch_sub(1, Relaxed);
        }
    }

    /// Wakes the sleeping worker that has slept longest. Returns whether there was one.
    fn call(&self) -> bool {
        let asleep = self.callable().filter(|worker| worker.bell.is_armed(Awaited::CALL));
        let Some(worker) = asleep.min_by_key(|worker| worker.state.asleep_since.load(Relaxed)) else {
            return false;
        };
        if !worker.state.called.swap(true, Relaxed) {
            self.helpers.helping.fetch_add(1, Relaxed);
        }
        worker.bell.ring(Awaited::CALL);
        true
    }

    fn me(&self) -> &SharingWorker {
        &self.helpers.workers[self.me]
    }

    /// Iterates over the workers that this one calls: at most the [`LOOK_AT`] after it.
    fn callable(&self) -> impl Iterator<Item = &SharingWorker> {
        let workers = &self.helpers.workers;
        (1..workers.len()).take(LOOK_AT).map(|n| &workers[(self.me + n) % workers.len()])
    }

    /// Iterates over the workers that call this one: at most the [`LOOK_AT`] before it.
    fn owners(&self) -> impl Iterator<Item = &SharingWorker> {
        let workers = &self.helpers.workers;
        (1..workers.len()).take(LOOK_AT).map(|n| &workers[(self.me + workers.len() - n) % workers.len()])
    }
}
