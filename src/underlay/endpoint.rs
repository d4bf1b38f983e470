//! Endpoints: a peer's address and the local address to send from.

use std::net::{IpAddr, SocketAddr};

/// A peer's UDP address and the local address to reach it from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The peer's address and port. Never a v4-mapped IPv6 address: IPv4 is always plain.
    pub address: SocketAddr,
    /// The local address to send from. If `None`, the routing table selects it.
    pub source: Option<LocalSource>,
}

impl Endpoint {
    /// Creates an endpoint without a source address, as configuration supplies it. Converts a v4-mapped
    /// address to plain IPv4.
    pub fn new(address: SocketAddr) -> Self {
        let ip = address.ip().to_canonical();
        let address = if ip == address.ip() { address } else { SocketAddr::new(ip, address.port()) };
        Endpoint { address, source: None }
    }

    /// Returns the endpoint without its source address, so that the routing table selects one.
    #[must_use]
    pub fn without_source(self) -> Self {
        Endpoint { source: None, ..self }
    }
}

/// The local address that a datagram was sent to, used as the source of replies ("sticky source"). A
/// peer behind a NAT or a firewall accepts replies only from the address that it sent to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalSource {
    /// The local address.
    pub ip: IpAddr,
    /// Index of the interface that received the datagram.
    ///
    /// Sends specify it only for IPv6 link-local addresses, which are ambiguous without it. For all
    /// others the routing table selects the interface: on a host with asymmetric routes, a peer may not
    /// be reachable through the interface that received its datagram.
    pub ifindex: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_v4_mapped_address_is_presented_as_plain_ipv4() {
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:51820".parse().unwrap();
        assert_eq!(Endpoint::new(mapped).address, "192.0.2.1:51820".parse().unwrap());
    }

    #[test]
    fn the_scope_of_a_link_local_address_is_kept() {
        let scoped: SocketAddr = "[fe80::1%7]:51820".parse().unwrap();
        assert_eq!(Endpoint::new(scoped).address, scoped);
    }
}
