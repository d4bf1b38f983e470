//! Registry of a router's threads: their names, kernel thread ids and heartbeats.

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::lane::pulse::Pulse;
use crate::units::Nanos;

/// The threads of one router.
#[derive(Debug, Default)]
pub struct Roll(Mutex<Vec<Arc<Member>>>);

/// One registered thread.
#[derive(Debug)]
pub struct Member {
    /// The lane of a worker; `None` for other threads.
    pub queue: Option<usize>,
    /// The kind of thread, which is the value of the `worker` label in metrics.
    pub worker: &'static str,
    /// The thread's heartbeat; `None` for the admin thread, which checks the others.
    pulse: Option<Arc<Pulse>>,
    /// The kernel's thread id; 0 before the thread has begun.
    thread: AtomicI32,
}

impl Roll {
    /// Registers a thread that is about to start and then calls [`Member::begin`].
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

    /// Returns all registered threads.
    pub fn members(&self) -> Vec<Arc<Member>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Requests a heartbeat from every thread.
    pub fn call(&self, now: Nanos) {
        for member in self.members() {
            if let Some(pulse) = &member.pulse {
                pulse.ask(now);
            }
        }
    }

    /// Returns the names of the threads that have not answered, and how long each heartbeat has been
    /// outstanding.
    pub fn silent(&self, now: Nanos) -> Vec<(String, Duration)> {
        let open = |member: &Arc<Member>| Some((member.name(), member.pulse.as_ref()?.open_for(now)?));
        self.members().iter().filter_map(open).collect()
    }
}

impl Member {
    /// Returns the thread's name: its kind, and the lane's number if it belongs to one (`inside-0`).
    pub fn name(&self) -> String {
        match self.queue {
            Some(queue) => format!("{}-{queue}", self.worker),
            None => self.worker.to_owned(),
        }
    }

    /// Records the calling thread's kernel id. Called by the registered thread itself.
    pub fn begin(&self) {
        self.thread.store(nix::unistd::gettid().as_raw(), Ordering::Relaxed);
    }

    /// Returns the kernel's thread id, once the thread has begun.
    pub fn thread(&self) -> Option<i32> {
        Some(self.thread.load(Ordering::Relaxed)).filter(|thread| *thread != 0)
    }
}
