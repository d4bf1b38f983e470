//! The demo's table: a [`Report`] in plain text, one line per queue.

use std::collections::BTreeMap;
use std::fmt;

use super::report::{QueueReport, Report};

/// Two header lines and the width of each column; the first and the last column are left-aligned.
const COLUMNS: [(&str, &str, usize); 8] = [
    ("router", "", 8),
    ("queue", "", 5),
    ("Gbit/s", "", 8),
    ("packets", "per drain", 10),
    ("segments", "per read", 9),
    ("segments", "per write", 10),
    ("datagrams", "per send", 10),
    ("drops", "", 5),
];

/// Formats a report as a table.
#[derive(Clone, Copy, Debug)]
pub struct ReportTable<'a>(pub &'a Report);

impl fmt::Display for ReportTable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.0;
        writeln!(
            f,
            "{:.2} Gbit/s over {} in {:.1} s. All {} bytes verified.\n",
            report.gbit_per_second,
            plural(report.streams.into(), "TCP stream"),
            report.seconds,
            grouped(report.bytes_verified)
        )?;

        write_line(f, &COLUMNS.map(|(head, _, _)| head.to_owned()))?;
        write_line(f, &COLUMNS.map(|(_, head, _)| head.to_owned()))?;
        for router in &report.routers {
            for (index, queue) in router.queues.iter().enumerate() {
                let name = if index == 0 { router.name.as_str() } else { "" };
                write_line(f, &cells(name, queue))?;
            }
        }
        for router in report.routers.iter().filter(|router| !router.drops.is_empty()) {
            writeln!(f, "\n{}, outside the queues: {}", router.name, list(&router.drops))?;
        }
        writeln!(f, "\nRead and write: superpackets at the TUN device. Send: UDP GSO sends. -: none.")
    }
}

fn cells(router: &str, queue: &QueueReport) -> [String; 8] {
    [
        router.to_owned(),
        queue.queue.to_string(),
        format!("{:.2}", queue.gbit_per_second),
        figure(queue.packets_per_drain),
        figure(queue.segments_per_superpacket_read),
        figure(queue.segments_per_superpacket_written),
        figure(queue.datagrams_per_send),
        list(&queue.drops),
    ]
}

/// Writes one line; the first and the last column are left-aligned.
fn write_line(f: &mut fmt::Formatter<'_>, cells: &[String; 8]) -> fmt::Result {
    let padded = cells.iter().zip(COLUMNS).enumerate().map(|(column, (cell, (_, _, width)))| match column {
        0 => format!("{cell:<width$}"),
        7 => format!("   {cell}"),
        _ => format!("  {cell:>width$}"),
    });
    let line: String = padded.collect();
    writeln!(f, "{}", line.trim_end())
}

/// Formats an average with one decimal, or as a dash if it has no samples.
fn figure(average: f64) -> String {
    if average > 0.0 { format!("{average:.1}") } else { "-".to_owned() }
}

/// Formats drops as `none` or, most frequent first, `replay 3, no_route 1`.
fn list(drops: &BTreeMap<String, u64>) -> String {
    let mut drops: Vec<_> = drops.iter().collect();
    drops.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
    let drops: Vec<String> =
        drops.iter().map(|(reason, count)| format!("{reason} {}", grouped(**count))).collect();
    if drops.is_empty() { "none".to_owned() } else { drops.join(", ") }
}

fn plural(count: u64, word: &str) -> String {
    if count == 1 { format!("1 {word}") } else { format!("{count} {word}s") }
}

/// Formats a number with its digits in groups of three: 12,345,678.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::report::RouterReport;

    #[test]
    fn the_table_has_a_line_per_queue_under_aligned_heads() {
        let report = Report {
            gbit_per_second: 3.214,
            bytes_verified: 2_008_743_936,
            streams: 4,
            seconds: 5.02,
            routers: vec![
                router("sender", vec![queue(0, [3.31, 12.43, 44.81, 0.0, 38.2]), queue(1, [0.0; 5])]),
                router("receiver", vec![queue(0, [3.29, 1.9, 0.0, 41.0, 2.0])]),
            ],
        };
        assert_eq!(
            ReportTable(&report).to_string(),
            "\
3.21 Gbit/s over 4 TCP streams in 5.0 s. All 2,008,743,936 bytes verified.

router    queue    Gbit/s     packets   segments    segments   datagrams   drops
                            per drain   per read   per write    per send
sender        0      3.31        12.4       44.8           -        38.2   none
              1      0.00           -          -           -           -   none
receiver      0      3.29         1.9          -        41.0         2.0   none

Read and write: superpackets at the TUN device. Send: UDP GSO sends. -: none.
"
        );
    }

    #[test]
    fn drops_are_listed_with_the_most_frequent_first() {
        let drops = BTreeMap::from([("no_route".to_owned(), 2), ("replay".to_owned(), 1234)]);
        assert_eq!(list(&drops), "replay 1,234, no_route 2");
        let mut report = router("sender", vec![]);
        report.drops = drops;
        let report = Report {
            gbit_per_second: 0.0,
            bytes_verified: 0,
            streams: 1,
            seconds: 0.0,
            routers: vec![report],
        };
        assert!(
            ReportTable(&report)
                .to_string()
                .contains("sender, outside the queues: replay 1,234, no_route 2\n")
        );
    }

    #[test]
    fn digits_come_in_groups_of_three() {
        let all = [0, 12, 999, 1_000, 123_456, 1_234_567].map(grouped);
        assert_eq!(all, ["0", "12", "999", "1,000", "123,456", "1,234,567"]);
    }

    fn router(name: &str, queues: Vec<QueueReport>) -> RouterReport {
        RouterReport { name: name.to_owned(), queues, drops: BTreeMap::new() }
    }

    fn queue(queue: u32, [rate, drain, read, written, send]: [f64; 5]) -> QueueReport {
        QueueReport {
            queue,
            gbit_per_second: rate,
            packets_per_drain: drain,
            segments_per_superpacket_read: read,
            segments_per_superpacket_written: written,
            datagrams_per_send: send,
            drops: BTreeMap::new(),
        }
    }
}
