//! What a reload changes, as counts for the log.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};

use ipnet::IpNet;

use super::update::DeviceUpdate;
use crate::wireguard::keys::PublicKey;

/// The peers and allowed IPs of a configuration, without its secrets.
#[derive(Debug, Default)]
pub struct Outline {
    /// A hash of each peer's settings.
    peers: HashMap<PublicKey, u64>,
    owners: HashMap<IpNet, PublicKey>,
}

impl Outline {
    /// Returns the outline of `update`. Outlines can be compared if they have the same `hasher`. If a peer or
    /// network is listed twice, the last one counts.
    pub fn of(update: &DeviceUpdate, hasher: &RandomState) -> Self {
        let mut outline = Outline::default();
        for peer in &update.peers {
            outline.peers.insert(peer.public_key, hasher.hash_one(peer));
            outline.owners.extend(peer.allowed_ips.iter().map(|change| (change.net, peer.public_key)));
        }
        outline
    }
}

/// Numbers of peers and allowed IPs that differ between two configurations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Peers and allowed IPs that are new.
    pub added: [usize; 2],
    /// Peers and allowed IPs that are gone.
    pub removed: [usize; 2],
    /// Peers with different settings, and allowed IPs that have moved to another peer.
    pub changed: [usize; 2],
}

impl Changes {
    /// Compares two configurations of all peers.
    pub fn between(before: &Outline, after: &Outline) -> Self {
        let [peers, nets] = [counts(&before.peers, &after.peers), counts(&before.owners, &after.owners)];
        Changes { added: [peers[0], nets[0]], removed: [peers[1], nets[1]], changed: [peers[2], nets[2]] }
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Changes { added, removed, changed } = self;
        write!(
            f,
            "peers: {} added, {} removed, {} changed; allowed IPs: {} added, {} removed, {} moved",
            added[0], removed[0], changed[0], added[1], removed[1], changed[1]
        )
    }
}

/// Returns how many entries are new, gone and different.
fn counts<K: Eq + std::hash::Hash, V: PartialEq>(
    before: &HashMap<K, V>,
    after: &HashMap<K, V>,
) -> [usize; 3] {
    let missing =
        |from: &HashMap<K, V>, of: &HashMap<K, V>| of.keys().filter(|key| !from.contains_key(key)).count();
    let different = after.iter().filter(|(key, value)| before.get(key).is_some_and(|old| old != *value));
    [missing(before, after), missing(after, before), different.count()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::update::{AllowedIpChange, PeerUpdate};
    use crate::wireguard::keys::PresharedKey;

    #[test]
    fn peers_and_networks_are_counted() {
        let peer = |byte, nets: &[&str]| PeerUpdate {
            allowed_ips: nets
                .iter()
                .map(|net| AllowedIpChange { net: net.parse().unwrap(), remove: false })
                .collect(),
            ..PeerUpdate::new(PublicKey::from_bytes([byte; 32]))
        };
        let hasher = RandomState::new();
        let update = |peers| Outline::of(&DeviceUpdate { peers, ..DeviceUpdate::default() }, &hasher);
        let before =
            update(vec![peer(1, &["10.1.0.0/16", "10.2.0.0/16"]), peer(2, &["10.3.0.0/16"]), peer(3, &[])]);
        let after =
            update(vec![peer(1, &["10.1.0.0/16"]), peer(2, &["10.2.0.0/16", "10.4.0.0/16"]), peer(4, &[])]);
        let told = "peers: 1 added, 1 removed, 2 changed; allowed IPs: 1 added, 1 removed, 1 moved";
        assert_eq!(Changes::between(&before, &after).to_string(), told);
        assert_eq!(Changes::between(&after, &after), Changes::default());
        let preshared = |byte| {
            let preshared_key = Some(PresharedKey::from_bytes([byte; 32]));
            update(vec![PeerUpdate { preshared_key, ..peer(1, &[]) }])
        };
        let changes = Changes::between(&preshared(1), &preshared(2));
        assert_eq!(changes, Changes { changed: [1, 0], ..Changes::default() });
    }
}
