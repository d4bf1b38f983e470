//! Tests of rings and pools with real threads. `tests/model` checks their memory ordering.

use crate::lane::ring::doorbell::{Awaited, Doorbell};
use crate::lane::ring::{Pool, Ring};
use std::sync::Arc;
use std::thread;

#[test]
fn a_full_ring_gives_the_batch_back() {
    let ring = Ring::new(1, Arc::new(Doorbell::new().unwrap()));
    assert!(ring.push(Box::new(1)).is_ok());
    assert_eq!(*ring.push(Box::new(2)).unwrap_err(), 2);
    assert_eq!(ring.pop().as_deref(), Some(&1));
    assert!(ring.is_empty());
}

#[test]
fn a_pool_lends_what_it_has_and_gets_it_back() {
    let mut pool = Pool::new(2, Arc::new(Doorbell::new().unwrap()), || 0_u32);
    let (a, b) = (pool.take().unwrap(), pool.take().unwrap());
    assert!(pool.take().is_none() && pool.is_empty());
    pool.returns().push(a).unwrap();
    assert!(!pool.is_empty());
    assert!(pool.take().is_some());
    pool.put_back(b);
    assert!(pool.take().is_some());
}

#[test]
fn batches_arrive_whole_and_in_order_through_a_ring_of_one() {
    const BATCHES: u32 = 20_000;
    let bell = Arc::new(Doorbell::new().unwrap());
    let ring = Arc::new(Ring::new(1, Arc::clone(&bell)));
    let producer = thread::spawn({
        let ring = Arc::clone(&ring);
        move || {
            for n in 0..BATCHES {
                let mut batch = Box::new(n);
                while let Err(back) = ring.push(batch) {
                    batch = back;
                    thread::yield_now();
                }
            }
        }
    });
    for expected in 0..BATCHES {
        let batch = loop {
            if let Some(batch) = ring.pop() {
                break batch;
            }
            bell.arm(Awaited::WORK);
            if ring.is_empty() {
                use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
                use std::os::fd::AsFd;
                let mut fds = [PollFd::new(bell.event().as_fd(), PollFlags::POLLIN)];
                // A lost wake-up would hang here. A minute is far longer than any scheduling delay.
                let ready = poll(&mut fds, PollTimeout::from(60_000_u16)).unwrap();
                assert_eq!(ready, 1, "a wake-up was lost");
                bell.disarm(true);
            } else {
                bell.disarm(false);
            }
        };
        assert_eq!(*batch, expected);
    }
    producer.join().unwrap();
}
