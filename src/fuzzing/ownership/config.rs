//! What the router is told, as a plain list: whose prefixes are whose.

use std::net::IpAddr;

use ipnet::IpNet;

/// Number of remote peers.
pub(super) const REMOTES: usize = 4;

/// The prefixes that peers get. They overlap.
pub(super) const NETS: [&str; 8] = [
    "10.0.0.0/24",
    "10.0.0.0/29",
    "10.0.1.0/24",
    "10.0.1.7/32",
    "0.0.0.0/0",
    "fd00::/64",
    "fd00::8/125",
    "10.0.0.0/16",
];

/// The addresses that packets are for, and claim to be from.
pub(super) const ADDRESSES: [&str; 8] =
    ["10.0.0.1", "10.0.0.77", "10.0.1.7", "10.0.1.8", "10.0.9.9", "fd00::1", "fd00::9", "192.168.3.4"];

/// The peers and their allowed IPs at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Config {
    /// The peers: which one in the order of additions, for each remote that is a peer.
    peers: [Option<u64>; REMOTES],
    /// Number of peers added so far.
    added: u64,
    /// Prefixes with their owners.
    nets: Vec<(IpNet, usize)>,
}

impl Config {
    /// Adds a peer, if it is not there yet.
    pub(super) fn add(&mut self, remote: usize) {
        if self.peers[remote].is_none() {
            self.added += 1;
            self.peers[remote] = Some(self.added);
        }
    }

    /// Removes a peer with its prefixes.
    pub(super) fn remove(&mut self, remote: usize) {
        self.peers[remote] = None;
        self.take_all(remote);
    }

    /// Removes all prefixes, and all peers except those of `remotes`, one bit for each.
    pub(super) fn keep(&mut self, remotes: u8) {
        for remote in (0..REMOTES).filter(|remote| remotes & 1 << remote == 0) {
            self.peers[remote] = None;
        }
        self.nets.clear();
    }

    /// Returns whether a remote is a peer.
    pub(super) fn has(&self, remote: usize) -> bool {
        self.peers[remote].is_some()
    }

    /// Gives `net` to a peer, and takes it from whoever had it.
    pub(super) fn give(&mut self, net: IpNet, remote: usize) {
        self.nets.retain(|(other, _)| *other != net);
        self.nets.push((net, remote));
    }

    /// Takes `net` from a peer, if that peer has it.
    pub(super) fn take(&mut self, net: IpNet, remote: usize) {
        self.nets.retain(|entry| *entry != (net, remote));
    }

    /// Takes all prefixes from a peer.
    pub(super) fn take_all(&mut self, remote: usize) {
        self.nets.retain(|(_, owner)| *owner != remote);
    }

    /// Returns the peer with the longest prefix of `address`.
    pub(super) fn owner(&self, address: IpAddr) -> Option<usize> {
        let fitting = self.nets.iter().filter(|(net, _)| net.contains(&address));
        fitting.max_by_key(|(net, _)| net.prefix_len()).map(|(_, owner)| *owner)
    }

    /// Returns the peer that a packet for `address` waits for, or goes to.
    pub(super) fn holder(&self, address: IpAddr) -> Option<Holder> {
        let remote = self.owner(address)?;
        Some(Holder { remote, added: self.peers[remote]? })
    }

    /// Returns the peer that a packet for `address` waits for next, if it has waited for `holder`: nobody if that peer
    /// was removed since.
    pub(super) fn next_holder(&self, holder: Holder, address: IpAddr) -> Option<Holder> {
        self.holder(address).filter(|_| self.peers[holder.remote] == Some(holder.added))
    }
}

/// A peer. A remote that is removed and added again is another peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) remote: usize,
    added: u64,
}
