//! Metrics of take-overs.

use std::fmt;
use std::time::Duration;

use metrics::{Counter, Gauge};

use super::registry::Registry;

/// Counts the take-overs that a process took part in.
#[derive(Clone)]
pub struct TakeOverMetrics {
    /// Take-overs by this process in which the sessions went on.
    pub continued: Counter,
    /// Take-overs by this process of the descriptors alone.
    pub fresh: Counter,
    /// Take-overs of this process that failed.
    pub failed: Counter,
    gap: Gauge,
}

impl TakeOverMetrics {
    /// Registers the metrics.
    pub fn register(registry: &Registry) -> Self {
        let result = |result| registry.counter("laneway_take_overs_total", &[("result", result)]);
        TakeOverMetrics {
            continued: result("continued"),
            fresh: result("fresh"),
            failed: result("failed"),
            gap: registry.gauge("laneway_take_over_gap_seconds", &[]),
        }
    }

    /// Records how long packets waited in the take-over by this process.
    pub fn set_gap(&self, gap: Duration) {
        self.gap.set(gap.as_secs_f64());
    }
}

impl fmt::Debug for TakeOverMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TakeOverMetrics").finish_non_exhaustive()
    }
}
