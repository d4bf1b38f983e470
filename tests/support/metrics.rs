//! The metrics of a router, read back from the text it serves.

use laneway::router::start::Router;

/// The one parser of metrics.
pub use laneway::metrics::exposition::Exposition;

/// Parses a scrape.
///
/// # Panics
/// If the text is not in the Prometheus text format.
pub fn parse(text: &str) -> Exposition {
    Exposition::parse(text).unwrap_or_else(|error| panic!("{error}"))
}

/// Scrapes a router.
///
/// # Panics
/// If its metrics are not in the Prometheus text format.
pub fn of(router: &Router) -> Exposition {
    parse(&router.metrics_text())
}

/// Returns the sum over the series of a counter that have all of `labels`.
///
/// # Panics
/// If there is no such series.
#[allow(clippy::cast_sign_loss)] // Counters are not negative.
pub fn total(router: &Router, name: &str, labels: &[(&str, &str)]) -> u64 {
    let scrape = of(router);
    assert!(scrape.select(name, labels).next().is_some(), "no series {name} {labels:?}: {scrape:?}");
    scrape.sum(name, labels) as u64
}
