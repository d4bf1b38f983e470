//! What is counted of packets that took a shortcut: what the worker they passed would have counted.
//!
//! They come one at a time and spare a wake-up each, so they go straight to the counters.

use metrics::Counter;

use super::histogram::ExactHistogram;
use super::registry::Registry;
use crate::offload::SuperpacketKind;

/// The family of the count itself.
const SHORTCUTS: &str = "laneway_shortcuts_total";

/// Datagrams that an inside worker sent.
pub struct SentShortcuts {
    shortcuts: Counter,
    runs: Counter,
    run_segments: ExactHistogram,
}

impl SentShortcuts {
    /// Registers the counts of lane `queue`.
    pub fn register(registry: &Registry, queue: usize) -> Self {
        let queue = queue.to_string();
        let lane = ("queue", queue.as_str());
        SentShortcuts {
            shortcuts: registry.counter(SHORTCUTS, &[lane, ("direction", "outbound")]),
            runs: registry.counter("laneway_udp_send_runs_total", &[lane]),
            run_segments: registry.histogram("laneway_udp_run_segments", &[lane]),
        }
    }

    /// One datagram was sent.
    #[inline]
    pub fn count(&mut self) {
        self.shortcuts.increment(1);
        self.runs.increment(1);
        self.run_segments.record(1);
    }
}

/// Packets that outside workers wrote to one TUN queue.
pub struct WrittenShortcuts {
    shortcuts: Counter,
    superpackets: Counter,
    packets: Counter,
    bytes: Counter,
}

impl WrittenShortcuts {
    /// Registers the counts of lane `queue`.
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

    /// One packet of `bytes` bytes was written.
    #[inline]
    pub fn count(&mut self, bytes: usize) {
        self.shortcuts.increment(1);
        self.superpackets.increment(1);
        self.packets.increment(1);
        self.bytes.increment(bytes as u64);
    }
}
