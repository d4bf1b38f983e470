//! Rates and ratios: the difference of two readings.

use std::cmp::Ordering;
use std::time::{Duration, SystemTime};

use super::totals::{PeerTotals, QueueTotals, Ratio, Totals};

/// What happened between two readings.
#[derive(Clone, Debug, Default)]
pub(super) struct Figures {
    /// The router's version; empty for other implementations.
    pub(super) version: String,
    /// Time since the router's start, if known.
    pub(super) uptime: Option<Duration>,
    /// Memory of the process in RAM, in bytes.
    pub(super) memory: f64,
    /// Bits of IP packets written to the TUN per second.
    pub(super) received: f64,
    /// Bits of IP packets read from the TUN per second.
    pub(super) sent: f64,
    /// Packets dropped per second.
    pub(super) dropped: f64,
    /// Queues by number.
    pub(super) queues: Vec<QueueFigures>,
    /// Threads that belong to no queue, with their share of a CPU.
    pub(super) threads: Vec<(String, f64)>,
    /// Reasons for drops; those that drop most now come first.
    pub(super) drops: Vec<DropFigures>,
    /// Peers, in no particular order.
    pub(super) peers: Vec<PeerFigures>,
    /// Number of configured peers.
    pub(super) configured: usize,
}

/// What one queue did.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueueFigures {
    pub(super) queue: u32,
    /// Bits per second written to the TUN.
    pub(super) received: f64,
    /// Bits per second read from the TUN.
    pub(super) sent: f64,
    pub(super) packets_per_drain: Option<f64>,
    pub(super) segments_per_read: Option<f64>,
    pub(super) segments_per_write: Option<f64>,
    pub(super) datagrams_per_send: Option<f64>,
    /// The share of a CPU that the inside worker took, 1 for all of it.
    pub(super) inside_cpu: f64,
    /// The share of a CPU that the outside worker took.
    pub(super) outside_cpu: f64,
    /// Packets dropped per second.
    pub(super) dropped: f64,
}

/// Packets dropped for one reason.
#[derive(Clone, Debug)]
pub(super) struct DropFigures {
    pub(super) direction: String,
    pub(super) reason: String,
    /// Packets per second.
    pub(super) rate: f64,
    /// Packets since the router's start.
    pub(super) total: f64,
}

/// What one peer did.
#[derive(Clone, Debug)]
pub(super) struct PeerFigures {
    /// The totals, with key, name and endpoint.
    pub(super) peer: PeerTotals,
    /// Time since the last handshake; `None` if there was none.
    pub(super) handshake: Option<Duration>,
    /// Bits per second from the peer.
    pub(super) received: f64,
    /// Bits per second to the peer.
    pub(super) sent: f64,
}

/// An order of peers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Order {
    /// The busiest first, both directions together.
    #[default]
    Rate,
    /// The one that sends us most first.
    Received,
    /// The one that we send most first.
    Sent,
    /// The latest handshake first.
    Handshake,
    /// By name, then by key.
    Name,
}

impl Order {
    /// Returns the next order, which the key `s` chooses.
    pub(super) fn next(self) -> Order {
        match self {
            Order::Rate => Order::Received,
            Order::Received => Order::Sent,
            Order::Sent => Order::Handshake,
            Order::Handshake => Order::Name,
            Order::Name => Order::Rate,
        }
    }

    /// Returns what the order is called on the screen.
    pub(super) fn name(self) -> &'static str {
        match self {
            Order::Rate => "rate",
            Order::Received => "in",
            Order::Sent => "out",
            Order::Handshake => "handshake",
            Order::Name => "name",
        }
    }

    /// Sorts `peers`. Equal peers are in the order of their names and keys.
    pub(super) fn sort(self, peers: &mut [PeerFigures], reversed: bool) {
        let names = |a: &PeerFigures, b: &PeerFigures| a.peer.label().cmp(b.peer.label());
        peers.sort_by(|a, b| {
            let order = match self {
                Order::Rate => (b.received + b.sent).total_cmp(&(a.received + a.sent)),
                Order::Received => b.received.total_cmp(&a.received),
                Order::Sent => b.sent.total_cmp(&a.sent),
                Order::Handshake => b.peer.handshake.total_cmp(&a.peer.handshake),
                Order::Name => Ordering::Equal,
            };
            let order = order.then_with(|| names(a, b));
            if reversed { order.reverse() } else { order }
        });
    }
}

impl PeerTotals {
    /// Returns the peer's name, or its key.
    pub(super) fn label(&self) -> &str {
        if self.name.is_empty() { &self.key } else { &self.name }
    }
}

impl Figures {
    /// Returns what happened between two readings of one router. If the router was restarted in between, all rates are
    /// zero.
    pub(super) fn between(before: &Totals, now: &Totals) -> Figures {
        // Start times are whole numbers of clock ticks; a restart moves them by more than a tenth of a second.
        let restarted = (before.started - now.started).abs() > 0.1;
        let before = if restarted { now } else { before };
        let over = Over(now.at.saturating_duration_since(before.at).as_secs_f64());
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let since = |moment: f64| {
            (moment > 0.0)
                .then(|| unix.saturating_sub(Duration::try_from_secs_f64(moment).unwrap_or_default()))
        };
        let queues: Vec<_> = now
            .queues
            .iter()
            .map(|(queue, now)| over.queue(*queue, before.queues.get(queue).unwrap_or(now), now))
            .collect();
        let threads = now.threads.iter().map(|(name, now)| {
            (name.clone(), over.rate(before.threads.get(name).copied().unwrap_or(*now), *now))
        });
        let mut drops: Vec<_> =
            now.drops.iter().map(|(cause, total)| over.drops(cause, before, *total)).collect();
        drops.retain(|drops| drops.total > 0.0);
        drops.sort_by(|a, b| b.rate.total_cmp(&a.rate).then(b.total.total_cmp(&a.total)));
        let old: std::collections::HashMap<_, _> =
            before.peers.iter().map(|peer| (peer.key.as_str(), peer)).collect();
        let peers: Vec<_> = now
            .peers
            .iter()
            .map(|peer| {
                let old = old.get(peer.key.as_str()).copied().unwrap_or(peer);
                PeerFigures {
                    handshake: since(peer.handshake),
                    received: 8.0 * over.rate(old.received, peer.received),
                    sent: 8.0 * over.rate(old.sent, peer.sent),
                    peer: peer.clone(),
                }
            })
            .collect();
        // Other implementations have no queues, but all count what peers send.
        let sum = |queue: fn(&QueueFigures) -> f64, peer: fn(&PeerFigures) -> f64| -> f64 {
            let sum: f64 =
                if queues.is_empty() { peers.iter().map(peer).sum() } else { queues.iter().map(queue).sum() };
            // The sum of no floats is -0.0, which would be shown as "-0".
            sum + 0.0
        };
        Figures {
            version: now.version.clone(),
            uptime: since(now.started),
            memory: now.memory,
            received: sum(|queue| queue.received, |peer| peer.received),
            sent: sum(|queue| queue.sent, |peer| peer.sent),
            dropped: drops.iter().map(|drops| drops.rate).sum::<f64>() + 0.0,
            threads: threads.collect(),
            // A gauge that counts is never negative.
            configured: (now.configured as isize).cast_unsigned(),
            queues,
            drops,
            peers,
        }
    }
}

/// The seconds between two readings.
#[derive(Clone, Copy)]
struct Over(f64);

impl Over {
    /// Returns the growth of a counter per second. A counter that shrank was started again, and counts as resting.
    fn rate(self, before: f64, now: f64) -> f64 {
        if self.0 > 0.0 { (now - before).max(0.0) / self.0 } else { 0.0 }
    }

    fn queue(self, queue: u32, before: &QueueTotals, now: &QueueTotals) -> QueueFigures {
        QueueFigures {
            queue,
            received: 8.0 * self.rate(before.written_bytes, now.written_bytes),
            sent: 8.0 * self.rate(before.read_bytes, now.read_bytes),
            packets_per_drain: now.drained.since(before.drained),
            segments_per_read: now.read.since(before.read),
            segments_per_write: now.written.since(before.written),
            datagrams_per_send: now.sent.since(before.sent),
            inside_cpu: self.rate(before.inside_cpu, now.inside_cpu),
            outside_cpu: self.rate(before.outside_cpu, now.outside_cpu),
            dropped: self.rate(before.drops, now.drops),
        }
    }

    fn drops(self, cause: &(String, String), before: &Totals, total: f64) -> DropFigures {
        // A reason that is new in this reading had dropped nothing before.
        let old = before.drops.get(cause).copied().unwrap_or_default();
        let (direction, reason) = cause.clone();
        DropFigures { direction, reason, rate: self.rate(old, total), total }
    }
}

impl Ratio {
    /// Returns the ratio of what was added since `before`, or `None` if nothing was.
    fn since(self, before: Ratio) -> Option<f64> {
        let (of, over) = (self.of - before.of, self.over - before.over);
        (over > 0.0 && of >= 0.0).then(|| of / over)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Instant;

    use super::*;
    use crate::metrics::exposition::Exposition;

    /// A scrape of a router that has moved `n` times 125,000 bytes each way.
    fn scrape(n: u32, started: u32) -> String {
        let (bytes, packets) = (n * 125_000, n * 100);
        format!(
            "process_start_time_seconds {started}\nlaneway_build_info{{version=\"0.1.0\"}} 1\n\
             laneway_peers{{series=\"own\"}} 2\nlaneway_peers{{series=\"none\"}} 1\n\
             laneway_tun_read_bytes_total{{queue=\"0\"}} {bytes}\n\
             laneway_tun_write_bytes_total{{queue=\"0\"}} {}\n\
             laneway_segments_total{{queue=\"0\",direction=\"outbound\"}} {packets}\n\
             laneway_segments_total{{queue=\"0\",direction=\"inbound\"}} 7\n\
             laneway_tun_read_superpackets_total{{queue=\"0\",kind=\"tso4\"}} {n}\n\
             laneway_tun_read_superpackets_total{{queue=\"0\",kind=\"none\"}} {n}\n\
             laneway_worker_cpu_seconds_total{{queue=\"0\",worker=\"inside\"}} {n}\n\
             laneway_worker_cpu_seconds_total{{worker=\"peers\"}} 0.5\n\
             laneway_dropped_packets_total{{direction=\"outbound\",reason=\"no_route\",queue=\"0\"}} {packets}\n\
             laneway_dropped_packets_total{{direction=\"inbound\",reason=\"replay\",queue=\"0\"}} 0\n\
             wireguard_sent_bytes_total{{public_key=\"A\",friendly_name=\"\",allowed_ips=\"10.0.0.1/32\"}} {bytes}\n\
             wireguard_received_bytes_total{{public_key=\"A\",friendly_name=\"\"}} 1\n\
             wireguard_sent_bytes_total{{public_key=\"B\",friendly_name=\"bee\"}} 9\n\
             wireguard_latest_handshake_seconds{{public_key=\"B\",friendly_name=\"bee\"}} 1000\n",
            2 * bytes
        )
    }

    /// The figures over two seconds.
    pub(in super::super) fn figures(before: (u32, u32), now: (u32, u32)) -> Figures {
        let at = Instant::now();
        let read = |at, (n, started)| Totals::of(at, &Exposition::parse(&scrape(n, started)).unwrap(), None);
        Figures::between(&read(at, before), &read(at + Duration::from_secs(2), now))
    }

    #[test]
    fn rates_are_of_the_time_between() {
        let figures = figures((1, 500), (3, 500));
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-6, "{a} is not {b}: {figures:?}");
        near(figures.sent, 1e6);
        near(figures.received, 2e6);
        near(figures.dropped, 100.0);
        let queue = &figures.queues[0];
        near(queue.inside_cpu, 1.0);
        near(queue.segments_per_read.unwrap(), 50.0);
        assert_eq!((queue.segments_per_write, queue.datagrams_per_send), (None, None));
        assert_eq!(figures.drops.len(), 1, "reasons that never happened are left out");
        assert_eq!((figures.configured, figures.peers.len()), (3, 2));
        near(figures.peers[0].sent, 1e6);
        assert_eq!(figures.peers[0].handshake, None);
        assert!(figures.peers[1].handshake.unwrap() > Duration::from_secs(1_000_000));
    }

    #[test]
    fn a_restart_is_no_burst_and_no_negative_rate() {
        for now in [(1, 900), (9, 900)] {
            let figures = figures((5, 500), now);
            let rates = [figures.sent, figures.received, figures.dropped, figures.queues[0].inside_cpu];
            assert!(rates.iter().all(|rate| *rate == 0.0), "{rates:?}");
        }
    }

    #[test]
    fn peers_are_sorted_in_each_order_and_reversed() {
        let sorted = |order: Order, reversed| {
            let mut peers = figures((1, 500), (3, 500)).peers;
            order.sort(&mut peers, reversed);
            peers.iter().map(|peer| peer.peer.key.clone()).collect::<String>()
        };
        for (order, expected) in
            [(Order::Rate, "AB"), (Order::Sent, "AB"), (Order::Handshake, "BA"), (Order::Name, "AB")]
        {
            assert_eq!(sorted(order, false), expected, "{order:?}");
            assert_eq!(sorted(order, true), expected.chars().rev().collect::<String>(), "{order:?}");
        }
        let orders: Vec<_> =
            std::iter::successors(Some(Order::default()), |order| Some(order.next())).take(6).collect();
        let names: Vec<_> = orders.iter().map(|order| order.name()).collect();
        assert_eq!(names.join(" "), "rate in out handshake name rate");
    }
}
