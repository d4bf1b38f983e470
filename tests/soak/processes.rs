//! Ends of processes, and their successors.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::ledger::Excuse;
use super::router::tail;
use super::world::World;
use crate::support::wait_until;

pub fn kill(world: &mut World, index: usize) {
    let status = world.routers[index].end(Signal::SIGKILL);
    assert_eq!(status, None, "it was killed");
    world.outage(0, 2000);
    world.start_again(index);
}

pub fn restart(world: &mut World, index: usize) {
    world.excuse_until_recovered(Excuse::Resets);
    let status = world.routers[index].end(Signal::SIGTERM);
    if status != Some(0) {
        world.ledger.broken(&format!("{} has ended with {status:?}", world.routers[index].name));
    }
    world.pause(0, 1000);
    world.start_again(index);
}

pub fn take_over(world: &mut World, index: usize) {
    let router = &mut world.routers[index];
    let mut successor = router.spawn(&[]);
    wait_until("one of the two processes to end", || {
        !router.process().is_running() || !successor.is_running()
    });
    if router.process().is_running() {
        router.ledger.broken(&format!("{} was not taken over: {}", router.name, tail(&successor.said(), 10)));
        return;
    }
    let status = router.process().wait();
    if status != Some(0) {
        let said = [tail(&router.process().said(), 10), tail(&successor.said(), 10)];
        router.ledger.broken(&format!("{} has ended with {status:?}, taken over: {said:?}", router.name));
    }
    router.retire();
    router.adopt(successor);
    router.wait_for_service();
}

pub fn broken_take_over(world: &mut World, index: usize) {
    // A successor of one that dies before it has passed anything on starts by itself.
    world.attaches();
    let (time, first) = (world.random.millis(0, 150), world.random.chance(500));
    let router = &mut world.routers[index];
    let mut successor = router.spawn(&[]);
    thread::sleep(time);
    if first {
        router.process().signal(Signal::SIGKILL);
        router.process().wait();
    } else {
        successor.signal(Signal::SIGKILL);
        successor.wait();
    }
    // Whoever is left carries on. The other one may have ended by itself.
    let start = Instant::now();
    let carries_on = loop {
        match [router.process().is_running(), successor.is_running()] {
            [true, true] if start.elapsed() < Duration::from_secs(10) => {
                thread::sleep(Duration::from_millis(10));
            }
            running => break running,
        }
    };
    router.ledger.say(&format!(
        "         killed the {} after {time:?}; running: {carries_on:?}",
        if first { "predecessor" } else { "successor" }
    ));
    match carries_on {
        [true, false] => {}
        [false, true] => {
            router.retire();
            router.adopt(successor);
            router.wait_for_service();
        }
        [false, false] => {
            router.retire();
            world.start_again(index);
        }
        [true, true] => panic!("two routers: {}", successor.said()),
    }
}
