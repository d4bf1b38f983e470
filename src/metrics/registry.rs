//! The metrics of one router: actors register here at startup, and a scrape renders it.

use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use metrics::{Counter, Gauge, Key, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};

use super::families::{FAMILIES, MetricKind, family};
use super::histogram::{Bins, ExactHistogram, histogram, writer};
use super::page::{Collector, Page};
use super::samples::DropSamples;

/// Label names and values of one series.
pub(super) type LabelPairs<'a> = &'a [(&'static str, &'a str)];

/// The `metrics` crate's metadata for all our registrations.
const METADATA: Metadata<'static> = Metadata::new("laneway", Level::INFO, None);

/// The metrics of one router.
pub struct Registry {
    recorder: PrometheusRecorder,
    histograms: Mutex<Vec<Series>>,
    collectors: Mutex<Vec<Box<dyn Collector>>>,
    drop_samples: Arc<DropSamples>,
}

/// One series of a histogram family.
struct Series {
    name: &'static str,
    labels: String,
    bins: Arc<Bins>,
}

impl Registry {
    /// Creates a registry that describes all families and exposes the version.
    pub fn new() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        for family in FAMILIES {
            match family.kind {
                MetricKind::Counter => {
                    recorder.describe_counter(family.name.into(), None, family.help.into());
                }
                MetricKind::Gauge => recorder.describe_gauge(family.name.into(), None, family.help.into()),
                MetricKind::Histogram => {}
            }
        }
        let registry = Registry {
            recorder,
            histograms: Mutex::default(),
            collectors: Mutex::default(),
            drop_samples: Arc::default(),
        };
        registry.gauge("laneway_build_info", &[("version", env!("CARGO_PKG_VERSION"))]).set(1.0);
        registry
    }

    /// Returns the samples of dropped packets.
    pub fn drop_samples(&self) -> &Arc<DropSamples> {
        &self.drop_samples
    }

    /// Adds `collector`, which every scrape then calls.
    pub fn collect_from(&self, collector: impl Collector + 'static) {
        self.collectors.lock().unwrap_or_else(PoisonError::into_inner).push(Box::new(collector));
    }

    /// Renders all metrics in the Prometheus text format. Allocates; meant for the admin thread.
    pub fn render(&self) -> String {
        let mut out = self.recorder.handle().render();
        let histograms = self.histograms.lock().unwrap_or_else(PoisonError::into_inner);
        for family in FAMILIES {
            let mut series = histograms.iter().filter(|series| series.name == family.name).peekable();
            if series.peek().is_some() {
                let _ = write!(out, "# HELP {0} {1}\n# TYPE {0} histogram\n", family.name, family.help);
                series.for_each(|series| series.bins.render(series.name, &series.labels, &mut out));
                out.push('\n');
            }
        }
        let mut page = Page::default();
        for collector in self.collectors.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            collector.collect(&mut page);
        }
        self.drop_samples.collect(&mut page);
        page.render(&mut out);
        out
    }

    /// Registers a counter, initially zero. The same name and labels give another handle to the same
    /// series.
    pub(super) fn counter(&self, name: &'static str, labels: LabelPairs<'_>) -> Counter {
        self.recorder.register_counter(&key(family(name, MetricKind::Counter).name, labels), &METADATA)
    }

    /// Registers a gauge, initially zero.
    pub(super) fn gauge(&self, name: &'static str, labels: LabelPairs<'_>) -> Gauge {
        self.recorder.register_gauge(&key(family(name, MetricKind::Gauge).name, labels), &METADATA)
    }

    /// Registers a histogram. The same name and labels give another writer to the same series.
    pub(super) fn histogram(&self, name: &'static str, labels: LabelPairs<'_>) -> ExactHistogram {
        let name = family(name, MetricKind::Histogram).name;
        let labels: Vec<_> = labels.iter().map(|(key, value)| format!("{key}=\"{value}\"")).collect();
        let labels = labels.join(",");
        let mut histograms = self.histograms.lock().unwrap_or_else(PoisonError::into_inner);
        let known = histograms.iter().find(|series| series.name == name && series.labels == labels);
        if let Some(series) = known {
            return writer(&series.bins);
        }
        let (writer, bins) = histogram();
        histograms.push(Series { name, labels, bins });
        writer
    }
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

fn key(name: &'static str, labels: LabelPairs<'_>) -> Key {
    let labels: Vec<_> = labels.iter().map(|(key, value)| Label::new(*key, (*value).to_owned())).collect();
    Key::from_parts(name, labels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::InsideMetrics;

    #[test]
    fn two_routers_in_one_process_count_apart() {
        let (one, other) = (Registry::new(), Registry::new());
        let mut metrics = InsideMetrics::register(&one, 0);
        let _silent = InsideMetrics::register(&other, 0);
        metrics.wakeups.add(7);
        metrics.publish();
        let line = |n| format!("laneway_wakeups_total{{queue=\"0\",worker=\"inside\"}} {n}\n");
        assert!(one.render().contains(&line(7)), "{}", one.render());
        assert!(other.render().contains(&line(0)), "{}", other.render());
    }

    #[test]
    fn the_version_is_told() {
        let line = concat!("laneway_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"} 1\n");
        assert!(Registry::new().render().contains(line));
    }
}
