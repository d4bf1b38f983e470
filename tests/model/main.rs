//! Rings, doorbells and pools under the loom model checker: it tries every order in which threads can see each
//! other's writes, and in none of them is a wake-up lost, a batch lost or duplicated, or a batch made from
//! nothing.
//!
//! A lost wake-up shows as a deadlock: the consumer sleeps, the producers are done. Leaving out either of the
//! doorbell's fences, or the consumer's second look, shows that the model would detect one. The code under test is
//! the source in `src/lane` itself, over stand-ins for the ring's storage and the eventfd.

mod lane;
mod stand_ins;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use lane::doorbell::{Awaited, Doorbell};
use lane::jobs::{Done, Job, Jobs, OwnJobs, Tag};
use lane::pool::Pool;
use lane::ring::Ring;
use loom::sync::Arc;
use loom::sync::atomic::AtomicU32;
use stand_ins::{Side, leave_out_fence_of, spawn_producer};

/// The last batch.
const LAST: u32 = u32::MAX;

/// Tries every order with at most `preemptions` preemptions of a thread that could have continued. Known faults of
/// this kind need one or two.
fn explore(preemptions: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}

/// Sleeps as `lane::wait::sleep::Sleeper` does.
fn sleep(bell: &Doorbell, awaited: Awaited, idle: impl FnOnce() -> bool) {
    bell.arm(awaited);
    if !idle() {
        bell.disarm(false);
        return;
    }
    bell.event().wait();
    bell.disarm(true);
}

/// Returns the next batch, and sleeps until there is one.
fn receive(ring: &Ring<u32>, bell: &Doorbell) -> u32 {
    loop {
        if let Some(batch) = ring.pop() {
            return *batch;
        }
        sleep(bell, Awaited::WORK, || ring.is_empty());
    }
}

fn ring_of(depth: usize) -> (Arc<Ring<u32>>, Arc<Doorbell>) {
    let bell = Arc::new(Doorbell::new().unwrap());
    (Arc::new(Ring::new(depth, Arc::clone(&bell))), bell)
}

/// Runs one producer that sends `batches`, and a consumer that waits for each.
fn one_to_one(batches: u32) {
    let (ring, bell) = ring_of(2);
    let producer = spawn_producer({
        let ring = Arc::clone(&ring);
        move || (0..batches).for_each(|n| ring.push(Box::new(n)).expect("there is room"))
    });
    for expected in 0..batches {
        assert_eq!(receive(&ring, &bell), expected);
    }
    assert!(ring.is_empty());
    producer.join().unwrap();
}

/// Returns whether there is an order in which the consumer, about to sleep, would sleep forever: the only producer
/// is done, and the bell has not rung. `looks`: whether it checks its ring once more between arming the bell and
/// sleeping.
fn can_oversleep(looks: bool) -> bool {
    let oversleeps = std::sync::Arc::new(AtomicBool::new(false));
    let found = std::sync::Arc::clone(&oversleeps);
    explore(3, move || {
        let (ring, bell) = ring_of(1);
        let producer = spawn_producer({
            let ring = Arc::clone(&ring);
            move || ring.push(Box::new(0)).expect("there is room")
        });
        let sleeps = ring.pop().is_none() && {
            bell.arm(Awaited::WORK);
            !looks || ring.is_empty()
        };
        producer.join().unwrap();
        if sleeps && !bell.event().is_signalled() {
            found.store(true, Relaxed);
        }
    });
    oversleeps.load(Relaxed)
}

#[test]
fn no_wake_up_is_lost_and_batches_keep_their_order() {
    explore(4, || one_to_one(2));
}

#[test]
fn two_producers_at_one_inbox_lose_and_double_nothing() {
    explore(3, || {
        let (ring, bell) = ring_of(2);
        let producers = [1, 2].map(|n| {
            let ring = Arc::clone(&ring);
            spawn_producer(move || ring.push(Box::new(n)).expect("there is room"))
        });
        let got = [receive(&ring, &bell), receive(&ring, &bell)];
        assert!(got == [1, 2] || got == [2, 1], "{got:?}");
        assert!(ring.is_empty());
        for producer in producers {
            producer.join().unwrap();
        }
    });
}

#[test]
fn a_full_inbox_refuses_and_what_it_took_arrives_once() {
    explore(4, || {
        let (ring, bell) = ring_of(1);
        let producer = spawn_producer({
            let ring = Arc::clone(&ring);
            move || (0..3).filter(|n| ring.push(Box::new(*n)).is_ok()).collect::<Vec<_>>()
        });
        let mut got = vec![receive(&ring, &bell)];
        assert!(ring.len() <= 1, "more than one batch in an inbox of one");
        let taken = producer.join().unwrap();
        while let Some(batch) = ring.pop() {
            got.push(*batch);
        }
        assert_eq!(got, taken);
        assert_eq!(got[0], 0, "an empty inbox refused a batch");
    });
}

#[test]
fn one_slab_feeds_a_stream_while_both_ends_sleep() {
    explore(2, || {
        let (ring, bell) = ring_of(2);
        let home_bell = Arc::new(Doorbell::new().unwrap());
        let mut pool = Pool::new(1, Arc::clone(&home_bell), || 0);
        let returns = Arc::clone(pool.returns());
        let sender = spawn_producer({
            let ring = Arc::clone(&ring);
            move || {
                for n in 1..=2 {
                    let mut slab = loop {
                        if let Some(slab) = pool.take() {
                            break slab;
                        }
                        sleep(&home_bell, Awaited::ANY, || pool.is_empty());
                    };
                    assert_eq!(*slab, n - 1, "a slab was made from nothing");
                    *slab = n;
                    ring.push(slab).expect("an outbox holds every batch of its pool");
                }
                assert!(pool.available() <= pool.size());
            }
        });
        for expected in 1..=2 {
            let batch = receive(&ring, &bell);
            assert_eq!(batch, expected);
            returns.push(Box::new(batch)).expect("a return ring holds every batch of its pool");
        }
        sender.join().unwrap();
    });
}

/// Runs a producer that may bypass the ring when the consumer sleeps. With `looks` it also requires all its other
/// batches to have been returned, so that nothing is overtaken.
fn takes_shortcuts(looks: bool) {
    let (ring, bell) = ring_of(3);
    let mut pool = Pool::new(2, Arc::new(Doorbell::new().unwrap()), || 0);
    let returns = Arc::clone(pool.returns());
    let written = Arc::new(AtomicU32::new(0));
    // Relaxed, so that only the rings provide ordering.
    let write = |written: &AtomicU32, n| {
        assert_eq!(written.load(Relaxed), n, "overtaken");
        written.store(n + 1, Relaxed);
    };
    let producer = spawn_producer({
        let (ring, written) = (Arc::clone(&ring), Arc::clone(&written));
        move || {
            let mut handed = 0;
            for n in 0..2 {
                let mut slab = pool.take().expect("there are two");
                if ring.would_wake() && (!looks || pool.all_returned_but_one()) {
                    write(&written, n);
                    pool.put_back(slab);
                } else {
                    *slab = n;
                    ring.push(slab).expect("an outbox holds every batch of its pool");
                    handed += 1;
                }
            }
            // The consumer must not wait for batches that bypassed the ring.
            ring.push(Box::new(LAST)).expect("there is room for one more");
            handed
        }
    });
    let mut served = 0;
    loop {
        let batch = receive(&ring, &bell);
        if batch == LAST {
            break;
        }
        write(&written, batch);
        served += 1;
        returns.push(Box::new(batch)).expect("a return ring holds every batch of its pool");
    }
    assert_eq!(producer.join().unwrap(), served);
    assert_eq!(written.load(Relaxed), 2);
}

#[test]
fn a_lone_packet_that_takes_the_shortcut_overtakes_nothing() {
    explore(3, || takes_shortcuts(true));
}

#[test]
#[should_panic(expected = "overtaken")]
fn one_that_only_looks_whether_the_consumer_sleeps_can_overtake() {
    explore(3, || takes_shortcuts(false));
}

#[test]
fn a_ring_that_comes_late_wakes_once_too_often_and_never_too_seldom() {
    explore(3, || {
        let (ring, bell) = ring_of(2);
        let producer = spawn_producer({
            let ring = Arc::clone(&ring);
            move || ring.push(Box::new(7)).expect("there is room")
        });
        // The device is ready at once: the sleep ends without the bell, which may ring meanwhile.
        bell.arm(Awaited::WORK);
        bell.disarm(false);
        assert_eq!(receive(&ring, &bell), 7);
        producer.join().unwrap();
    });
}

/// A job that notes whether it was done or failed.
struct Work {
    number: u32,
    runs: u32,
    fails: u32,
    tag: Tag,
}

impl Job for Work {
    fn run(&mut self) {
        self.runs += 1;
    }

    fn fail(&mut self) {
        self.fails += 1;
    }

    fn tag(&mut self) -> &mut Tag {
        &mut self.tag
    }
}

fn jobs_of(capacity: usize) -> (OwnJobs<Work>, Arc<Jobs<Work>>, Arc<Doorbell>) {
    let bell = Arc::new(Doorbell::new().unwrap());
    let own = OwnJobs::new(capacity, Arc::clone(&bell));
    let shared = Arc::clone(own.shared());
    (own, shared, bell)
}

fn submit(own: &mut OwnJobs<Work>, number: u32) {
    own.submit(Box::new(Work { number, runs: 0, fails: 0, tag: Tag::default() }));
}

/// Completes the next job: does what nobody has taken, and sleeps while the oldest is in other hands.
fn complete(own: &mut OwnJobs<Work>, bell: &Doorbell) -> (Box<Work>, Done) {
    loop {
        if let Some(completed) = own.complete() {
            return completed;
        }
        if !own.run_one() {
            own.await_oldest();
            sleep(bell, Awaited::DONE, || !own.is_oldest_finished() && own.shared().is_empty());
        }
    }
}

#[test]
fn jobs_come_back_in_order_and_done_once_whoever_takes_them() {
    explore(3, || {
        let (mut own, shared, bell) = jobs_of(2);
        let helper = spawn_producer(move || (0..2).filter(|_| shared.help()).count());
        let mut by_others = 0;
        for number in 0..3 {
            // The place of the first job is used again by the third.
            if number < 2 {
                submit(&mut own, number);
            }
            if number == 1 {
                let (job, done) = complete(&mut own, &bell);
                assert_eq!((job.number, job.runs, job.fails), (0, 1, 0));
                by_others += usize::from(done == Done::ByHelper);
                submit(&mut own, 2);
            }
        }
        for number in 1..3 {
            let (job, done) = complete(&mut own, &bell);
            assert_eq!((job.number, job.runs, job.fails), (number, 1, 0));
            by_others += usize::from(done == Done::ByHelper);
        }
        assert!(own.is_empty());
        assert_eq!(helper.join().unwrap(), by_others);
    });
}

#[test]
fn two_helpers_never_take_the_same_job() {
    explore(2, || {
        let (mut own, shared, bell) = jobs_of(2);
        submit(&mut own, 0);
        submit(&mut own, 1);
        let helpers = [(); 2].map(|()| {
            let shared = Arc::clone(&shared);
            spawn_producer(move || shared.help())
        });
        for number in 0..2 {
            let (job, _) = complete(&mut own, &bell);
            assert_eq!((job.number, job.runs), (number, 1));
        }
        for helper in helpers {
            helper.join().unwrap();
        }
    });
}

#[test]
fn a_job_given_back_undone_is_failed_and_wakes_its_owner() {
    explore(3, || {
        let (mut own, shared, bell) = jobs_of(2);
        submit(&mut own, 0);
        // As a panic would: the job in hand is dropped.
        let helper = spawn_producer(move || shared.take().is_some());
        let (job, _) = complete(&mut own, &bell);
        assert_eq!(job.runs + job.fails, 1);
        assert_eq!(helper.join().unwrap(), job.fails == 1);
    });
}

/// Returns whether there is an order in which the owner of a job that a helper does would sleep forever. `looks`:
/// whether it checks the job once more between arming the bell and sleeping.
fn owner_can_oversleep(looks: bool) -> bool {
    let oversleeps = std::sync::Arc::new(AtomicBool::new(false));
    let found = std::sync::Arc::clone(&oversleeps);
    explore(3, move || {
        let (mut own, shared, bell) = jobs_of(1);
        submit(&mut own, 0);
        let helper = spawn_producer(move || shared.help());
        let sleeps = !own.is_oldest_finished() && {
            own.await_oldest();
            bell.arm(Awaited::DONE);
            !looks || !own.is_oldest_finished()
        };
        assert!(helper.join().unwrap());
        if sleeps && !bell.event().is_signalled() {
            found.store(true, Relaxed);
        }
    });
    oversleeps.load(Relaxed)
}

#[test]
fn an_owner_that_sleeps_for_a_job_is_always_woken() {
    assert!(!owner_can_oversleep(true));
}

#[test]
fn an_owner_that_does_not_look_again_can_sleep_for_ever() {
    assert!(owner_can_oversleep(false));
}

#[test]
fn a_consumer_that_goes_to_sleep_is_always_woken() {
    assert!(!can_oversleep(true));
}

#[test]
fn without_the_producers_fence_it_can_sleep_for_ever() {
    leave_out_fence_of(Side::Producer);
    assert!(can_oversleep(true));
}

#[test]
fn without_the_consumers_fence_it_can_sleep_for_ever() {
    leave_out_fence_of(Side::Consumer);
    assert!(can_oversleep(true));
}

#[test]
fn without_a_second_look_it_can_sleep_for_ever() {
    assert!(can_oversleep(false));
}
