//! Metrics of each peer, with the names and labels that existing WireGuard dashboards use.
//!
//! One series per peer suits tens of peers but strains Prometheus at tens of thousands, so the number of peers
//! with series is limited. The peers in the lowest slots have series, which are those configured first until
//! slots are reused. `laneway_peers` reports how many peers have none.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ipnet::IpNet;

use crate::lane::peers::{PeerRecord, Peers, Snapshot};
use crate::metrics::{Collector, Page};

/// Default of `LANEWAY_METRICS_PEERS`, the maximum number of peers with series of their own.
pub const PEER_LIMIT: usize = 1000;

/// Maximum number of allowed IPs in a label. The label gives the number of those left out.
const NETS_IN_LABEL: usize = 32;

/// Collector for the peers of one router.
#[derive(Debug)]
pub struct PeerMetrics {
    /// The interface's name.
    pub interface: String,
    /// The router's peers.
    pub peers: Arc<Peers>,
    /// Maximum number of peers with series of their own.
    pub limit: usize,
}

impl Collector for PeerMetrics {
    fn collect(&self, page: &mut Page) {
        let snapshot = self.peers.load();
        let configured = snapshot.peers.iter().flatten().count();
        let shown: Vec<_> = snapshot.peers.iter().flatten().take(self.limit).collect();
        page.sample("laneway_interface_info", &[("interface", &self.interface)], 1);
        page.sample("laneway_peers", &[("series", "own")], shown.len());
        page.sample("laneway_peers", &[("series", "none")], configured - shown.len());
        let nets = nets_by_peer(&snapshot);
        for peer in shown {
            self.show(peer, &nets[peer.id.slot()], page);
        }
    }
}

impl PeerMetrics {
    fn show(&self, peer: &PeerRecord, nets: &[IpNet], page: &mut Page) {
        let (key, nets) = (peer.public_key.to_string(), listed(nets));
        let name = peer.friendly_name.load();
        let labels = [
            ("interface", self.interface.as_str()),
            ("public_key", &key),
            ("allowed_ips", &nets),
            ("friendly_name", name.as_ref().map_or("", |name| name.as_str())),
        ];
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        page.sample("wireguard_sent_bytes_total", &labels, count(&peer.sent_bytes));
        page.sample("wireguard_received_bytes_total", &labels, count(&peer.received_bytes));
        page.sample("wireguard_latest_handshake_seconds", &labels, count(&peer.last_handshake));
    }
}

fn nets_by_peer(snapshot: &Snapshot) -> Vec<Vec<IpNet>> {
    let mut nets = vec![Vec::new(); snapshot.peers.len()];
    for (net, owner) in snapshot.routes.iter() {
        nets[owner.id.slot()].push(net);
    }
    nets
}

/// Formats allowed IPs for a label: `10.0.0.0/24,fd00::/64`, followed by `,+N` if `N` are left out.
fn listed(nets: &[IpNet]) -> String {
    let mut text = String::new();
    for net in nets.iter().take(NETS_IN_LABEL) {
        let _ = write!(text, "{}{net}", if text.is_empty() { "" } else { "," });
    }
    if nets.len() > NETS_IN_LABEL {
        let _ = write!(text, ",+{}", nets.len() - NETS_IN_LABEL);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Registry;
    use crate::metrics::exposition::Exposition;
    use crate::units::PeerId;
    use crate::wireguard::keys::PublicKey;

    fn scrape(peers: u32, nets: u8, limit: usize) -> Exposition {
        let mut snapshot = Snapshot::default();
        for id in 0..peers {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&id.to_be_bytes());
            let peer = Arc::new(PeerRecord::new(PeerId(id.into()), PublicKey::from_bytes(key), false));
            peer.friendly_name.store(Some(Arc::new(format!("\"{id}\""))));
            peer.sent_bytes.store(7, Ordering::Relaxed);
            for net in 0..nets {
                let [_, _, high, low] = id.to_be_bytes();
                let net: IpNet = format!("{}.{high}.{low}.0/24", net + 1).parse().unwrap();
                snapshot.routes.insert(net, Arc::clone(&peer));
            }
            snapshot.peers.push(Some(peer));
        }
        let registry = Registry::new();
        let peers = Arc::new(Peers::from_pointee(snapshot));
        registry.collect_from(PeerMetrics { interface: "wg7".into(), peers, limit });
        Exposition::parse(&registry.render()).unwrap()
    }

    #[test]
    fn a_peer_has_the_labels_that_dashboards_expect() {
        let scrape = scrape(1, 2, 10);
        let sample = scrape.select("wireguard_sent_bytes_total", &[]).next().unwrap();
        assert_eq!(sample.label("interface"), Some("wg7"));
        assert_eq!(sample.label("public_key"), Some("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="));
        assert_eq!(sample.label("allowed_ips"), Some("1.0.0.0/24,2.0.0.0/24"));
        assert_eq!(sample.label("friendly_name"), Some("\"0\""));
        assert!((sample.value - 7.0).abs() < 0.5);
    }

    #[test]
    fn ten_thousand_peers_have_no_more_series_than_the_limit_and_the_rest_is_told() {
        let scrape = scrape(10_000, 1, PEER_LIMIT);
        assert_eq!(scrape.select("wireguard_sent_bytes_total", &[]).count(), PEER_LIMIT);
        assert!((scrape.sum("laneway_peers", &[("series", "none")]) - 9000.0).abs() < 0.5);
        assert!((scrape.sum("laneway_peers", &[]) - 10_000.0).abs() < 0.5);
    }

    #[test]
    fn a_label_names_so_many_networks_and_counts_the_rest() {
        let scrape = scrape(1, 40, 10);
        let sample = scrape.select("wireguard_sent_bytes_total", &[]).next().unwrap();
        let nets = sample.label("allowed_ips").unwrap();
        assert!(nets.ends_with(",+8") && nets.matches('/').count() == 32, "{nets}");
    }
}
