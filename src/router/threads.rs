//! Registry of a router's threads: their names, kernel thread ids and heartbeats, and the batches they hold.

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use procfs::process::Process;

use crate::lane::ring::custody::Custody;
use crate::lane::wait::heartbeat::Heartbeat;
use crate::metrics::{Collector, Page};
use crate::units::Nanos;

/// The threads of one router.
#[derive(Debug, Default)]
pub struct ThreadRegistry {
    entries: Mutex<Vec<Arc<ThreadEntry>>>,
    custody: Custody,
}

/// One registered thread.
#[derive(Debug)]
pub struct ThreadEntry {
    /// The lane of a worker; `None` for other threads.
    pub queue: Option<usize>,
    /// The kind of thread, which is the value of the `worker` label in metrics.
    pub worker: &'static str,
    /// The thread's heartbeat; `None` for the admin thread, which checks the others.
    heartbeat: Option<Arc<Heartbeat>>,
    /// The kernel's thread id; 0 before the thread has begun.
    thread: AtomicI32,
}

impl ThreadRegistry {
    /// Creates a registry without threads. `custody` are the batches that the workers hold.
    pub fn new(custody: Custody) -> Self {
        Self { entries: Mutex::default(), custody }
    }

    /// Returns the record of the batches that the workers hold.
    pub fn custody(&self) -> &Custody {
        &self.custody
    }

    /// Registers a thread that is about to start and then calls [`ThreadEntry::begin`].
    pub fn register(
        &self,
        queue: Option<usize>,
        worker: &'static str,
        heartbeat: Option<Arc<Heartbeat>>,
    ) -> Arc<ThreadEntry> {
        let entry = Arc::new(ThreadEntry { queue, worker, heartbeat, thread: AtomicI32::new(0) });
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&entry));
        entry
    }

    /// Returns all registered threads.
    pub fn entries(&self) -> Vec<Arc<ThreadEntry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Requests a heartbeat from every thread.
    pub fn call(&self, now: Nanos) {
        for entry in self.entries() {
            if let Some(heartbeat) = &entry.heartbeat {
                heartbeat.ask(now);
            }
        }
    }

    /// Returns the names of the threads that have not answered, and how long each heartbeat has been
    /// outstanding.
    pub fn silent(&self, now: Nanos) -> Vec<(String, Duration)> {
        let open = |entry: &Arc<ThreadEntry>| Some((entry.name(), entry.heartbeat.as_ref()?.open_for(now)?));
        self.entries().iter().filter_map(open).collect()
    }
}

impl ThreadEntry {
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

/// Collector for the threads in a [`ThreadRegistry`].
#[derive(Debug)]
pub struct ThreadMetrics(pub Arc<ThreadRegistry>);

impl Collector for ThreadMetrics {
    fn collect(&self, page: &mut Page) {
        let Ok(process) = Process::myself() else { return };
        let ticks = procfs::ticks_per_second() as f64;
        for entry in self.0.entries() {
            // A thread that has not begun or has ended has no statistics.
            let Some(thread) = entry.thread() else { continue };
            let Ok(stat) = process.task_from_tid(thread).and_then(|task| task.stat()) else { continue };
            let queue = entry.queue.map(|queue| queue.to_string());
            let of_lane = [("queue", queue.as_deref().unwrap_or_default()), ("worker", entry.worker)];
            let labels = if queue.is_some() { &of_lane[..] } else { &of_lane[1..] };
            let seconds = (stat.utime + stat.stime) as f64 / ticks;
            page.sample("laneway_worker_cpu_seconds_total", labels, seconds);
            if let Some(cpu) = stat.processor {
                page.sample("laneway_worker_cpu", labels, cpu);
            }
        }
    }
}
