//! The standard process metrics of Prometheus client libraries, read from proc(5).

use std::sync::{Arc, Weak};

use procfs::process::{LimitValue, Process};
use procfs::{ProcResult, WithCurrentSystemInfo as _};

use crate::metrics::{Collector, Page};
use crate::underlay::DropWatch;

/// Collector for this process, from `/proc/self`. Without `/proc` these metrics are absent.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessMetrics;

impl Collector for ProcessMetrics {
    fn collect(&self, page: &mut Page) {
        if let Err(error) = collect(page) {
            tracing::debug!("cannot collect process metrics: {error}");
        }
    }
}

fn collect(page: &mut Page) -> ProcResult<()> {
    let process = Process::myself()?;
    let stat = process.stat()?;
    let ticks = procfs::ticks_per_second() as f64;
    page.sample("process_cpu_seconds_total", &[], (stat.utime + stat.stime) as f64 / ticks);
    page.sample("process_resident_memory_bytes", &[], stat.rss_bytes().get());
    page.sample("process_virtual_memory_bytes", &[], stat.vsize);
    page.sample("process_threads", &[], stat.num_threads);
    // Unreadable if the process runs as an unprivileged user with file capabilities.
    if let Ok(descriptors) = process.fd_count() {
        page.sample("process_open_fds", &[], descriptors);
    }
    if let LimitValue::Value(limit) = process.limits()?.max_open_files.soft_limit {
        page.sample("process_max_fds", &[], limit);
    }
    let boot = procfs::boot_time_secs()? as f64;
    page.sample("process_start_time_seconds", &[], boot + stat.starttime as f64 / ticks);
    Ok(())
}

/// Collector for the socket drops of every lane. It does not keep sockets open after the workers end.
#[derive(Debug)]
pub struct SocketMetrics(Vec<Weak<DropWatch>>);

impl SocketMetrics {
    /// Creates a collector for these lanes, in lane order.
    pub fn new<'a>(lanes: impl IntoIterator<Item = &'a Arc<DropWatch>>) -> Self {
        SocketMetrics(lanes.into_iter().map(Arc::downgrade).collect())
    }
}

impl Collector for SocketMetrics {
    fn collect(&self, page: &mut Page) {
        for (queue, watch) in self.0.iter().enumerate() {
            if let Some(watch) = watch.upgrade() {
                let queue = queue.to_string();
                page.sample("laneway_udp_socket_drops_total", &[("queue", &queue)], watch.total());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Registry;
    use crate::metrics::exposition::Exposition;

    #[test]
    fn the_process_is_as_its_own_system_calls_see_it() {
        let registry = Registry::new();
        registry.collect_from(ProcessMetrics);
        let scrape = Exposition::parse(&registry.render()).unwrap();
        let (limit, _) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
        assert!((scrape.sum("process_max_fds", &[]) - limit as f64).abs() < 0.5);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        let age = now - scrape.sum("process_start_time_seconds", &[]);
        assert!((-2.0..86_400.0).contains(&age), "started {age} s ago");
        assert!(scrape.sum("process_resident_memory_bytes", &[]) > 1e6);
        assert!(scrape.sum("process_open_fds", &[]) >= 3.0);
        assert!(scrape.sum("process_threads", &[]) >= 1.0);
    }
}
