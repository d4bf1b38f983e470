//! Exact histograms of small values, such as packets per drain and datagrams per run.
//!
//! The exporter's histograms allocate for each sample and keep samples until the next scrape. Our
//! values are at most 128, so each value has its own bin instead: a sample costs one atomic addition
//! and no allocation, and the scrape sums the bins into buckets.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The largest value with its own bin. Larger values are counted as this one. The kernel groups at most
/// 128 datagrams (`UDP_MAX_SEGMENTS`), and a drain reads at most as many packets.
pub const LARGEST: usize = 128;

/// Upper bounds of the exposed buckets.
const BUCKETS: [usize; 8] = [1, 2, 4, 8, 16, 32, 64, 128];

const _: () = assert!(BUCKETS[BUCKETS.len() - 1] == LARGEST);

/// The writer's handle of a histogram.
#[derive(Debug)]
pub struct ExactHistogram(Arc<Bins>);

impl ExactHistogram {
    /// Records one sample.
    #[inline]
    pub fn record(&mut self, value: usize) {
        self.record_many(value, 1);
    }

    /// Records `times` samples of the same `value`.
    #[inline]
    pub fn record_many(&mut self, value: usize, times: u64) {
        self.0.0[value.min(LARGEST)].fetch_add(times, Ordering::Relaxed);
    }
}

/// The shared state: one bin for each value from 0 to [`LARGEST`].
#[derive(Debug)]
pub(super) struct Bins([AtomicU64; LARGEST + 1]);

/// Creates an empty histogram. Returns its writer and its bins.
pub(super) fn histogram() -> (ExactHistogram, Arc<Bins>) {
    let bins = Arc::new(Bins([const { AtomicU64::new(0) }; LARGEST + 1]));
    (writer(&bins), bins)
}

/// Returns another writer to `bins`.
pub(super) fn writer(bins: &Arc<Bins>) -> ExactHistogram {
    ExactHistogram(Arc::clone(bins))
}

impl Bins {
    /// Appends the histogram's lines in the Prometheus text format. `labels` is the text between the
    /// braces, such as `queue="0"`.
    pub(super) fn render(&self, name: &str, labels: &str, out: &mut String) {
        let comma = if labels.is_empty() { "" } else { "," };
        let (mut count, mut sum, mut bucket) = (0, 0, 0);
        for (value, bin) in self.0.iter().enumerate() {
            let times = bin.load(Ordering::Relaxed);
            count += times;
            sum += times * value as u64;
            if value == BUCKETS[bucket] {
                let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{value}\"}} {count}");
                bucket += 1;
            }
        }
        let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}");
        let _ = writeln!(out, "{name}_sum{{{labels}}} {sum}");
        let _ = writeln!(out, "{name}_count{{{labels}}} {count}");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Renders by Prometheus's definition: a bucket counts all samples up to its bound.
    fn naive(samples: &[usize]) -> String {
        let mut out = String::new();
        let sum: usize = samples.iter().map(|s| s.min(&LARGEST)).sum();
        for bound in BUCKETS {
            let below = samples.iter().filter(|s| **s.min(&&LARGEST) <= bound).count();
            let _ = writeln!(out, "x_bucket{{queue=\"0\",le=\"{bound}\"}} {below}");
        }
        let _ = writeln!(out, "x_bucket{{queue=\"0\",le=\"+Inf\"}} {}", samples.len());
        let _ = writeln!(out, "x_sum{{queue=\"0\"}} {sum}\nx_count{{queue=\"0\"}} {}", samples.len());
        out
    }

    proptest! {
        #[test]
        fn buckets_hold_every_sample_up_to_their_bound(samples in proptest::collection::vec(0usize..200, 0..300)) {
            let (mut histogram, bins) = histogram();
            for sample in &samples {
                histogram.record(*sample);
            }
            let mut out = String::new();
            bins.render("x", "queue=\"0\"", &mut out);
            prop_assert_eq!(out, naive(&samples));
        }
    }
}
