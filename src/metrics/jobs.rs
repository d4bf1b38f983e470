//! Metrics of shared jobs, for workers of both kinds.

use super::registry::{LabelPairs, Registry};
use super::tally::Tally;

/// Counts of one worker's jobs.
pub struct JobTally {
    /// Jobs of this worker that it did itself.
    pub by_owner: Tally,
    /// Jobs of this worker that other workers did.
    pub by_helper: Tally,
    /// Calls that this worker followed.
    pub calls: Tally,
}

impl JobTally {
    /// Registers the counts of the worker with the labels `worker`.
    pub(super) fn register(registry: &Registry, worker: LabelPairs<'_>) -> Self {
        let by = |by| Tally::register(registry, "laneway_jobs_total", &[worker, &[("by", by)]].concat());
        JobTally {
            by_owner: by("owner"),
            by_helper: by("helper"),
            calls: Tally::register(registry, "laneway_helper_calls_total", worker),
        }
    }

    /// Adds the counts to the counters and resets them.
    pub(super) fn publish(&mut self) {
        self.by_owner.publish();
        self.by_helper.publish();
        self.calls.publish();
    }
}
