//! Where a peer is, and which of our own addresses it talks to.

use std::net::{IpAddr, SocketAddr};

/// One end of the path to a peer as the underlay sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The peer's address and port. A v4-mapped IPv6 address never appears here: it is plain IPv4.
    pub address: SocketAddr,
    /// The local address to send from, if one is known; otherwise routing picks it.
    pub source: Option<LocalSource>,
}

impl Endpoint {
    /// An endpoint with no known source, as configuration gives it. A v4-mapped address becomes
    /// plain IPv4.
    pub fn new(address: SocketAddr) -> Self {
        let ip = address.ip().to_canonical();
        let address = if ip == address.ip() { address } else { SocketAddr::new(ip, address.port()) };
        Endpoint { address, source: None }
    }

    /// The same endpoint, with routing to pick the source.
    #[must_use]
    pub fn without_source(self) -> Self {
        Endpoint { source: None, ..self }
    }
}

/// The local address that a datagram came to, to answer from ("sticky source"): a peer behind a NAT
/// or a firewall only takes answers from the address that it addressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalSource {
    /// The local address.
    pub ip: IpAddr,
    /// The interface the datagram came in by.
    ///
    /// Sends name it only for IPv6 link-local addresses, which mean nothing without it. For others
    /// the routing table picks the interface: a host whose routes are asymmetric would otherwise
    /// look for a distant peer on the link the datagram came in by.
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
