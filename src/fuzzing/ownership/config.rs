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
    /// Whether each remote is a peer.
    pub(super) peers: [bool; REMOTES],
    /// Prefixes with their owners.
    nets: Vec<(IpNet, usize)>,
}

impl Config {
    /// Adds a peer, if it is not there yet.
    pub(super) fn add(&mut self, remote: usize) {
        self.peers[remote] = true;
    }

    /// Removes a peer with its prefixes.
    pub(super) fn remove(&mut self, remote: usize) {
        self.peers[remote] = false;
        self.take_all(remote);
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
}
