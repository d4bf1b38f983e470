//! Allowed IPs: maps an inner address to its peer by longest prefix match.
//!
//! One table for all peers serves both directions of cryptokey routing (whitepaper section 2):
//! outbound it selects the peer for a packet read from the TUN; inbound it verifies that the source
//! address of an opened packet belongs to the peer that sent the packet.

use std::net::IpAddr;

use ipnet::IpNet;
use prefix_trie::joint::JointPrefixMap;

/// Longest-prefix-match table of IPv4 and IPv6 prefixes, each with its owner.
///
/// Workers read an immutable table; to change it, its owner modifies a copy and publishes the copy.
#[derive(Clone, Debug)]
pub struct Routes<T> {
    map: JointPrefixMap<IpNet, T>,
}

impl<T> Default for Routes<T> {
    fn default() -> Self {
        Self { map: JointPrefixMap::default() }
    }
}

impl<T> Routes<T> {
    /// Assigns `net` to `owner` and returns the previous owner of exactly this prefix, which loses it,
    /// as in every WireGuard implementation. Host bits of `net` are ignored.
    pub fn insert(&mut self, net: IpNet, owner: T) -> Option<T> {
        self.map.insert(net.trunc(), owner)
    }

    /// Removes exactly the prefix `net` and returns its owner. Host bits of `net` are ignored.
    pub fn remove(&mut self, net: IpNet) -> Option<T> {
        self.map.remove(&net.trunc())
    }

    /// Returns the owner of exactly the prefix `net`. Host bits of `net` are ignored.
    pub fn get(&self, net: IpNet) -> Option<&T> {
        self.map.get(&net.trunc())
    }

    /// Returns the owner of the longest prefix that contains `address`.
    #[inline]
    pub fn lookup(&self, address: IpAddr) -> Option<&T> {
        self.map.get_lpm(&IpNet::from(address)).map(|(_, owner)| owner)
    }

    /// Iterates over all prefixes and their owners.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, &T)> {
        self.map.iter()
    }

    /// Returns the number of prefixes.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Returns whether the table has no prefixes.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn net() -> impl Strategy<Value = IpNet> {
        // Few distinct addresses, so that prefixes often nest and collide.
        prop_oneof![
            (0_u32..64, 0_u8..=32).prop_map(|(low, len)| {
                IpNet::new(IpAddr::V4((0x0a00_0000 | low << 20 | low).into()), len).unwrap()
            }),
            (0_u128..64, 0_u8..=128).prop_map(|(low, len)| {
                IpNet::new(IpAddr::V6((0xfd << 120 | low << 90 | low).into()), len).unwrap()
            }),
        ]
    }

    proptest! {
        #[test]
        fn lookups_agree_with_a_naive_list(
            changes in prop::collection::vec((net(), 0_u8..8, any::<bool>()), 0..60),
            asked in prop::collection::vec(net(), 1..20),
        ) {
            let mut routes = Routes::default();
            let mut naive: Vec<(IpNet, u8)> = Vec::new();
            for (net, owner, add) in changes {
                naive.retain(|(other, _)| *other != net.trunc());
                if add {
                    routes.insert(net, owner);
                    naive.push((net.trunc(), owner));
                } else {
                    routes.remove(net);
                }
            }
            prop_assert_eq!(routes.len(), naive.len());
            for address in asked.into_iter().map(|net| net.addr()) {
                let longest = naive.iter().filter(|(net, _)| net.contains(&address))
                    .max_by_key(|(net, _)| net.prefix_len()).map(|(_, owner)| owner);
                prop_assert_eq!(routes.lookup(address), longest);
            }
        }
    }
}
