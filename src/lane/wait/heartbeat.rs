//! Liveness checks of actors, without a timer in the actor.
//!
//! The watcher sends a probe: it stores the time and rings the actor's doorbell, which wakes a
//! sleeping actor. The actor checks for a probe once per turn, at the cost of one load, and clears it.
//! If a probe stays open, the actor is stuck.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::lane::ring::doorbell::{Awaited, Doorbell};
use crate::units::Nanos;

/// One actor's heartbeat, shared by the actor and its watcher.
#[derive(Debug)]
pub struct Heartbeat {
    bell: Arc<Doorbell>,
    /// When the open probe was sent, in nanoseconds; [`ANSWERED`] if none is open.
    question: AtomicU64,
}

const ANSWERED: u64 = 0;

impl Heartbeat {
    /// Creates the heartbeat of the actor that owns `bell`.
    pub fn new(bell: Arc<Doorbell>) -> Self {
        Self { bell, question: AtomicU64::new(ANSWERED) }
    }

    /// Sends a probe, unless one is open already.
    pub fn ask(&self, now: Nanos) {
        let asked = now.0.max(ANSWERED + 1);
        let open = self.question.compare_exchange(ANSWERED, asked, Ordering::Relaxed, Ordering::Relaxed);
        if open.is_ok() {
            self.bell.ring(Awaited::ANY);
        }
    }

    /// Returns how long the probe has been open, or `None` if the actor has answered.
    pub fn open_for(&self, now: Nanos) -> Option<Duration> {
        match self.question.load(Ordering::Relaxed) {
            ANSWERED => None,
            asked => Some(now.since(Nanos(asked))),
        }
    }

    /// Returns whether a probe is open.
    #[inline]
    pub(crate) fn is_asked(&self) -> bool {
        self.question.load(Ordering::Relaxed) != ANSWERED
    }

    /// Answers an open probe.
    #[inline]
    pub(crate) fn beat(&self) {
        // Most turns only load, which keeps the cache line shared.
        if self.is_asked() {
            self.question.store(ANSWERED, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::clock;
    use crate::lane::wait::sleep::Sleeper;
    use crate::shutdown::Shutdown;

    #[test]
    fn a_question_stays_open_until_the_actor_comes_by() {
        let heartbeat = Heartbeat::new(Arc::new(Doorbell::new().unwrap()));
        let at = |seconds: u64| Nanos(seconds * 1_000_000_000);
        assert_eq!(heartbeat.open_for(at(1)), None);
        heartbeat.ask(at(2));
        heartbeat.ask(at(4));
        assert_eq!(heartbeat.open_for(at(5)), Some(Duration::from_secs(3)), "the first probe counts");
        heartbeat.beat();
        assert_eq!(heartbeat.open_for(at(9)), None);
    }

    #[test]
    fn an_actor_that_sleeps_gets_up_to_answer() {
        let bell = Arc::new(Doorbell::new().unwrap());
        let shutdown = Arc::new(Shutdown::new().unwrap());
        let sleeper = Sleeper::new(bell, Arc::clone(&shutdown));
        let heartbeat = Arc::clone(sleeper.heartbeat());
        let actor = thread::spawn(move || while sleeper.sleep(Awaited::WORK, None, None, || true).is_ok() {});
        for _ in 0..200 {
            heartbeat.ask(clock::now());
            while heartbeat.open_for(clock::now()).is_some() {
                thread::yield_now();
            }
        }
        shutdown.signal();
        actor.join().unwrap();
    }
}
