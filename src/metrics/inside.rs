//! Metrics of an inside worker: its TUN queue, in both directions.

use metrics::Gauge;

use super::histogram::ExactHistogram;
use super::jobs::JobTally;
use super::registry::Registry;
use super::samples::DropDirection;
use super::tally::{LabelledTally, PublishedDrops, Tally};
use crate::errnos::ErrnoCounts;
use crate::offload::{CloseReason, DrainEnd, Superpacket, SuperpacketKind, WriteTally};

/// How a packet that was not sent was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RejectKind {
    /// A TCP reset.
    Reset,
    /// An ICMP "destination unreachable".
    IcmpUnreachable,
    /// An ICMPv6 "destination unreachable".
    Icmpv6Unreachable,
    /// An ICMP "fragmentation needed" or ICMPv6 "packet too big".
    TooBig,
    /// No answer: the rate limit was reached.
    RateLimited,
    /// No answer: this kind of packet must not be answered.
    Silent,
}

impl RejectKind {
    /// All kinds, in the order of their discriminants.
    pub const ALL: [RejectKind; 6] = [
        Self::Reset,
        Self::IcmpUnreachable,
        Self::Icmpv6Unreachable,
        Self::TooBig,
        Self::RateLimited,
        Self::Silent,
    ];

    /// Returns the value of the `kind` label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Reset => "rst",
            Self::IcmpUnreachable => "icmp_unreachable",
            Self::Icmpv6Unreachable => "icmp6_unreachable",
            Self::TooBig => "too_big",
            Self::RateLimited => "rate_limited",
            Self::Silent => "silent",
        }
    }
}

/// Metrics of one inside worker. Add to the fields while handling a batch, then call
/// [`publish`](Self::publish) once.
pub struct InsideMetrics {
    /// TUN reads per wake-up.
    pub drain_packets: ExactHistogram,
    /// Drains by reason they ended.
    pub drain_end: LabelledTally,
    /// Returns from poll.
    pub wakeups: Tally,
    /// TUN reads by kind of GSO.
    pub read_superpackets: LabelledTally,
    /// Bytes of IP packets read.
    pub read_bytes: Tally,
    /// Bytes of IP packets written.
    pub write_bytes: Tally,
    /// Segments cut from superpackets.
    pub segments: Tally,
    /// TUN writes by kind of GSO.
    pub write_superpackets: LabelledTally,
    /// IP packets written, counted after the kernel splits them.
    pub write_packets: Tally,
    /// Segments merged with others into a superpacket.
    pub coalesced_segments: Tally,
    /// Chains of coalesced segments by reason they were closed.
    pub coalesce_seal: LabelledTally,
    /// Failed TUN writes by errno.
    pub write_errors: LabelledTally,
    /// 1 while the queue accepts superpackets. The worker sets it at startup; a fallback clears it.
    pub gso_enabled: Gauge,
    /// Packets that were not sent, by kind of answer. Indexed by [`RejectKind`].
    pub rejects: LabelledTally,
    /// Packets for the device's own addresses that were written back.
    pub self_forwarded_packets: Tally,
    /// Times the outside worker's ring was full.
    pub inbox_full: Tally,
    /// Times no batch was free.
    pub pool_exhausted: Tally,
    /// Shared jobs.
    pub jobs: JobTally,
    /// Times this worker was restarted.
    pub restarts: Tally,
    /// Packets dropped on the way from the TUN.
    pub outbound_drops: PublishedDrops,
    /// Packets dropped on the way to the TUN.
    pub inbound_drops: PublishedDrops,
}

impl InsideMetrics {
    /// Registers the metrics of lane `queue`'s inside worker.
    pub fn register(registry: &Registry, queue: usize) -> Self {
        let queue = queue.to_string();
        let lane = [("queue", queue.as_str())];
        let worker = [("queue", queue.as_str()), ("worker", "inside")];
        let tally = |name| Tally::register(registry, name, &lane);
        let kinds = || SuperpacketKind::ALL.iter().map(|kind| kind.label());
        let by_kind = |name| LabelledTally::register(registry, name, &lane, "kind", kinds());
        InsideMetrics {
            drain_packets: registry.histogram("laneway_drain_packets", &lane),
            drain_end: LabelledTally::register(
                registry,
                "laneway_drain_end_total",
                &lane,
                "reason",
                DrainEnd::ALL.iter().map(|end| end.label()),
            ),
            wakeups: Tally::register(registry, "laneway_wakeups_total", &worker),
            read_superpackets: by_kind("laneway_tun_read_superpackets_total"),
            read_bytes: tally("laneway_tun_read_bytes_total"),
            write_bytes: tally("laneway_tun_write_bytes_total"),
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
                CloseReason::ALL.iter().map(|reason| reason.label()),
            ),
            write_errors: LabelledTally::register(
                registry,
                "laneway_tun_write_errors_total",
                &lane,
                "errno",
                ErrnoCounts::labels(),
            ),
            rejects: LabelledTally::register(
                registry,
                "laneway_rejects_total",
                &lane,
                "kind",
                RejectKind::ALL.iter().map(|kind| kind.label()),
            ),
            self_forwarded_packets: tally("laneway_self_forwarded_packets_total"),
            gso_enabled: registry.gauge("laneway_tun_gso_enabled", &lane),
            inbox_full: Tally::register(registry, "laneway_inbox_full_total", &worker),
            pool_exhausted: Tally::register(registry, "laneway_pool_exhausted_total", &worker),
            jobs: JobTally::register(registry, &worker),
            restarts: Tally::register(registry, "laneway_worker_restarts_total", &worker),
            outbound_drops: PublishedDrops::register(registry, DropDirection::Outbound, &lane),
            inbound_drops: PublishedDrops::register(registry, DropDirection::Inbound, &lane),
        }
    }

    /// Counts a superpacket that was read.
    #[inline]
    pub fn note_read(&mut self, superpacket: &Superpacket<'_>) {
        self.read_superpackets.add(superpacket.kind() as usize, 1);
        self.read_bytes.add(superpacket.packet().len() as u64);
    }

    /// Counts a drain of `packets` TUN reads.
    #[inline]
    pub fn note_drain(&mut self, packets: usize, end: DrainEnd) {
        self.drain_packets.record(packets);
        self.drain_end.add(end as usize, 1);
    }

    /// Counts a superpacket that was not sent, by kind of answer.
    pub fn note_reject(&mut self, kind: RejectKind) {
        self.rejects.add(kind as usize, 1);
    }

    /// Takes over the counts of the queue's writer and resets them.
    pub fn note_writes(&mut self, tally: &mut WriteTally) {
        let mut tally = tally.take();
        for (kind, times) in tally.superpackets.into_iter().enumerate() {
            self.write_superpackets.add(kind, times);
        }
        self.write_packets.add(tally.packets);
        self.write_bytes.add(tally.bytes);
        self.coalesced_segments.add(tally.coalesced_segments);
        for (reason, times) in tally.closes.into_iter().enumerate() {
            self.coalesce_seal.add(reason, times);
        }
        if tally.fallbacks > 0 {
            self.gso_enabled.set(0.0);
        }
        tally.errors.take(|errno, times| self.write_errors.add(errno, times));
        tally.drops.take(|reason, packets| self.inbound_drops.add(reason, packets));
    }

    /// Adds the counts since the last call to the counters that a scrape reads.
    pub fn publish(&mut self) {
        self.drain_end.publish();
        self.wakeups.publish();
        self.read_superpackets.publish();
        self.read_bytes.publish();
        self.write_bytes.publish();
        self.segments.publish();
        self.write_superpackets.publish();
        self.write_packets.publish();
        self.coalesced_segments.publish();
        self.coalesce_seal.publish();
        self.write_errors.publish();
        self.rejects.publish();
        self.self_forwarded_packets.publish();
        self.inbox_full.publish();
        self.pool_exhausted.publish();
        self.jobs.publish();
        self.restarts.publish();
        self.outbound_drops.publish();
        self.inbound_drops.publish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_that_falls_back_to_single_packets_says_so() {
        let registry = Registry::new();
        let mut metrics = InsideMetrics::register(&registry, 0);
        metrics.gso_enabled.set(1.0);
        let shown =
            |value| registry.render().contains(&format!("laneway_tun_gso_enabled{{queue=\"0\"}} {value}\n"));
        metrics.note_writes(&mut WriteTally::default());
        assert!(shown(1));
        metrics.note_writes(&mut WriteTally { fallbacks: 1, ..WriteTally::default() });
        assert!(shown(0));
    }
}
