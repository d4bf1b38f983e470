//! Tests of the doorbell with a real eventfd. `tests/model` checks its memory ordering.

use std::os::fd::AsFd;

use crate::lane::ring::doorbell::{Awaited, Doorbell};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

fn rang(bell: &Doorbell) -> bool {
    let mut fds = [PollFd::new(bell.event().as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
}

#[test]
fn a_bell_nobody_waits_at_stays_silent() {
    let bell = Doorbell::new().unwrap();
    bell.ring(Awaited::WORK);
    assert!(!rang(&bell));
}

#[test]
fn a_sleeper_is_woken_once_for_what_it_waits_for() {
    let bell = Doorbell::new().unwrap();
    bell.arm(Awaited::WORK);
    bell.ring(Awaited::BATCHES);
    assert!(!rang(&bell), "no returned batch was awaited");
    bell.ring(Awaited::WORK);
    bell.ring(Awaited::WORK);
    assert!(rang(&bell));
    bell.disarm(true);
    assert!(!rang(&bell), "one read clears the doorbell");
    bell.ring(Awaited::WORK);
    assert!(!rang(&bell), "the owner is awake");
}
