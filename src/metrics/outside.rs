//! Metrics of an outside worker: its UDP sockets, in both directions.

use super::histogram::ExactHistogram;
use super::jobs::JobTally;
use super::registry::Registry;
use super::samples::DropDirection;
use super::tally::{LabelledTally, PublishedDrops, Tally};
use crate::errnos::ErrnoCounts;
use crate::underlay::{ReceiveTally, SendTally};

/// Metrics of one outside worker. Add to the fields while handling a batch, then call
/// [`publish`](Self::publish) once.
pub struct OutsideMetrics {
    /// Returns from poll.
    pub wakeups: Tally,
    /// Sends, of one or more datagrams each.
    pub send_runs: Tally,
    /// Datagrams per send.
    pub run_segments: ExactHistogram,
    /// Receive calls that returned datagrams.
    pub receive_batches: Tally,
    /// Datagrams per received message.
    pub gro_segments: ExactHistogram,
    /// Times GSO was disabled, by errno.
    pub gso_disabled: LabelledTally,
    /// Failed sends by errno.
    pub send_errors: LabelledTally,
    /// Segments opened from datagrams.
    pub segments: Tally,
    /// Times an inside worker's ring was full.
    pub inbox_full: Tally,
    /// Segments dropped because an inside worker's ring was full.
    pub inbox_dropped_segments: Tally,
    /// Times too few batches were free to receive into.
    pub pool_exhausted: Tally,
    /// Shared jobs.
    pub jobs: JobTally,
    /// Times this worker was restarted.
    pub restarts: Tally,
    /// Packets dropped on the way to the UDP socket.
    pub outbound_drops: PublishedDrops,
    /// Packets dropped on the way from the UDP socket.
    pub inbound_drops: PublishedDrops,
}

impl OutsideMetrics {
    /// Registers the metrics of lane `queue`'s outside worker.
    pub fn register(registry: &Registry, queue: usize) -> Self {
        let queue = queue.to_string();
        let lane = [("queue", queue.as_str())];
        let worker = [("queue", queue.as_str()), ("worker", "outside")];
        let tally = |name| Tally::register(registry, name, &lane);
        let of_worker = |name| Tally::register(registry, name, &worker);
        let by_errno = |name| LabelledTally::register(registry, name, &lane, "errno", ErrnoCounts::labels());
        OutsideMetrics {
            wakeups: of_worker("laneway_wakeups_total"),
            send_runs: tally("laneway_udp_send_runs_total"),
            run_segments: registry.histogram("laneway_udp_run_segments", &lane),
            receive_batches: tally("laneway_udp_receive_batches_total"),
            gro_segments: registry.histogram("laneway_udp_gro_segments", &lane),
            gso_disabled: by_errno("laneway_udp_gso_disabled_total"),
            send_errors: by_errno("laneway_udp_send_errors_total"),
            segments: Tally::register(
                registry,
                "laneway_segments_total",
                &[lane[0], ("direction", "inbound")],
            ),
            inbox_full: of_worker("laneway_inbox_full_total"),
            inbox_dropped_segments: tally("laneway_inbox_dropped_segments_total"),
            pool_exhausted: of_worker("laneway_pool_exhausted_total"),
            jobs: JobTally::register(registry, &worker),
            restarts: of_worker("laneway_worker_restarts_total"),
            outbound_drops: PublishedDrops::register(registry, DropDirection::Outbound, &lane),
            inbound_drops: PublishedDrops::register(registry, DropDirection::Inbound, &lane),
        }
    }

    /// Takes over the sender's counts and resets them.
    pub fn note_sends(&mut self, tally: &mut SendTally) {
        tally.runs.take(|segments, times| {
            self.send_runs.add(times);
            self.run_segments.record_many(segments, times);
        });
        tally.errors.take(|errno, times| self.send_errors.add(errno, times));
        tally.gso_disabled.take(|errno, times| self.gso_disabled.add(errno, times));
    }

    /// Takes over the receiver's counts and resets them.
    pub fn note_receives(&mut self, tally: &mut ReceiveTally) {
        self.receive_batches.add(std::mem::take(&mut tally.batches));
        tally.messages.take(|segments, times| self.gro_segments.record_many(segments, times));
    }

    /// Adds the counts since the last call to the counters that a scrape reads.
    pub fn publish(&mut self) {
        self.wakeups.publish();
        self.send_runs.publish();
        self.receive_batches.publish();
        self.gso_disabled.publish();
        self.send_errors.publish();
        self.segments.publish();
        self.inbox_full.publish();
        self.inbox_dropped_segments.publish();
        self.pool_exhausted.publish();
        self.jobs.publish();
        self.restarts.publish();
        self.outbound_drops.publish();
        self.inbound_drops.publish();
    }
}
