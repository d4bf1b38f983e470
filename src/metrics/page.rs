//! Metrics collected at scrape time: values kept elsewhere, such as by the kernel or in a peer's
//! record.

use std::fmt::{Display, Write as _};

use super::families::{FAMILIES, MetricKind, position};

/// A source of values that no worker publishes.
pub trait Collector: Send + Sync {
    /// Adds the current samples to `page`. Called on the admin thread during a scrape; must not wait
    /// for a worker.
    fn collect(&self, page: &mut Page);
}

/// The collected samples of one scrape, by family.
#[derive(Debug)]
pub struct Page {
    /// The lines of each family, indexed as [`FAMILIES`].
    lines: Vec<String>,
}

impl Default for Page {
    fn default() -> Self {
        Page { lines: vec![String::new(); FAMILIES.len()] }
    }
}

impl Page {
    /// Adds a sample to the family called `name`. Label values may be any text.
    ///
    /// # Panics
    /// If there is no counter or gauge of that name.
    pub fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let lines = &mut self.lines[position(name)];
        lines.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            lines.push(if index == 0 { '{' } else { ',' });
            let _ = write!(lines, "{label}=\"");
            push_escaped(lines, text);
            lines.push('"');
        }
        let _ = writeln!(lines, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    /// Appends the collected samples in the Prometheus text format.
    pub(super) fn render(&self, out: &mut String) {
        for (family, lines) in FAMILIES.iter().zip(&self.lines).filter(|(_, lines)| !lines.is_empty()) {
            let kind = if family.kind == MetricKind::Counter { "counter" } else { "gauge" };
            let _ = write!(out, "# HELP {0} {1}\n# TYPE {0} {kind}\n{lines}\n", family.name, family.help);
        }
    }
}

/// Appends a label value, escaped for the Prometheus text format.
fn push_escaped(out: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::metrics::exposition::Exposition;

    #[test]
    fn samples_of_a_family_stand_together_under_one_help() {
        let mut page = Page::default();
        for peer in ["a", "b"] {
            page.sample("wireguard_sent_bytes_total", &[("public_key", peer)], 1);
            page.sample("wireguard_received_bytes_total", &[("public_key", peer)], 2);
        }
        page.sample("process_threads", &[], 3);
        let mut text = String::new();
        page.render(&mut text);
        let names: Vec<_> = text.lines().filter(|line| line.starts_with("# TYPE")).collect();
        assert_eq!(
            names,
            [
                "# TYPE wireguard_sent_bytes_total counter",
                "# TYPE wireguard_received_bytes_total counter",
                "# TYPE process_threads gauge"
            ]
        );
        assert!(text.contains("\nprocess_threads 3\n"), "{text}");
    }

    proptest! {
        #[test]
        fn any_text_can_be_a_label(text in "\\PC{0,20}|[\\\\\"\n{},=]{0,10}") {
            let mut page = Page::default();
            page.sample("laneway_peers", &[("a", &text), ("b", "x")], 1);
            let mut out = String::new();
            page.render(&mut out);
            let read = Exposition::parse(&out).unwrap();
            prop_assert_eq!(read.select("laneway_peers", &[("a", &text), ("b", "x")]).count(), 1, "{}", out);
        }
    }
}
