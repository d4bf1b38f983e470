//! Unpublished counts of a worker, each with the counter it is published to.

use std::sync::Arc;

use metrics::Counter;

use super::registry::{LabelPairs, Registry};
use super::samples::{DropDirection, DropSample, DropSamples, Dropped};
use crate::drops::{DropReason, DropTally};

/// A count not yet published, and its counter.
pub struct Tally {
    count: u64,
    counter: Counter,
}

impl Tally {
    pub(super) fn register(registry: &Registry, name: &'static str, labels: LabelPairs<'_>) -> Self {
        Tally { count: 0, counter: registry.counter(name, labels) }
    }

    /// Adds `n` to the count.
    #[inline]
    pub fn add(&mut self, n: u64) {
        self.count += n;
    }

    /// Adds the count to the counter and resets it.
    #[inline]
    pub fn publish(&mut self) {
        if self.count != 0 {
            self.counter.increment(std::mem::take(&mut self.count));
        }
    }
}

/// Counts by label value, indexed by the values it was registered with.
pub struct LabelledTally {
    tallies: Box<[Tally]>,
    /// Whether a count is above zero.
    any: bool,
}

impl LabelledTally {
    /// Registers one tally for each of `values` of the label `by`. All have the `common` labels too.
    pub(super) fn register<'a>(
        registry: &Registry,
        name: &'static str,
        common: LabelPairs<'_>,
        by: &'static str,
        values: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let one = |value| Tally::register(registry, name, &[common, &[(by, value)]].concat());
        LabelledTally { tallies: values.into_iter().map(one).collect(), any: false }
    }

    /// Adds `n` to the count of the label value at `index`.
    ///
    /// # Panics
    /// If `index` is out of bounds.
    #[inline]
    pub fn add(&mut self, index: usize, n: u64) {
        self.tallies[index].add(n);
        self.any |= n != 0;
    }

    /// Adds the counts to the counters and resets them.
    #[inline]
    pub fn publish(&mut self) {
        if std::mem::take(&mut self.any) {
            self.tallies.iter_mut().for_each(Tally::publish);
        }
    }
}

/// Drops in one direction by reason, and their counters. A lane's two workers share the counters, at no
/// cost while nothing is dropped.
pub struct PublishedDrops {
    tally: DropTally,
    counters: Box<[Counter]>,
    direction: DropDirection,
    samples: Arc<DropSamples>,
}

impl PublishedDrops {
    pub(super) fn register(registry: &Registry, direction: DropDirection, common: LabelPairs<'_>) -> Self {
        let counter = |reason: &DropReason| {
            let labels = [common, &[("direction", direction.label()), ("reason", reason.label())]].concat();
            registry.counter("laneway_dropped_packets_total", &labels)
        };
        PublishedDrops {
            tally: DropTally::default(),
            counters: DropReason::ALL.iter().map(counter).collect(),
            direction,
            samples: Arc::clone(registry.drop_samples()),
        }
    }

    /// Adds `packets` dropped for `reason`.
    #[inline]
    pub fn add(&mut self, reason: DropReason, packets: u64) {
        self.tally.add(reason, packets);
    }

    /// Adds `packets` dropped together for `reason`, and a sample if one is wanted: `describe` returns the first of them.
    #[inline]
    pub fn add_described(&mut self, reason: DropReason, packets: u64, describe: impl FnOnce() -> Dropped) {
        self.add(reason, packets);
        if packets > 0 && self.samples.wanted(reason) {
            let direction = self.direction;
            self.samples.push(DropSample { direction, reason, packets, what: describe() });
        }
    }

    /// Returns whether a sample of a packet dropped for `reason` is wanted.
    pub fn wants(&self, reason: DropReason) -> bool {
        self.samples.wanted(reason)
    }

    /// The unpublished counts, for code that adds to a [`DropTally`].
    pub fn tally(&mut self) -> &mut DropTally {
        &mut self.tally
    }

    /// Adds the counts to the counters and resets them.
    #[inline]
    pub fn publish(&mut self) {
        self.tally.take(|reason, n| self.counters[reason as usize].increment(n));
    }
}

/// Returns the counter of packets that lane `queue` lost in a panic. `direction` is `outbound` or `inbound`.
pub fn lost_in_panics(registry: &Registry, queue: usize, direction: &'static str) -> Counter {
    let queue = queue.to_string();
    let reason = DropReason::WorkerRestart.label();
    let labels = [("queue", queue.as_str()), ("direction", direction), ("reason", reason)];
    registry.counter("laneway_dropped_packets_total", &labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publishing_twice_counts_once() {
        let registry = Registry::new();
        let mut tally = Tally::register(&registry, "laneway_wakeups_total", &[]);
        tally.add(2);
        tally.publish();
        tally.publish();
        assert!(registry.render().contains("laneway_wakeups_total 2\n"));
    }

    #[test]
    fn each_label_value_is_counted_under_its_own_name() {
        let registry = Registry::new();
        let name = "laneway_udp_send_errors_total";
        let mut tally =
            LabelledTally::register(&registry, name, &[("queue", "3")], "errno", ["EIO", "EPERM", "other"]);
        tally.add(1, 1);
        tally.add(2, 4);
        tally.publish();
        let text = registry.render();
        assert!(text.contains(&format!("{name}{{queue=\"3\",errno=\"EPERM\"}} 1\n")), "{text}");
        assert!(text.contains(&format!("{name}{{queue=\"3\",errno=\"other\"}} 4\n")), "{text}");
        assert!(text.contains(&format!("{name}{{queue=\"3\",errno=\"EIO\"}} 0\n")), "{text}");
    }
}
