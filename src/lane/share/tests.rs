//! Tests of jobs and helpers with real threads. `tests/model` checks the memory ordering.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use super::helpers::{Helper, JobsOf};
use super::jobs::{Done, Job, Jobs, OwnJobs, Tag};
use crate::lane::ring::batch::{InboundBatch, OutboundBatch};
use crate::lane::ring::doorbell::{Awaited, Doorbell};
use crate::lane::wait::sleep::Sleeper;
use crate::metrics::{InsideMetrics, Registry};
use crate::shutdown::Shutdown;

/// A job that counts how often it is done, and panics if it is told to.
#[derive(Default)]
struct Count {
    number: u32,
    panics: bool,
    runs: u32,
    failed: bool,
    tag: Tag,
}

impl Count {
    fn new(number: u32) -> Self {
        Count { number, ..Count::default() }
    }
}

impl Job for Count {
    fn run(&mut self) {
        self.runs += 1;
        assert!(!self.panics, "a panic, as the test intends");
    }

    fn fail(&mut self) {
        self.failed = true;
    }

    fn tag(&mut self) -> &mut Tag {
        &mut self.tag
    }
}

fn bell() -> Arc<Doorbell> {
    Arc::new(Doorbell::new().unwrap())
}

fn sleeper(bell: &Arc<Doorbell>) -> Sleeper {
    Sleeper::new(Arc::clone(bell), Arc::new(Shutdown::new().unwrap()))
}

/// Takes jobs until `over`.
fn help(jobs: &Jobs<Count>, over: &AtomicBool) {
    while !over.load(Relaxed) {
        if !jobs.help() {
            thread::yield_now();
        }
    }
}

#[test]
fn jobs_that_others_take_come_back_done_once_and_in_order() {
    const JOBS: u32 = 3_000;
    for capacity in [1, 2, 7] {
        let bell = bell();
        let sleeper = sleeper(&bell);
        let mut own = OwnJobs::new(capacity, bell);
        let (shared, over) = (Arc::clone(own.shared()), AtomicBool::new(false));
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| help(&shared, &over));
            }
            let (mut next, mut expected, mut by_helpers) = (0, 0, 0);
            while expected < JOBS {
                while next < JOBS && !own.is_full() {
                    match next % 5 {
                        0 => own.submit_finished(Box::new(Count::new(next))),
                        _ => own.submit(Box::new(Count::new(next))),
                    }
                    next += 1;
                }
                if next.is_multiple_of(3) {
                    own.run_one();
                }
                while let Some((job, done)) = own.complete() {
                    assert_eq!(job.number, expected);
                    assert_eq!(job.runs, u32::from(expected % 5 != 0));
                    assert_eq!(done == Done::NoWork, expected % 5 == 0);
                    by_helpers += u32::from(done == Done::ByHelper);
                    expected += 1;
                }
                // On a busy machine a helper may be long in coming.
                thread::yield_now();
                if own.shared().is_empty() && !own.is_empty() {
                    own.await_oldest();
                    // A lost wake-up would hang here.
                    sleeper.sleep(Awaited::DONE, None, None, || !own.is_oldest_finished()).unwrap();
                }
            }
            over.store(true, Relaxed);
            assert!(own.is_empty() && by_helpers > 0, "nobody helped");
        });
    }
}

#[test]
fn a_job_that_panics_is_failed_and_keeps_its_place() {
    let mut own = OwnJobs::new(4, bell());
    for number in 0..3 {
        own.submit(Box::new(Count { number, panics: number == 1, ..Count::default() }));
    }
    let shared = Arc::clone(own.shared());
    assert!(shared.help());
    let helper = thread::spawn(move || catch_unwind(AssertUnwindSafe(|| shared.help())).is_err());
    assert!(helper.join().unwrap(), "it panicked in the helper");
    assert!(own.run_one());
    for number in 0..3 {
        let (job, _) = own.complete().expect("every job comes back");
        assert_eq!((job.number, job.failed), (number, number == 1));
    }
    assert!(own.is_empty());
}

#[test]
fn a_job_that_is_given_back_undone_is_failed() {
    let mut own = OwnJobs::new(1, bell());
    own.submit(Box::new(Count::new(0)));
    drop(own.shared().take());
    let (job, _) = own.complete().unwrap();
    assert!(job.failed && job.runs == 0);
}

/// Workers of one lane, with jobs that nothing is in.
fn workers(
    bells: &[Arc<Doorbell>],
) -> (Vec<OwnJobs<OutboundBatch>>, Vec<OwnJobs<InboundBatch>>, Vec<Helper>) {
    let inside: Vec<_> = bells.iter().map(|bell| OwnJobs::new(8, Arc::clone(bell))).collect();
    let helpers = Helper::of_workers(
        bells
            .iter()
            .zip(&inside)
            .map(|(bell, jobs)| (Arc::clone(bell), JobsOf::Inside(Arc::clone(jobs.shared())))),
    );
    (inside, Vec::new(), helpers)
}

#[test]
fn the_worker_that_has_slept_longest_is_called_and_nobody_who_is_awake() {
    let bells: Vec<_> = (0..4).map(|_| bell()).collect();
    let (_jobs, _, helpers) = workers(&bells);
    let sleep = |n: usize| {
        let awaited = helpers[n].awaited(Awaited::WORK);
        bells[n].arm(awaited);
        // Later sleepers have a later time.
        thread::sleep(std::time::Duration::from_millis(2));
    };
    assert!(helpers[0].should_run_one(2), "everybody is awake");
    sleep(2);
    sleep(1);
    assert!(!helpers[0].should_run_one(1), "a single job is not worth a call");
    assert!(!helpers[2].is_called());
    assert!(!helpers[0].should_run_one(2));
    assert!(helpers[2].is_called() && !helpers[1].is_called());
    assert!(!helpers[0].should_run_one(2), "a helper is on its way");
    assert!(!helpers[1].is_called());
    assert!(!helpers[0].should_run_one(3));
    assert!(helpers[1].is_called(), "more than one helper can do");
    assert!(!helpers[0].should_run_one(5), "nobody else sleeps, but two help");
}

#[test]
fn a_called_worker_helps_until_it_finds_no_job() {
    let bells: Vec<_> = (0..2).map(|_| bell()).collect();
    let (mut jobs, _, helpers) = workers(&bells);
    let registry = Registry::new();
    let mut metrics = InsideMetrics::register(&registry, 0);
    for _ in 0..2 {
        jobs[0].submit(Box::new(OutboundBatch::new()));
    }
    assert!(!helpers[1].help(&mut metrics.jobs.calls), "it was not called");
    bells[1].arm(helpers[1].awaited(Awaited::WORK));
    assert!(!helpers[0].should_run_one(2) && helpers[0].helping() == 1);
    for helped in [true, true, false] {
        assert_eq!(helpers[1].help(&mut metrics.jobs.calls), helped);
    }
    assert!(!helpers[1].is_called() && helpers[0].helping() == 0);
    for _ in 0..2 {
        assert_eq!(jobs[0].complete().map(|(_, done)| done), Some(Done::ByHelper));
    }
}
