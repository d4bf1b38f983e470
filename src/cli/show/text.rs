//! Formats a device as `wg show` does (wg(8)).

use std::fmt;
use std::time::Duration;

use crate::config::update::{DeviceStatus, PeerStatus, ScopedByName};
use crate::metrics::exposition::Exposition;
use crate::wireguard::suite::Suite;

/// Everything shown about one device.
#[derive(Clone, Copy)]
pub(super) struct ShownInterface<'a> {
    /// The interface name.
    pub(super) interface: &'a str,
    /// Configuration and counters.
    pub(super) status: &'a DeviceStatus,
    /// The device's metrics; empty for other implementations.
    pub(super) metrics: &'a Exposition,
    /// The current time since the UNIX epoch.
    pub(super) now: Duration,
    /// Whether private and preshared keys are shown.
    pub(super) secrets: Secrets,
}

/// Whether secrets are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Secrets {
    /// Prints `(hidden)` in place of a key.
    Hidden,
    /// Prints keys in base64.
    Shown,
}

/// Counts of one queue since the start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counts {
    /// Segments sent to peers.
    pub(super) sent: u64,
    /// Superpackets read from the TUN.
    pub(super) reads: u64,
    /// Segments received from peers.
    pub(super) received: u64,
    /// Superpackets written to the TUN.
    pub(super) writes: u64,
    /// Packets dropped.
    pub(super) dropped: u64,
}

impl fmt::Display for ShownInterface<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "interface: {}", self.interface)?;
        if let Some(key) = &self.status.private_key {
            writeln!(f, "  public key: {}", key.public_key())?;
            writeln!(f, "  private key: {}", self.secret(&key.to_base64()))?;
        }
        if self.status.listen_port != 0 {
            writeln!(f, "  listening port: {}", self.status.listen_port)?;
        }
        if self.status.fwmark != 0 {
            writeln!(f, "  fwmark: {:#x}", self.status.fwmark)?;
        }
        if let Some((mtu, source)) = self.mtu() {
            writeln!(f, "  mtu: {mtu} (from: {source})")?;
        }
        for queue in self.queues() {
            self.write_queue(f, &queue)?;
        }
        let mut peers: Vec<_> = self.status.peers.iter().collect();
        // The peer with the latest handshake comes first.
        peers.sort_by_key(|peer| std::cmp::Reverse(peer.last_handshake));
        for peer in peers {
            self.write_peer(f, peer)?;
        }
        Ok(())
    }
}

impl ShownInterface<'_> {
    fn secret<'s>(&self, text: &'s str) -> &'s str {
        if self.secrets == Secrets::Shown { text } else { "(hidden)" }
    }

    /// Returns the MTU in bytes and what sets it, if the metrics tell it.
    pub(super) fn mtu(&self) -> Option<(u64, &str)> {
        let sample = self.metrics.select("laneway_tun_mtu_bytes", &[]).next()?;
        // An MTU is never negative.
        Some(((sample.value as i64).cast_unsigned(), sample.label("source")?))
    }

    /// Returns the queue numbers found in the metrics, in ascending order.
    pub(super) fn queues(&self) -> Vec<String> {
        let mut queues: Vec<_> = self.metrics.values_of("queue").into_iter().map(str::to_owned).collect();
        queues.sort_by_key(|queue| queue.parse::<u32>().unwrap_or(u32::MAX));
        queues
    }

    /// Returns the counts of one queue.
    pub(super) fn counts(&self, queue: &str) -> Counts {
        let sum = |name: &str, more: &[(&str, &str)]| {
            let labels = [&[("queue", queue)], more].concat();
            self.metrics.sum(name, &labels)
        };
        // A sum of counters is never negative.
        let sum = |name: &str, more: &[(&str, &str)]| (sum(name, more) as i64).cast_unsigned();
        Counts {
            sent: sum("laneway_segments_total", &[("direction", "outbound")]),
            reads: sum("laneway_tun_read_superpackets_total", &[]),
            received: sum("laneway_segments_total", &[("direction", "inbound")]),
            writes: sum("laneway_tun_write_superpackets_total", &[]),
            dropped: sum("laneway_dropped_packets_total", &[]),
        }
    }

    fn write_queue(&self, f: &mut fmt::Formatter<'_>, queue: &str) -> fmt::Result {
        let Counts { sent, reads, received, writes, dropped } = self.counts(queue);
        writeln!(
            f,
            "  queue {queue}: {sent} segments sent from {reads} reads, {received} segments received to {writes} \
             writes, {dropped} dropped"
        )
    }

    fn write_peer(&self, f: &mut fmt::Formatter<'_>, peer: &PeerStatus) -> fmt::Result {
        writeln!(f, "\npeer: {}", peer.public_key)?;
        if !peer.preshared_key.is_zero() {
            writeln!(f, "  preshared key: {}", self.secret(&peer.preshared_key.to_base64()))?;
        }
        if peer.suite != Suite::default() {
            writeln!(f, "  suite: {}", peer.suite)?;
        }
        if let Some(endpoint) = peer.endpoint {
            writeln!(f, "  endpoint: {}", ScopedByName(endpoint))?;
        }
        let allowed_ips: Vec<_> = peer.allowed_ips.iter().map(ToString::to_string).collect();
        let allowed_ips = if allowed_ips.is_empty() { "(none)".to_owned() } else { allowed_ips.join(", ") };
        writeln!(f, "  allowed ips: {allowed_ips}")?;
        if let Some(handshake) = peer.last_handshake {
            writeln!(f, "  latest handshake: {}", Ago { since: handshake, now: self.now })?;
        }
        let (received, sent) = (peer.received_bytes, peer.sent_bytes);
        if received != 0 || sent != 0 {
            writeln!(f, "  transfer: {} received, {} sent", Bytes(received), Bytes(sent))?;
        }
        if peer.persistent_keepalive != 0 {
            let every = Span(u64::from(peer.persistent_keepalive));
            writeln!(f, "  persistent keepalive: every {every}")?;
        }
        Ok(())
    }
}

/// Formats a number of bytes in the largest suitable unit.
struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
        if self.0 < 1 << 10 {
            return write!(f, "{} B", self.0);
        }
        let power = (self.0.ilog2() as usize / 10).min(UNITS.len());
        write!(f, "{:.2} {}", self.0 as f64 / (1_u64 << (10 * power)) as f64, UNITS[power - 1])
    }
}

/// Formats how long ago `since` was. Both times are since the UNIX epoch; only whole seconds count.
struct Ago {
    since: Duration,
    now: Duration,
}

impl fmt::Display for Ago {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.now.as_secs().checked_sub(self.since.as_secs()) {
            None => f.write_str("(System clock wound backward; connection problems may ensue.)"),
            Some(0) => f.write_str("Now"),
            Some(seconds) => write!(f, "{} ago", Span(seconds)),
        }
    }
}

/// Formats a number of seconds in years, days, hours, minutes and seconds, omitting zero parts.
struct Span(u64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 5] = [
            (365 * 24 * 60 * 60, "year"),
            (24 * 60 * 60, "day"),
            (60 * 60, "hour"),
            (60, "minute"),
            (1, "second"),
        ];
        let mut left = self.0;
        let mut separator = "";
        for (seconds, unit) in UNITS {
            let count = left / seconds;
            left %= seconds;
            if count > 0 {
                let plural = if count == 1 { "" } else { "s" };
                write!(f, "{separator}{count} {unit}{plural}")?;
                separator = ", ";
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wireguard::keys::{PresharedKey, PrivateKey, PublicKey};

    #[test]
    fn a_device_is_told_as_wg_tells_it_with_a_line_for_each_queue() {
        let peer = |byte, handshake| PeerStatus {
            last_handshake: handshake,
            ..PeerStatus::new(PublicKey::from_bytes([byte; 32]))
        };
        let heard = PeerStatus {
            preshared_key: PresharedKey::from_bytes([1; 32]),
            endpoint: Some("[fe80::1%1]:51820".parse().unwrap()),
            sent_bytes: 1536,
            received_bytes: 7,
            persistent_keepalive: 61,
            allowed_ips: vec!["10.0.0.0/24".parse().unwrap(), "fd00::2/128".parse().unwrap()],
            ..peer(3, Some(Duration::new(1000, 5)))
        };
        let key = PrivateKey::from_bytes([9; 32]);
        let status = DeviceStatus {
            private_key: Some(key.clone()),
            listen_port: 51820,
            fwmark: 0xca6c,
            peers: vec![peer(1, None), peer(2, Some(Duration::from_secs(900))), heard],
        };
        let metrics = Exposition::parse(
            "laneway_segments_total{queue=\"10\",direction=\"outbound\"} 5\n\
             laneway_segments_total{queue=\"2\",direction=\"inbound\"} 6\n\
             laneway_tun_read_superpackets_total{queue=\"10\",kind=\"tso4\"} 2\n\
             laneway_tun_read_superpackets_total{queue=\"10\",kind=\"none\"} 1\n\
             laneway_tun_write_superpackets_total{queue=\"2\",kind=\"none\"} 4\n\
             laneway_dropped_packets_total{queue=\"2\",direction=\"inbound\",reason=\"replay\"} 1\n\
             laneway_tun_mtu_bytes{source=\"route\"} 1370\n",
        )
        .unwrap();
        let now = Duration::from_secs(1000 + 3661);
        let device = ShownInterface {
            interface: "wg0",
            status: &status,
            metrics: &metrics,
            now,
            secrets: Secrets::Hidden,
        };
        let [first, second, third] = [3, 2, 1].map(|byte| PublicKey::from_bytes([byte; 32]));
        let expected = format!(
            "interface: wg0\n  public key: {}\n  private key: (hidden)\n  listening port: 51820\n  fwmark: 0xca6c\n  \
             mtu: 1370 (from: route)\n  queue 2: 0 segments sent from 0 reads, 6 segments received to 4 writes, 1 dropped\n  \
             queue 10: 5 segments sent from 3 reads, 0 segments received to 0 writes, 0 dropped\n\n\
             peer: {first}\n  preshared key: (hidden)\n  endpoint: [fe80::1%lo]:51820\n  \
             allowed ips: 10.0.0.0/24, fd00::2/128\n  latest handshake: 1 hour, 1 minute, 1 second ago\n  \
             transfer: 7 B received, 1.50 KiB sent\n  persistent keepalive: every 1 minute, 1 second\n\n\
             peer: {second}\n  allowed ips: (none)\n  latest handshake: 1 hour, 2 minutes, 41 seconds ago\n\n\
             peer: {third}\n  allowed ips: (none)\n",
            key.public_key()
        );
        assert_eq!(device.to_string(), expected);
        let shown = ShownInterface { secrets: Secrets::Shown, ..device }.to_string();
        assert!(shown.contains(&format!("private key: {}\n", *key.to_base64())), "{shown}");
    }

    #[test]
    fn bytes_and_times_are_in_the_largest_unit_there_is() {
        let bytes = [0, 1023, 1024, 1 << 20, 3 << 29, 5 << 40, u64::MAX].map(|n| Bytes(n).to_string());
        assert_eq!(
            bytes,
            ["0 B", "1023 B", "1.00 KiB", "1.00 MiB", "1.50 GiB", "5.00 TiB", "16777216.00 TiB"]
        );
        let ago =
            |since, now| Ago { since: Duration::from_secs(since), now: Duration::from_secs(now) }.to_string();
        assert_eq!(ago(5, 5), "Now");
        assert_eq!(ago(0, 366 * 86_400), "1 year, 1 day ago");
        assert!(ago(6, 5).starts_with("(System clock"));
    }
}
