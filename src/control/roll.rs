//! The roll of a router's threads: who they are, what the kernel calls them, and whether each is alive.

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::lane::pulse::Pulse;
use crate::units::Nanos;

/// All threads of one router.
#[derive(Debug, Default)]
pub struct Roll(Mutex<Vec<Arc<Member>>>);

/// One thread.
#[derive(Debug)]
pub struct Member {
    /// The lane it belongs to, if one.
    pub queue: Option<usize>,
    /// What it is: the value of the `worker` label.
    pub worker: &'static str,
    /// How it is asked whether it is alive. One that has none does the asking.
    pulse: Option<Arc<Pulse>>,
    /// The kernel's number for it; 0 before it has begun.
    thread: AtomicI32,
}

impl Roll {
    /// Puts a thread on the roll, which then says so itself ([`Member::begin`]).
    pub fn enlist(
        &self,
        queue: Option<usize>,
        worker: &'static str,
        pulse: Option<Arc<Pulse>>,
    ) -> Arc<Member> {
        let member = Arc::new(Member { queue, worker, pulse, thread: AtomicI32::new(0) });
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&member));
        member
    }

    /// Everybody who is on it.
    pub fn members(&self) -> Vec<Arc<Member>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks everybody whether they are alive.
    pub fn call(&self, now: Nanos) {
        for member in self.members() {
            if let Some(pulse) = &member.pulse {
                pulse.ask(now);
            }
        }
    }

    /// Who has not answered yet, and since when they owe the answer.
    pub fn silent(&self, now: Nanos) -> Vec<(String, Duration)> {
        let open = |member: &Arc<Member>| Some((member.name(), member.pulse.as_ref()?.open_for(now)?));
        self.members().iter().filter_map(open).collect()
    }
}

impl Member {
    /// The thread's name: its kind, and its lane if it has one.
    pub fn name(&self) -> String {
        match self.queue {
            Some(queue) => format!("{}-{queue}", self.worker),
            None => self.worker.to_owned(),
        }
    }

    /// The calling thread is the one that was enlisted.
    pub fn begin(&self) {
        self.thread.store(nix::unistd::gettid().as_raw(), Ordering::Relaxed);
    }

    /// The kernel's number for it, once it has begun.
    pub fn thread(&self) -> Option<i32> {
        Some(self.thread.load(Ordering::Relaxed)).filter(|thread| *thread != 0)
    }
}
