//! What an inside worker counts: its TUN queue, both ways.

use metrics::Gauge;

use super::histogram::ExactHistogram;
use super::registry::Registry;
use super::tally::{LabelledTally, PublishedDrops, Tally, errno_labels};

/// The `kind` label: how a superpacket is segmented. In the order of `SuperpacketKind`.
const KINDS: [&str; 5] = ["none", "tso4", "tso6", "uso4", "uso6"];
/// What ends a drain. In the order of `DrainEnd`.
const DRAIN_ENDS: [&str; 4] = ["empty", "cap", "headroom", "malformed"];

/// The counts of one inside worker. Add to the fields while handling a batch, then
/// [`publish`](Self::publish) once.
pub struct InsideTelemetry {
    /// TUN reads per wake-up.
    pub drain_packets: ExactHistogram,
    /// Drains, by what ended them.
    pub drain_end: LabelledTally,
    /// Returns from poll.
    pub wakeups: Tally,
    /// TUN reads by kind.
    pub read_superpackets: LabelledTally,
    /// Bytes of IP packets read.
    pub read_bytes: Tally,
    /// Segments cut.
    pub segments: Tally,
    /// TUN writes by kind.
    pub write_superpackets: LabelledTally,
    /// IP packets written, as the kernel will split them.
    pub write_packets: Tally,
    /// Segments merged with others.
    pub coalesced_segments: Tally,
    /// Chains, by what closed them.
    pub coalesce_seal: LabelledTally,
    /// Refused TUN writes by errno, see [`errno_index`](super::errno_index).
    pub write_errors: LabelledTally,
    /// 1 while the queue takes superpackets. Set it when that changes.
    pub gso_enabled: Gauge,
    /// Batches in this worker's own inbox. Set it once per wake-up.
    pub inbox_depth: Gauge,
    /// Times the outside worker's inbox had no room.
    pub inbox_full: Tally,
    /// Times no slab was free.
    pub pool_exhausted: Tally,
    /// Packets dropped on their way from the TUN to the outside.
    pub outbound_drops: PublishedDrops,
    /// Packets dropped on their way to the TUN.
    pub inbound_drops: PublishedDrops,
}

impl InsideTelemetry {
    /// Registers the counts of lane `queue`'s inside worker. `seal_reasons` are the label values of
    /// [`coalesce_seal`](Self::coalesce_seal), in the order of their indexes.
    ///
    /// # Panics
    /// If that worker is registered already.
    pub fn register(registry: &Registry, queue: usize, seal_reasons: &[&'static str]) -> Self {
        let queue = queue.to_string();
        let lane = [("queue", queue.as_str())];
        let worker = [("queue", queue.as_str()), ("worker", "inside")];
        let tally = |name| Tally::register(registry, name, &lane);
        let by_kind = |name| LabelledTally::register(registry, name, &lane, "kind", KINDS);
        InsideTelemetry {
            drain_packets: registry.histogram("laneway_drain_packets", &lane),
            drain_end: LabelledTally::register(
                registry,
                "laneway_drain_end_total",
                &lane,
                "reason",
                DRAIN_ENDS,
            ),
            wakeups: Tally::register(registry, "laneway_wakeups_total", &worker),
            read_superpackets: by_kind("laneway_tun_read_superpackets_total"),
            read_bytes: tally("laneway_tun_read_bytes_total"),
            segments: Tally::register(
                registry,
                "laneway_segments_total",
                &[lane[0], ("direction", "outbound")],
            ),
            write_superpackets: by_kind("laneway_tun_write_superpackets_total"),
            write_packets: tally("laneway_tun_write_packets_total"),
            coalesced_segments: tally("laneway_coalesced_segments_total"),
            coalesce_seal: LabelledTally::register(
                registry,
                "laneway_coalesce_seal_total",
                &lane,
                "reason",
                seal_reasons.iter().copied(),
            ),
            write_errors: LabelledTally::register(
                registry,
                "laneway_tun_write_errors_total",
                &lane,
                "errno",
                errno_labels(),
            ),
            gso_enabled: registry.gauge("laneway_tun_gso_enabled", &lane),
            inbox_depth: registry.gauge("laneway_inbox_depth", &worker),
            inbox_full: Tally::register(registry, "laneway_inbox_full_total", &worker),
            pool_exhausted: Tally::register(registry, "laneway_pool_exhausted_total", &worker),
            outbound_drops: PublishedDrops::register(registry, "outbound", &lane),
            inbound_drops: PublishedDrops::register(registry, "inbound", &lane),
        }
    }

    /// Adds everything counted since the last call to the counters that a scrape reads.
    pub fn publish(&mut self) {
        self.drain_end.publish();
        self.wakeups.publish();
        self.read_superpackets.publish();
        self.read_bytes.publish();
        self.segments.publish();
        self.write_superpackets.publish();
        self.write_packets.publish();
        self.coalesced_segments.publish();
        self.coalesce_seal.publish();
        self.write_errors.publish();
        self.inbox_full.publish();
        self.pool_exhausted.publish();
        self.outbound_drops.publish();
        self.inbound_drops.publish();
    }
}
