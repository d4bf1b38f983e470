//! A minimal parser for the Prometheus text format (version 0.0.4). `laneway demo` and `laneway show` print
//! figures from the router's own metrics, so their output always agrees with a dashboard.
//!
//! Source: the "Exposition formats" page of the Prometheus documentation. Timestamps are ignored; HELP and TYPE
//! lines are treated as comments.

use std::collections::BTreeSet;

use thiserror::Error;

/// Name and value of a label that a sample must carry to be selected.
pub type Label<'a> = (&'a str, &'a str);

/// Label names and values.
pub type Labels = Vec<(String, String)>;

/// One scrape: the samples of all families, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exposition {
    samples: Vec<Sample>,
}

/// One sample line of a scrape.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The name, including the `_sum`, `_count` or `_bucket` suffix of a histogram.
    pub name: String,
    /// Label names and values, in order.
    pub labels: Labels,
    /// The value, in the family's base unit.
    pub value: f64,
}

/// A line that does not follow the format.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line} of the metrics is not in the Prometheus text format: {what}: {text}")]
pub struct ExpositionError {
    line: usize,
    what: &'static str,
    text: String,
}

impl Exposition {
    /// Parses a whole scrape.
    ///
    /// # Errors
    /// Returns the first line that is not blank, a comment or a sample.
    pub fn parse(text: &str) -> Result<Exposition, ExpositionError> {
        let mut samples = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let sample = parse_sample(line).map_err(|what| ExpositionError {
                line: index + 1,
                what,
                text: line.to_owned(),
            })?;
            samples.push(sample);
        }
        Ok(Exposition { samples })
    }

    /// Returns all samples, in order.
    pub fn samples(&self) -> impl Iterator<Item = &Sample> {
        self.samples.iter()
    }

    /// Returns the samples named `name` that carry all of `labels`.
    pub fn select<'a>(&'a self, name: &'a str, labels: &'a [Label<'a>]) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| {
            sample.name == name && labels.iter().all(|(key, value)| sample.label(key) == Some(value))
        })
    }

    /// Returns the sum of the samples [`Exposition::select`] finds, or zero if there are none, as for a counter
    /// that was never incremented.
    pub fn sum(&self, name: &str, labels: &[Label<'_>]) -> f64 {
        // The sum of an empty f64 iterator is -0.0, which would print as "-0".
        self.select(name, labels).map(|sample| sample.value).sum::<f64>() + 0.0
    }

    /// Returns whether any sample is named `name`.
    pub fn has(&self, name: &str) -> bool {
        self.samples.iter().any(|sample| sample.name == name)
    }

    /// Returns the distinct values of label `key` over all samples, sorted.
    pub fn values_of<'a>(&'a self, key: &'a str) -> BTreeSet<&'a str> {
        self.samples.iter().filter_map(|sample| sample.label(key)).collect()
    }
}

impl Sample {
    /// Returns the value of label `key`.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

/// Parses `name value` or `name{labels} value`, optionally followed by a timestamp.
fn parse_sample(line: &str) -> Result<Sample, &'static str> {
    let end = line.find(|c: char| !is_name(c)).ok_or("no value")?;
    let (name, rest) = line.split_at(end);
    if name.is_empty() {
        return Err("no name");
    }
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => parse_labels(rest)?,
        None => (Vec::new(), rest),
    };
    let rest = rest.strip_prefix([' ', '\t']).ok_or("no space before the value")?;
    let value = rest.split_whitespace().next().ok_or("no value")?;
    // Rust's float parser accepts the format's spellings "+Inf" and "NaN".
    let value = value.parse().map_err(|_| "the value is not a number")?;
    Ok(Sample { name: name.to_owned(), labels, value })
}

/// Parses labels up to the closing brace; returns them and the rest of the line.
fn parse_labels(mut rest: &str) -> Result<(Labels, &str), &'static str> {
    let mut labels = Labels::new();
    loop {
        rest = rest.trim_start_matches([' ', ',']);
        if let Some(rest) = rest.strip_prefix('}') {
            return Ok((labels, rest));
        }
        let (key, behind) = rest.split_once("=\"").ok_or("a label without a quoted value")?;
        if key.is_empty() || !key.chars().all(is_name) {
            return Err("a label without a name");
        }
        let (value, behind) = parse_quoted(behind)?;
        labels.push((key.to_owned(), value));
        rest = behind;
    }
}

/// Parses a value up to its closing quote; returns it and the rest of the line. The escapes are `\\`, `\"` and
/// `\n`.
fn parse_quoted(text: &str) -> Result<(String, &str), &'static str> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => match chars.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, escaped @ ('\\' | '"'))) => value.push(escaped),
                _ => return Err("an unknown escape in a label"),
            },
            _ => value.push(c),
        }
    }
    Err("an unterminated label value")
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

// The values are whole numbers, which floats hold exactly.
#[cfg(test)]
#[allow(clippy::float_cmp)]
mod tests {
    use super::*;
    use metrics::Recorder as _;
    use proptest::prelude::*;

    const SCRAPE: &str = "\
# HELP laneway_drain_packets TUN reads per wake.
# TYPE laneway_drain_packets histogram
laneway_drain_packets_bucket{queue=\"0\",le=\"1\"} 10
laneway_drain_packets_bucket{queue=\"0\",le=\"+Inf\"} 12
laneway_drain_packets_sum{queue=\"0\"} 90
laneway_drain_packets_count{queue=\"0\"} 12

laneway_drain_packets_sum{queue=\"1\"} 10
up 1 1700000000000
odd{text=\"a \\\"b\\\" \\\\ c}\\n\",} +Inf
";

    #[test]
    fn sums_run_over_the_labels_that_are_not_named() {
        let scrape = Exposition::parse(SCRAPE).unwrap();
        assert_eq!(scrape.sum("laneway_drain_packets_sum", &[]), 100.0);
        assert_eq!(scrape.sum("laneway_drain_packets_sum", &[("queue", "0")]), 90.0);
        assert_eq!(scrape.sum("laneway_drain_packets_bucket", &[("queue", "0"), ("le", "1")]), 10.0);
        assert_eq!(scrape.sum("laneway_drain_packets_sum", &[("queue", "7")]), 0.0);
        assert_eq!(scrape.values_of("queue"), BTreeSet::from(["0", "1"]));
        assert!(scrape.has("up") && !scrape.has("down"));
    }

    #[test]
    fn escapes_braces_and_infinities_are_read_as_they_are_meant() {
        let scrape = Exposition::parse(SCRAPE).unwrap();
        let odd = scrape.select("odd", &[]).next().unwrap();
        assert_eq!(odd.label("text"), Some("a \"b\" \\ c}\n"));
        assert_eq!(odd.value, f64::INFINITY);
        assert_eq!(scrape.sum("up", &[]), 1.0);
    }

    #[test]
    fn a_bad_line_is_named() {
        for bad in ["name", "{a=\"1\"} 2", "x{a=1} 2", "x{a=\"1} 2", "x{a=\"\\q\"} 2", "x{a=\"1\"} y"] {
            let error = Exposition::parse(&format!("up 1\n{bad}\n")).unwrap_err();
            assert_eq!(error.line, 2, "{bad}");
            assert!(error.to_string().contains(bad));
        }
    }

    /// Uses the router's own exporter as the reference.
    #[test]
    fn what_the_exporter_renders_is_read_back() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new()
            .set_buckets(&[1.0, 2.0])
            .unwrap()
            .build_recorder();
        let origin = metrics::Metadata::new(module_path!(), metrics::Level::INFO, None);
        let labels = vec![metrics::Label::new("reason", "odd \"one\"\\")];
        recorder.register_counter(&metrics::Key::from_parts("drops_total", labels), &origin).increment(7);
        let histogram = recorder.register_histogram(&metrics::Key::from_name("runs"), &origin);
        histogram.record(1.0);
        histogram.record(40.0);

        let scrape = Exposition::parse(&recorder.handle().render()).unwrap();
        assert_eq!(scrape.sum("drops_total", &[("reason", "odd \"one\"\\")]), 7.0);
        assert_eq!(scrape.sum("runs_sum", &[]), 41.0);
        assert_eq!(scrape.sum("runs_count", &[]), 2.0);
        assert_eq!(scrape.sum("runs_bucket", &[("le", "1")]), 1.0);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[a-z{}=\"\\\\, 0-9\\n#é]{0,80}") {
            let _ = Exposition::parse(&text);
        }
    }
}
