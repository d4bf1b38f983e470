//! Figures as text: the cells of the tables, and the report of `--once`.

use std::time::Duration;

use super::figures::{DropFigures, Figures, Order, PeerFigures, QueueFigures};

/// Two header lines for each column of the queues.
pub(super) const QUEUE_HEADS: [(&str, &str); 10] = [
    ("", "queue"),
    ("in", "bit/s"),
    ("out", "bit/s"),
    ("packets", "per drain"),
    ("segments", "per read"),
    ("segments", "per write"),
    ("datagrams", "per send"),
    ("inside", "CPU"),
    ("outside", "CPU"),
    ("drops", "per s"),
];

/// The cells of a queue.
pub(super) fn queue_cells(queue: &QueueFigures) -> [String; 10] {
    [
        queue.queue.to_string(),
        scaled(queue.received),
        scaled(queue.sent),
        mean(queue.packets_per_drain),
        mean(queue.segments_per_read),
        mean(queue.segments_per_write),
        mean(queue.datagrams_per_send),
        percent(queue.inside_cpu),
        percent(queue.outside_cpu),
        scaled(queue.dropped),
    ]
}

/// The headers of the drops.
pub(super) const DROP_HEADS: [&str; 4] = ["direction", "reason", "drops/s", "drops in all"];

/// The cells of a reason for drops.
pub(super) fn drop_cells(drops: &DropFigures) -> [String; 4] {
    [drops.direction.clone(), drops.reason.clone(), scaled(drops.rate), format!("{:.0}", drops.total)]
}

/// The headers of the peers.
pub(super) const PEER_HEADS: [&str; 6] =
    ["peer", "allowed IPs", "endpoint", "handshake", "in bit/s", "out bit/s"];

/// The cells of a peer.
pub(super) fn peer_cells(peer: &PeerFigures) -> [String; 6] {
    [
        peer.peer.label().to_owned(),
        peer.peer.allowed_ips.clone(),
        peer.peer.endpoint.clone().unwrap_or_else(|| "-".to_owned()),
        peer.handshake.map_or_else(|| "-".to_owned(), age),
        scaled(peer.received),
        scaled(peer.sent),
    ]
}

/// The line above the tables.
pub(super) fn summary(figures: &Figures) -> String {
    format!(
        "in {}bit/s, out {}bit/s, {} drops/s",
        spaced(figures.received),
        spaced(figures.sent),
        scaled(figures.dropped)
    )
}

/// What is known about the process: version, uptime, memory and the threads that belong to no queue.
pub(super) fn process(figures: &Figures) -> String {
    let mut parts = Vec::new();
    if !figures.version.is_empty() {
        parts.push(format!("laneway {}", figures.version));
    }
    parts.extend(figures.uptime.map(|uptime| format!("up {}", age(uptime))));
    if figures.memory > 0.0 {
        parts.push(format!("{:.1} MiB", figures.memory / f64::from(1 << 20)));
    }
    parts.extend(figures.threads.iter().map(|(name, cpu)| format!("{name} CPU {}", percent(*cpu))));
    parts.join(", ")
}

/// What stands above the peers: how many there are, and of how many nothing is known.
pub(super) fn peer_count(figures: &Figures) -> String {
    match figures.configured {
        all if all > figures.peers.len() => {
            format!("{} of {all} peers (LANEWAY_METRICS_PEERS)", figures.peers.len())
        }
        1 => "1 peer".to_owned(),
        _ => format!("{} peers", figures.peers.len()),
    }
}

/// Formats everything as text, with the busiest peers first.
pub(super) fn report(source: &str, figures: &Figures) -> String {
    let mut out = format!("{source}: {}\n{}\n", summary(figures), process(figures));
    let mut table = |head: Vec<Vec<String>>, left: &[usize], rows: Vec<Vec<String>>| {
        if !rows.is_empty() {
            out.push('\n');
            aligned(&[head, rows].concat(), left, &mut out);
        }
    };
    let owned = |cells: &[&str]| cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
    let heads = [QUEUE_HEADS.map(|head| head.0), QUEUE_HEADS.map(|head| head.1)];
    let heads = heads.iter().map(|head| owned(head)).collect();
    table(heads, &[], figures.queues.iter().map(|queue| queue_cells(queue).to_vec()).collect());
    let rows = figures.drops.iter().map(|drops| drop_cells(drops).to_vec()).collect();
    table(vec![owned(&DROP_HEADS)], &[0, 1], rows);
    let mut peers = figures.peers.clone();
    Order::default().sort(&mut peers, false);
    let rows = peers.iter().map(|peer| peer_cells(peer).to_vec()).collect();
    table(vec![owned(&PEER_HEADS)], &[0, 1, 2], rows);
    out.extend(["\n", &peer_count(figures), "\n\n"]);
    out
}

/// Appends rows in columns that are as wide as their longest cell; the columns in `left` are left-aligned.
fn aligned(rows: &[Vec<String>], left: &[usize], out: &mut String) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if left.contains(&column) { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        out.push_str(line.trim_end());
        out.push('\n');
    }
}

/// Formats a rate with three digits and a decimal prefix, as in `1.25 G`.
pub(super) fn scaled(rate: f64) -> String {
    const PREFIXES: [&str; 4] = ["k", "M", "G", "T"];
    if rate < 999.5 {
        let digits = usize::from(rate > 0.0 && rate < 9.95);
        return format!("{rate:.digits$}");
    }
    let mut value = rate;
    let mut prefix = "";
    for larger in PREFIXES {
        if value < 999.5 {
            break;
        }
        (value, prefix) = (value / 1000.0, larger);
    }
    let digits = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.digits$} {prefix}")
}

/// [`scaled`], followed by a space if it has no prefix, so that a unit can follow.
pub(super) fn spaced(rate: f64) -> String {
    let text = scaled(rate);
    if text.ends_with(|c: char| c.is_ascii_digit()) { text + " " } else { text }
}

/// Formats an average with one decimal, or as a dash if it has no samples.
fn mean(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"))
}

fn percent(share: f64) -> String {
    format!("{:.0}%", share * 100.0)
}

/// Formats a time in its two largest units.
pub(super) fn age(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m {}s", seconds % 60),
        3600..86_400 => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::super::figures::tests::figures;
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_a_prefix() {
        for (rate, text) in [
            (0.0, "0"),
            (0.5, "0.5"),
            (42.4, "42"),
            (999.4, "999"),
            (999.6, "1.00 k"),
            (1_234.0, "1.23 k"),
            (56_789.0, "56.8 k"),
            (1.25e9, "1.25 G"),
            (999_950.0, "1.00 M"),
            (4e15, "4000 T"),
        ] {
            assert_eq!(scaled(rate), text);
        }
        for (seconds, text) in [(0, "0s"), (125, "2m 5s"), (7_380, "2h 3m"), (200_000, "2d 7h")] {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn the_report_has_queues_drops_and_peers() {
        let mut figures = figures((1, 500), (3, 500));
        figures.uptime = Some(Duration::from_secs(61));
        figures.peers[1].handshake = Some(Duration::from_secs(5));
        let expected = "\
lw0: in 2.00 Mbit/s, out 1.00 Mbit/s, 100 drops/s
laneway 0.1.0, up 1m 1s, peers CPU 0%

           in     out    packets  segments   segments  datagrams  inside  outside  drops
queue   bit/s   bit/s  per drain  per read  per write   per send     CPU      CPU  per s
    0  2.00 M  1.00 M          -      50.0          -          -    100%       0%    100

direction  reason    drops/s  drops in all
outbound   no_route      100           300

peer  allowed IPs  endpoint  handshake  in bit/s  out bit/s
A     10.0.0.1/32  -                 -         0     1.00 M
bee                -                5s         0          0

2 of 3 peers (LANEWAY_METRICS_PEERS)

";
        assert_eq!(report("lw0", &figures), expected);
    }
}
