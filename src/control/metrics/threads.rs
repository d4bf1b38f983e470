//! CPU time that each thread of the router has used, in seconds, and the CPU it last ran on (proc(5),
//! `stat`).

use std::sync::Arc;

use procfs::process::Process;

use crate::control::roll::Roll;
use crate::lane::telemetry::{Collector, Page};

/// Collector for the threads in a [`Roll`].
#[derive(Debug)]
pub struct ThreadMetrics(pub Arc<Roll>);

impl Collector for ThreadMetrics {
    fn collect(&self, page: &mut Page) {
        let Ok(process) = Process::myself() else { return };
        let ticks = procfs::ticks_per_second() as f64;
        for member in self.0.members() {
            // A thread that has not begun or has ended has no statistics.
            let Some(thread) = member.thread() else { continue };
            let Ok(stat) = process.task_from_tid(thread).and_then(|task| task.stat()) else { continue };
            let queue = member.queue.map(|queue| queue.to_string());
            let of_lane = [("queue", queue.as_deref().unwrap_or_default()), ("worker", member.worker)];
            let labels = if queue.is_some() { &of_lane[..] } else { &of_lane[1..] };
            let seconds = (stat.utime + stat.stime) as f64 / ticks;
            page.sample("laneway_worker_cpu_seconds_total", labels, seconds);
            if let Some(cpu) = stat.processor {
                page.sample("laneway_worker_cpu", labels, cpu);
            }
        }
    }
}
