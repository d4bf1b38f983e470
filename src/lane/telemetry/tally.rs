//! Plain numbers that a worker adds to, each with the counter it is published through.

use metrics::Counter;

use super::registry::{Labels, Registry};
use crate::drops::{DropReason, DropTally};

/// A count that is not published yet, and its counter.
pub struct Tally {
    count: u64,
    counter: Counter,
}

impl Tally {
    pub(super) fn register(registry: &Registry, name: &'static str, labels: Labels<'_>) -> Self {
        Tally { count: 0, counter: registry.counter(name, labels) }
    }

    /// Counts `n`.
    #[inline]
    pub fn add(&mut self, n: u64) {
        self.count += n;
    }

    /// Adds what was counted to the counter.
    #[inline]
    pub fn publish(&mut self) {
        if self.count != 0 {
            self.counter.increment(std::mem::take(&mut self.count));
        }
    }
}

/// Counts by the value of a label, as an index into the values it was registered with.
pub struct LabelledTally(Box<[Tally]>);

impl LabelledTally {
    /// One tally for each of `values` of the label `by`, besides the labels all have in common.
    pub(super) fn register<'a>(
        registry: &Registry,
        name: &'static str,
        common: Labels<'_>,
        by: &'static str,
        values: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let one = |value| Tally::register(registry, name, &[common, &[(by, value)]].concat());
        LabelledTally(values.into_iter().map(one).collect())
    }

    /// Counts `n` under the label value with this `index`.
    ///
    /// # Panics
    /// If the label has no such value.
    #[inline]
    pub fn add(&mut self, index: usize, n: u64) {
        self.0[index].add(n);
    }

    /// Adds what was counted to the counters.
    #[inline]
    pub fn publish(&mut self) {
        self.0.iter_mut().for_each(Tally::publish);
    }
}

/// Drops of one direction by reason, and their counters. The workers of a lane add to the same ones,
/// which costs nothing while nothing is dropped.
pub struct PublishedDrops {
    tally: DropTally,
    counters: Box<[Counter]>,
}

impl PublishedDrops {
    pub(super) fn register(registry: &Registry, direction: &'static str, common: Labels<'_>) -> Self {
        let counter = |reason: &DropReason| {
            let labels = [common, &[("direction", direction), ("reason", reason.label())]].concat();
            registry.counter("laneway_dropped_packets_total", &labels)
        };
        PublishedDrops {
            tally: DropTally::default(),
            counters: DropReason::ALL.iter().map(counter).collect(),
        }
    }

    /// Counts `packets` dropped for `reason`.
    #[inline]
    pub fn add(&mut self, reason: DropReason, packets: u64) {
        self.tally.add(reason, packets);
    }

    /// The counts themselves, for code that wants a [`DropTally`] to add to.
    pub fn tally(&mut self) -> &mut DropTally {
        &mut self.tally
    }

    /// Adds what was counted to the counters.
    #[inline]
    pub fn publish(&mut self) {
        self.tally.take(|reason, n| self.counters[reason as usize].increment(n));
    }
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
