//! What can be asked of a running router, and what it answers: the one form that the configuration
//! file, SIGHUP and the UAPI socket all speak.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6, ToSocketAddrs};
use std::time::Duration;

use ipnet::IpNet;
use nix::net::if_::if_nametoindex;

use crate::wireguard::keys::{PresharedKey, PrivateKey, PublicKey};

/// A change of configuration. What is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceUpdate {
    /// A new private key, or `Some(None)` to have none.
    pub private_key: Option<Option<PrivateKey>>,
    /// The UDP port to listen on; 0 lets the kernel choose.
    pub listen_port: Option<u16>,
    /// The mark (`SO_MARK`) of what we send; 0 for none.
    pub fwmark: Option<u32>,
    /// Whether peers that [`peers`](Self::peers) does not name are removed. A peer that it names
    /// keeps its sessions and counters, but has no allowed IPs other than the named ones.
    pub replace_peers: bool,
    /// Changes of peers, to be made in this order. A peer can be named more than once.
    pub peers: Vec<PeerUpdate>,
}

/// A change of one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerUpdate {
    /// Which peer. One that is not known yet is added, unless `remove` or `update_only` is set.
    pub public_key: PublicKey,
    /// Remove the peer; the other fields have no meaning then.
    pub remove: bool,
    /// Do nothing if the peer is not known.
    pub update_only: bool,
    /// A new preshared key; all zeros for none.
    pub preshared_key: Option<PresharedKey>,
    /// Where to send to from now on.
    pub endpoint: Option<PeerEndpoint>,
    /// Seconds between keepalives; 0 for none.
    pub persistent_keepalive: Option<u16>,
    /// Whether the peer loses its allowed IPs before [`allowed_ips`](Self::allowed_ips) is looked at.
    pub replace_allowed_ips: bool,
    /// Changes of its allowed IPs, to be made in this order.
    pub allowed_ips: Vec<AllowedIpChange>,
}

impl PeerUpdate {
    /// A change of `public_key`'s peer that adds it if it is not known, and changes nothing else.
    pub const fn new(public_key: PublicKey) -> Self {
        PeerUpdate {
            public_key,
            remove: false,
            update_only: false,
            preshared_key: None,
            endpoint: None,
            persistent_keepalive: None,
            replace_allowed_ips: false,
            allowed_ips: Vec::new(),
        }
    }
}

/// An allowed IP that a peer gets, or loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllowedIpChange {
    /// The network, host bits zero.
    pub net: IpNet,
    /// Whether the peer loses it. If it is another peer's, nothing happens.
    pub remove: bool,
}

/// Where a peer can be reached, as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerEndpoint {
    /// An address.
    Address(SocketAddr),
    /// A host name, which may mean another address each time it is looked up.
    Name {
        /// The name.
        host: String,
        /// The UDP port.
        port: u16,
    },
}

impl PeerEndpoint {
    /// The address now. Looking up a name blocks.
    ///
    /// # Errors
    /// The name has no address, or no name server answers.
    pub fn resolve(&self) -> io::Result<SocketAddr> {
        match self {
            PeerEndpoint::Address(address) => Ok(*address),
            PeerEndpoint::Name { host, port } => {
                let no_address = || io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address"));
                (host.as_str(), *port).to_socket_addrs()?.next().ok_or_else(no_address)
            }
        }
    }
}

impl fmt::Display for PeerEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerEndpoint::Address(address) => address.fmt(f),
            PeerEndpoint::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// A router's configuration and counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceStatus {
    /// Our private key.
    pub private_key: Option<PrivateKey>,
    /// The UDP port we listen on.
    pub listen_port: u16,
    /// The mark of what we send; 0 for none.
    pub fwmark: u32,
    /// Every peer.
    pub peers: Vec<PeerStatus>,
}

/// One peer's configuration and counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Which peer.
    pub public_key: PublicKey,
    /// The preshared key; all zeros for none.
    pub preshared_key: PresharedKey,
    /// Where it was last heard from, or is configured to be.
    pub endpoint: Option<SocketAddr>,
    /// When the last handshake was done, since the UNIX epoch.
    pub last_handshake: Option<Duration>,
    /// Bytes sent to it, WireGuard's own included.
    pub sent_bytes: u64,
    /// Bytes received from it, WireGuard's own included.
    pub received_bytes: u64,
    /// Seconds between keepalives; 0 for none.
    pub persistent_keepalive: u16,
    /// What it may send from, and what is sent to it.
    pub allowed_ips: Vec<IpNet>,
}

/// Reads a network as `wg` does: an address without a length stands for itself alone, and host bits
/// are cleared.
pub(in crate::control) fn parse_network(text: &str) -> Option<IpNet> {
    parse_interface_address(text).map(|net| net.trunc())
}

/// Reads an address with an optional length, and keeps the host bits.
pub(super) fn parse_interface_address(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// Reads `192.0.2.1:51820` or `[fe80::1%2]:51820`.
pub(in crate::control) fn parse_address(text: &str) -> Option<SocketAddr> {
    text.parse().ok()
}

/// Reads `[fe80::1%eth0]:51820`, as `wg` writes it. The interface has to be there.
pub(in crate::control) fn parse_address_with_interface(text: &str) -> Option<SocketAddr> {
    let (address, rest) = text.strip_prefix('[')?.split_once('%')?;
    let (interface, port) = rest.split_once("]:")?;
    let scope = if_nametoindex(interface).ok()?;
    Some(SocketAddrV6::new(address.parse().ok()?, port.parse().ok()?, 0, scope).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_may_lack_its_length_and_have_host_bits() {
        for (text, net) in [
            ("10.1.2.3", "10.1.2.3/32"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("fd00::1", "fd00::1/128"),
            ("fd00::1/64", "fd00::/64"),
            ("0.0.0.0/0", "0.0.0.0/0"),
        ] {
            assert_eq!(parse_network(text).unwrap().to_string(), net);
        }
        for text in ["", "10.0.0.0/33", "fd00::/129", "10.0.0/8", "10.0.0.1/-1", "x"] {
            assert_eq!(parse_network(text), None, "{text}");
        }
    }

    #[test]
    fn the_scope_of_an_address_may_be_the_name_of_an_interface() {
        let scope = if_nametoindex("lo").unwrap();
        let scoped = SocketAddrV6::new("fe80::1".parse().unwrap(), 51820, 0, scope).into();
        assert_eq!(parse_address_with_interface("[fe80::1%lo]:51820"), Some(scoped));
        for text in
            ["[fe80::1%]:1", "[fe80::1%nobody]:1", "[fe80::1%lo]", "[%lo]:1", "fe80::1%lo:1", "[x%lo]:1"]
        {
            assert_eq!(parse_address_with_interface(text), None, "{text}");
        }
    }

    #[test]
    fn an_address_is_its_own_resolution() {
        let address: SocketAddr = "[fe80::1%2]:51820".parse().unwrap();
        assert_eq!(PeerEndpoint::Address(address).resolve().unwrap(), address);
    }
}
