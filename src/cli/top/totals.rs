//! Totals since the router's start, as one reading has them.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::Instant;

use crate::config::update::{DeviceStatus, ScopedByName};
use crate::metrics::exposition::{Exposition, Sample};

/// A reading: counters since the start of the router.
#[derive(Clone, Debug)]
pub(super) struct Totals {
    /// When the reading was taken.
    pub(super) at: Instant,
    /// The router's version; empty for other implementations.
    pub(super) version: String,
    /// UNIX time of the router's start in seconds; 0 if unknown.
    pub(super) started: f64,
    /// Memory of the process in RAM, in bytes.
    pub(super) memory: f64,
    /// Counters by queue.
    pub(super) queues: BTreeMap<u32, QueueTotals>,
    /// CPU seconds of threads that belong to no queue, by name.
    pub(super) threads: BTreeMap<String, f64>,
    /// Packets dropped, by direction and reason.
    pub(super) drops: BTreeMap<(String, String), f64>,
    /// Peers, in the order of the reading.
    pub(super) peers: Vec<PeerTotals>,
    /// Configured peers, including those without series of their own.
    pub(super) configured: f64,
}

/// Counters of one queue.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct QueueTotals {
    pub(super) read_bytes: f64,
    pub(super) written_bytes: f64,
    pub(super) drained: Ratio,
    /// Segments cut from superpackets, over TUN reads.
    pub(super) read: Ratio,
    /// Packets written, over TUN writes.
    pub(super) written: Ratio,
    /// Datagrams over UDP sends.
    pub(super) sent: Ratio,
    pub(super) inside_cpu: f64,
    pub(super) outside_cpu: f64,
    pub(super) drops: f64,
}

/// A numerator and a denominator, both of which only grow.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ratio {
    pub(super) of: f64,
    pub(super) over: f64,
}

/// Counters of one peer.
#[derive(Clone, Debug)]
pub(super) struct PeerTotals {
    /// The public key in base64.
    pub(super) key: String,
    /// The name from the configuration; may be empty.
    pub(super) name: String,
    /// Allowed IPs, separated by commas.
    pub(super) allowed_ips: String,
    /// The endpoint; absent in a reading over HTTP.
    pub(super) endpoint: Option<String>,
    /// UNIX time of the last handshake in seconds; 0 for none.
    pub(super) handshake: f64,
    pub(super) received: f64,
    pub(super) sent: f64,
}

impl Totals {
    /// Sorts the samples of a scrape, with peers from `status` where it is known.
    pub(super) fn of(at: Instant, metrics: &Exposition, status: Option<&DeviceStatus>) -> Totals {
        let mut totals = Totals {
            at,
            version: String::new(),
            started: 0.0,
            memory: 0.0,
            queues: BTreeMap::new(),
            threads: BTreeMap::new(),
            drops: BTreeMap::new(),
            peers: Vec::new(),
            configured: 0.0,
        };
        let mut peers = PeerIndex::default();
        for sample in metrics.samples() {
            totals.take(sample);
            peers.take(sample);
        }
        totals.peers = peers.found;
        if let Some(status) = status {
            totals.configured = status.peers.len() as f64;
            totals.peers = peers_of(status, &totals.peers);
        }
        totals
    }

    fn take(&mut self, sample: &Sample) {
        let value = sample.value;
        let queue = sample.label("queue").and_then(|queue| queue.parse().ok());
        match sample.name.as_str() {
            "laneway_build_info" => sample.label("version").unwrap_or_default().clone_into(&mut self.version),
            "process_start_time_seconds" => self.started = value,
            "process_resident_memory_bytes" => self.memory = value,
            "laneway_peers" => self.configured += value,
            "laneway_dropped_packets_total" => {
                let label = |name| sample.label(name).unwrap_or_default().to_owned();
                *self.drops.entry((label("direction"), label("reason"))).or_default() += value;
            }
            "laneway_worker_cpu_seconds_total" if queue.is_none() => {
                let worker = sample.label("worker").unwrap_or_default().to_owned();
                *self.threads.entry(worker).or_default() += value;
            }
            _ => {}
        }
        // Only workers have queues that are numbers.
        if let Some(queue) = queue {
            self.queues.entry(queue).or_default().take(sample);
        }
    }
}

impl QueueTotals {
    fn take(&mut self, sample: &Sample) {
        let counter = match sample.name.as_str() {
            "laneway_tun_read_bytes_total" => &mut self.read_bytes,
            "laneway_tun_write_bytes_total" => &mut self.written_bytes,
            "laneway_drain_packets_sum" => &mut self.drained.of,
            "laneway_drain_packets_count" => &mut self.drained.over,
            "laneway_segments_total" if sample.label("direction") == Some("outbound") => &mut self.read.of,
            "laneway_tun_read_superpackets_total" => &mut self.read.over,
            "laneway_tun_write_packets_total" => &mut self.written.of,
            "laneway_tun_write_superpackets_total" => &mut self.written.over,
            "laneway_udp_run_segments_sum" => &mut self.sent.of,
            "laneway_udp_run_segments_count" => &mut self.sent.over,
            "laneway_dropped_packets_total" => &mut self.drops,
            "laneway_worker_cpu_seconds_total" => match sample.label("worker") {
                Some("inside") => &mut self.inside_cpu,
                Some("outside") => &mut self.outside_cpu,
                _ => return,
            },
            _ => return,
        };
        *counter += sample.value;
    }
}

/// Collects peers from the series they have in the metrics.
#[derive(Default)]
struct PeerIndex {
    found: Vec<PeerTotals>,
    /// Indices in `found` by public key.
    index: HashMap<String, usize>,
}

impl PeerIndex {
    fn take(&mut self, sample: &Sample) {
        let counter: fn(&mut PeerTotals, f64) = match sample.name.as_str() {
            "wireguard_sent_bytes_total" => |peer, value| peer.sent = value,
            "wireguard_received_bytes_total" => |peer, value| peer.received = value,
            "wireguard_latest_handshake_seconds" => |peer, value| peer.handshake = value,
            _ => return,
        };
        let label = |name| sample.label(name).unwrap_or_default().to_owned();
        let key = label("public_key");
        let at = *self.index.entry(key.clone()).or_insert_with(|| {
            let (name, allowed_ips) = (label("friendly_name"), label("allowed_ips"));
            let (handshake, received, sent) = (0.0, 0.0, 0.0);
            self.found.push(PeerTotals { key, name, allowed_ips, endpoint: None, handshake, received, sent });
            self.found.len() - 1
        });
        counter(&mut self.found[at], sample.value);
    }
}

/// Returns the peers of a status, with their names from the metrics.
fn peers_of(status: &DeviceStatus, series: &[PeerTotals]) -> Vec<PeerTotals> {
    let names: HashMap<_, _> = series.iter().map(|peer| (peer.key.as_str(), peer.name.as_str())).collect();
    let peer = |peer: &crate::config::update::PeerStatus| {
        let key = peer.public_key.to_string();
        let nets: Vec<_> = peer.allowed_ips.iter().map(ToString::to_string).collect();
        let endpoint = peer.endpoint.map(|endpoint: SocketAddr| ScopedByName(endpoint).to_string());
        PeerTotals {
            name: names.get(key.as_str()).copied().unwrap_or_default().to_owned(),
            key,
            allowed_ips: nets.join(","),
            endpoint,
            handshake: peer.last_handshake.map_or(0.0, |at| at.as_secs_f64()),
            received: peer.received_bytes as f64,
            sent: peer.sent_bytes as f64,
        }
    };
    status.peers.iter().map(peer).collect()
}
