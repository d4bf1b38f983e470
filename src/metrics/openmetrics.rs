//! The OpenMetrics text format (version 1.0.0), converted from the Prometheus text format.
//!
//! Source: "OpenMetrics, a cloud-native, highly scalable metrics protocol", <https://prometheus.io/docs/specs/om/>.

/// The content type of the format.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Converts a scrape in the Prometheus text format that has no timestamps. The names of counter families lose their
/// `_total`, bounds of buckets are written as floats, blank lines go, and the end is marked.
pub fn convert(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for line in text.lines().filter(|line| !line.is_empty()) {
        match line.strip_prefix("# ") {
            Some(comment) => push_description(comment, &mut out),
            None => push_sample(line, &mut out),
        }
        out.push('\n');
    }
    out.push_str("# EOF\n");
    out
}

/// Appends `HELP name text` or `TYPE name type`. Only counters have names that end in `_total`.
fn push_description(comment: &str, out: &mut String) {
    let mut parts = comment.splitn(3, ' ');
    let (word, name, rest) = (parts.next(), parts.next(), parts.next());
    let name = name.unwrap_or_default();
    let name = name.strip_suffix("_total").unwrap_or(name);
    out.extend(["# ", word.unwrap_or_default(), " ", name, " "]);
    match rest.unwrap_or_default() {
        // Unlike the older format, this one has quotes escaped in a help text (section "Escaping").
        help if word == Some("HELP") => out.push_str(&help.replace('"', "\\\"")),
        kind => out.push_str(kind),
    }
}

/// Appends a sample. Bounds are canonical floats (section "Numbers").
fn push_sample(line: &str, out: &mut String) {
    const BOUND: &str = "le=\"";
    let bound = line.split_once(BOUND).filter(|(before, _)| before.contains("_bucket{"));
    let Some((before, (value, after))) =
        bound.and_then(|(before, rest)| Some((before, rest.split_once('"')?)))
    else {
        out.push_str(line);
        return;
    };
    let whole = value.bytes().all(|byte| byte.is_ascii_digit());
    out.extend([before, BOUND, value, if whole { ".0\"" } else { "\"" }, after]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_bounds_and_the_end_are_as_the_format_wants_them() {
        let text = "\
# HELP laneway_wakeups_total Times a \"worker\" woke
# TYPE laneway_wakeups_total counter
laneway_wakeups_total{queue=\"0\"} 7

# HELP laneway_drain_packets TUN reads
# TYPE laneway_drain_packets histogram
laneway_drain_packets_bucket{queue=\"0\",le=\"1\"} 1
laneway_drain_packets_bucket{queue=\"0\",le=\"+Inf\"} 2
laneway_drain_packets_sum{queue=\"0\"} 9

# TYPE laneway_peers gauge
laneway_peers{series=\"le=\\\"1\"} 3
";
        let expected = "\
# HELP laneway_wakeups Times a \\\"worker\\\" woke
# TYPE laneway_wakeups counter
laneway_wakeups_total{queue=\"0\"} 7
# HELP laneway_drain_packets TUN reads
# TYPE laneway_drain_packets histogram
laneway_drain_packets_bucket{queue=\"0\",le=\"1.0\"} 1
laneway_drain_packets_bucket{queue=\"0\",le=\"+Inf\"} 2
laneway_drain_packets_sum{queue=\"0\"} 9
# TYPE laneway_peers gauge
laneway_peers{series=\"le=\\\"1\"} 3
# EOF
";
        assert_eq!(convert(text), expected);
    }
}
