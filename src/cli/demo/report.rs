//! The demo's result, per router and queue. The figures come from the routers' own metrics, parsed from the text
//! Prometheus would scrape; only the overall rate and byte count come from the traffic generator.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::traffic::Outcome;
use crate::metrics::exposition::{Exposition, Label};

/// The result of a demo. `--json` prints these fields.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// TCP payload rate over all streams, in 10⁹ bits per second.
    pub gbit_per_second: f64,
    /// Bytes of TCP payload received and verified.
    pub bytes_verified: u64,
    /// Concurrent TCP connections.
    pub streams: u16,
    /// Seconds from the first byte to the last.
    pub seconds: f64,
    /// The left router, then the right one.
    pub routers: Vec<RouterReport>,
}

/// Figures of one router.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RouterReport {
    /// The router's name in the table.
    pub name: String,
    /// Its queues, in ascending order.
    pub queues: Vec<QueueReport>,
    /// Packets dropped outside any queue, by reason.
    pub drops: BTreeMap<String, u64>,
}

/// Figures of one queue. An average without samples is 0.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QueueReport {
    /// The queue's number.
    pub queue: u32,
    /// Rate through the TUN queue in 10⁹ bits per second, both directions together, IP headers included.
    pub gbit_per_second: f64,
    /// TUN reads per wake.
    pub packets_per_drain: f64,
    /// Segments per superpacket read from TUN. Reads without GSO do not count.
    pub segments_per_superpacket_read: f64,
    /// Segments coalesced per superpacket written to TUN. Writes without GSO do not count.
    pub segments_per_superpacket_written: f64,
    /// Datagrams per UDP GSO send. Sends of a single datagram use no GSO and do not count.
    pub datagrams_per_send: f64,
    /// Packets dropped, by reason; reasons that did not occur are omitted.
    pub drops: BTreeMap<String, u64>,
}

impl Report {
    /// Builds a report from the generator's outcome and the metrics of each named router.
    pub fn new(outcome: &Outcome, streams: u16, metrics: &[(&str, Exposition)]) -> Report {
        let routers = metrics.iter().map(|(name, metrics)| RouterReport::new(name, metrics, outcome.elapsed));
        Report {
            gbit_per_second: outcome.gbit_per_second,
            bytes_verified: outcome.verified,
            streams,
            seconds: outcome.elapsed.as_secs_f64(),
            routers: routers.collect(),
        }
    }
}

impl RouterReport {
    fn new(name: &str, metrics: &Exposition, elapsed: Duration) -> RouterReport {
        let mut queues: Vec<u32> = metrics.values_of("queue").iter().filter_map(|q| q.parse().ok()).collect();
        queues.sort_unstable();
        RouterReport {
            name: name.to_owned(),
            queues: queues.into_iter().map(|queue| QueueReport::new(queue, metrics, elapsed)).collect(),
            drops: drops(metrics, None),
        }
    }
}

impl QueueReport {
    fn new(queue: u32, metrics: &Exposition, elapsed: Duration) -> QueueReport {
        let number = queue.to_string();
        let this: Label<'_> = ("queue", &number);
        let sum = |name: &str| metrics.sum(name, &[this]);
        let sum_of = |name: &str, label| metrics.sum(name, &[this, label]);

        let bytes = sum("laneway_tun_read_bytes_total") + sum("laneway_tun_write_bytes_total");

        // A read without GSO is one segment; the remaining segments came from superpackets.
        let plain_reads = sum_of("laneway_tun_read_superpackets_total", ("kind", "none"));
        let gso_reads = sum("laneway_tun_read_superpackets_total") - plain_reads;
        let gso_segments = sum_of("laneway_segments_total", ("direction", "outbound")) - plain_reads;

        let gso_writes = sum("laneway_tun_write_superpackets_total")
            - sum_of("laneway_tun_write_superpackets_total", ("kind", "none"));

        // A run has at least one datagram, so the first bucket counts the runs of a single datagram.
        let single_sends = sum_of("laneway_udp_run_segments_bucket", ("le", "1"));

        QueueReport {
            queue,
            gbit_per_second: average(bytes * 8.0 / 1e9, elapsed.as_secs_f64()),
            packets_per_drain: average(sum("laneway_drain_packets_sum"), sum("laneway_drain_packets_count")),
            segments_per_superpacket_read: average(gso_segments, gso_reads),
            segments_per_superpacket_written: average(sum("laneway_coalesced_segments_total"), gso_writes),
            datagrams_per_send: average(
                sum("laneway_udp_run_segments_sum") - single_sends,
                sum("laneway_udp_run_segments_count") - single_sends,
            ),
            drops: drops(metrics, Some(&number)),
        }
    }
}

/// Returns `total / count`, or 0 if `count` is 0. The total can be negative, and counts as 0 then: a packet
/// dropped before it is segmented is read but has no segment.
fn average(total: f64, count: f64) -> f64 {
    if count > 0.0 { (total / count).max(0.0) } else { 0.0 }
}

/// Returns the packets dropped by `queue`, or outside any queue for `None`, by reason.
fn drops(metrics: &Exposition, queue: Option<&str>) -> BTreeMap<String, u64> {
    let mut drops = BTreeMap::new();
    for sample in metrics.select("laneway_dropped_packets_total", &[]) {
        if sample.label("queue") == queue && sample.value > 0.0 {
            // A counter is a non-negative whole number.
            #[expect(clippy::cast_sign_loss)]
            let packets = sample.value as u64;
            *drops.entry(sample.label("reason").unwrap_or("unknown").to_owned()).or_default() += packets;
        }
    }
    drops
}

#[cfg(test)]
mod tests {
    use super::*;

    const METRICS: &str = "\
laneway_drain_packets_sum{queue=\"0\"} 90
laneway_drain_packets_count{queue=\"0\"} 12
laneway_tun_read_superpackets_total{queue=\"0\",kind=\"none\"} 50
laneway_tun_read_superpackets_total{queue=\"0\",kind=\"tso4\"} 30
laneway_tun_read_superpackets_total{queue=\"0\",kind=\"tso6\"} 10
laneway_tun_read_bytes_total{queue=\"0\"} 1000000000
laneway_segments_total{queue=\"0\",direction=\"outbound\"} 1850
laneway_segments_total{queue=\"0\",direction=\"inbound\"} 7000
laneway_tun_write_superpackets_total{queue=\"0\",kind=\"none\"} 99
laneway_tun_write_superpackets_total{queue=\"0\",kind=\"tso4\"} 20
laneway_coalesced_segments_total{queue=\"0\"} 400
laneway_udp_run_segments_bucket{queue=\"0\",le=\"1\"} 60
laneway_udp_run_segments_bucket{queue=\"0\",le=\"+Inf\"} 100
laneway_udp_run_segments_sum{queue=\"0\"} 1860
laneway_udp_run_segments_count{queue=\"0\"} 100
laneway_dropped_packets_total{queue=\"0\",direction=\"outbound\",reason=\"no_route\"} 3
laneway_dropped_packets_total{queue=\"0\",direction=\"inbound\",reason=\"no_route\"} 1
laneway_dropped_packets_total{queue=\"0\",direction=\"inbound\",reason=\"replay\"} 0
laneway_dropped_packets_total{direction=\"inbound\",reason=\"staging_full\"} 2
laneway_wakeups_total{queue=\"10\",worker=\"inside\"} 1
laneway_wakeups_total{queue=\"2\",worker=\"inside\"} 1
";

    #[test]
    fn every_average_is_over_what_it_says() {
        let report = report();
        let queue = &report.routers[0].queues[0];
        let figures = [
            (queue.packets_per_drain, 7.5),
            (queue.segments_per_superpacket_read, 45.0),
            (queue.segments_per_superpacket_written, 20.0),
            (queue.datagrams_per_send, 45.0),
            (queue.gbit_per_second, 4.0),
        ];
        for (figure, expected) in figures {
            assert!((figure - expected).abs() < 1e-9, "{figure} is not {expected}");
        }
        assert_eq!(queue.drops, BTreeMap::from([("no_route".to_owned(), 4)]));
        assert_eq!(report.routers[0].drops, BTreeMap::from([("staging_full".to_owned(), 2)]));
    }

    #[test]
    fn queues_are_listed_by_number_and_an_idle_one_is_all_zero() {
        let report = report();
        let numbers: Vec<u32> = report.routers[0].queues.iter().map(|queue| queue.queue).collect();
        assert_eq!(numbers, [0, 2, 10]);
        let idle = serde_json::to_value(&report.routers[0].queues[1]).unwrap();
        assert_eq!(idle["packets_per_drain"], 0.0);
        assert_eq!(idle["datagrams_per_send"], 0.0);
        assert_eq!(idle["drops"], serde_json::json!({}));
    }

    #[test]
    fn the_object_has_the_names_that_scripts_rely_on() {
        let json = serde_json::to_string(&report()).unwrap();
        assert!(!json.contains('\n'));
        let object: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(object["gbit_per_second"], 3.5);
        assert_eq!(object["bytes_verified"], 875_000_000);
        assert_eq!(object["routers"][0]["name"], "left");
        let queue = &object["routers"][0]["queues"][0];
        for name in [
            "queue",
            "packets_per_drain",
            "segments_per_superpacket_read",
            "segments_per_superpacket_written",
            "datagrams_per_send",
        ] {
            assert!(queue[name].is_number(), "{name}");
        }
        assert_eq!(queue["drops"]["no_route"], 4);
    }

    fn report() -> Report {
        let elapsed = Duration::from_secs(2);
        let outcome = Outcome { verified: 875_000_000, gbit_per_second: 3.5, elapsed };
        Report::new(&outcome, 4, &[("left", Exposition::parse(METRICS).unwrap())])
    }
}
