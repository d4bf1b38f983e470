//! Metrics of packets that took a shortcut: the counts that the skipped worker would have made.
//!
//! Such packets come one at a time and each saves a wake-up, so they are published immediately.

use metrics::Counter;

use super::histogram::ExactHistogram;
use super::registry::Registry;
use crate::offload::SuperpacketKind;

/// The family that counts shortcuts.
const SHORTCUTS: &str = "laneway_shortcuts_total";

/// Counters of datagrams that an inside worker sent.
pub struct SentShortcuts {
    shortcuts: Counter,
    runs: Counter,
    run_segments: ExactHistogram,
}

impl SentShortcuts {
    /// Registers the counters of lane `queue`.
    pub fn register(registry: &Registry, queue: usize) -> Self {
        let queue = queue.to_string();
        let lane = ("queue", queue.as_str());
        SentShortcuts {
            shortcuts: registry.counter(SHORTCUTS, &[lane, ("direction", "outbound")]),
            runs: registry.counter("laneway_udp_send_runs_total", &[lane]),
            run_segments: registry.histogram("laneway_udp_run_segments", &[lane]),
        }
    }

    /// Counts one sent datagram.
    #[inline]
    pub fn count(&mut self) {
        self.shortcuts.increment(1);
        self.runs.increment(1);
        self.run_segments.record(1);
    }
}

/// Counters of packets that outside workers wrote to one TUN queue.
pub struct WrittenShortcuts {
    shortcuts: Counter,
    superpackets: Counter,
    packets: Counter,
    bytes: Counter,
}

impl WrittenShortcuts {
    /// Registers the counters of lane `queue`.
    pub fn register(registry: &Registry, queue: usize) -> Self {
        let queue = queue.to_string();
        let lane = ("queue", queue.as_str());
        let single = ("kind", SuperpacketKind::None.label());
        WrittenShortcuts {
            shortcuts: registry.counter(SHORTCUTS, &[lane, ("direction", "inbound")]),
            superpackets: registry.counter("laneway_tun_write_superpackets_total", &[lane, single]),
            packets: registry.counter("laneway_tun_write_packets_total", &[lane]),
            bytes: registry.counter("laneway_tun_write_bytes_total", &[lane]),
        }
    }

    /// Counts one written packet of `bytes` bytes.
    #[inline]
    pub fn count(&mut self, bytes: usize) {
        self.shortcuts.increment(1);
        self.superpackets.increment(1);
        self.packets.increment(1);
        self.bytes.increment(bytes as u64);
    }
}
