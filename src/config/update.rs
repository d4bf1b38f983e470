//! Configuration changes and status of a running router, in the form shared by the configuration file, SIGHUP and
//! the UAPI socket.

use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use ipnet::IpNet;
use nix::net::if_::{if_indextoname, if_nametoindex};

use crate::wireguard::keys::{PresharedKey, PrivateKey, PublicKey};
use crate::wireguard::suite::Suite;

/// A change to a router's configuration. Fields that are `None` leave the setting as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceUpdate {
    /// The new private key; `Some(None)` removes it.
    pub private_key: Option<Option<PrivateKey>>,
    /// The UDP port to listen on; 0 lets the kernel choose.
    pub listen_port: Option<u16>,
    /// The mark (`SO_MARK`) of datagrams we send; 0 for none.
    pub fwmark: Option<u32>,
    /// Whether to remove peers that [`peers`](Self::peers) does not name. Named peers keep their sessions and
    /// counters, but only the allowed IPs given there.
    pub replace_peers: bool,
    /// With [`replace_peers`](Self::replace_peers), whether a peer named without an endpoint keeps the one it has.
    /// The configuration file sets this, because the peer may have roamed since the file was last read. A request on
    /// the UAPI socket does not: clients expect the state they asked for, as from the kernel.
    pub keep_endpoints: bool,
    /// Changes to peers, applied in order. A peer may be named more than once.
    pub peers: Vec<PeerUpdate>,
}

impl DeviceUpdate {
    /// Forgets all keys, and keeps the other settings.
    pub(crate) fn forget_secrets(&mut self) {
        self.private_key = None;
        for peer in &mut self.peers {
            peer.preshared_key = None;
        }
    }

    /// Returns whether the change sets a private key or preshared keys.
    pub(crate) fn has_secrets(&self) -> bool {
        let preshared = self.peers.iter().filter_map(|peer| peer.preshared_key.as_ref());
        matches!(self.private_key, Some(Some(_))) || preshared.into_iter().any(|key| !key.is_zero())
    }
}

/// A change to one peer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerUpdate {
    /// The peer's public key. An unknown peer is added, unless `remove` or `update_only` is set.
    pub public_key: PublicKey,
    /// Remove the peer, ignoring the other fields.
    pub remove: bool,
    /// Do nothing if the peer is unknown.
    pub update_only: bool,
    /// The peer's name in the metrics; empty for none.
    pub friendly_name: Option<String>,
    /// The new preshared key; all zeros for none.
    pub preshared_key: Option<PresharedKey>,
    /// The cipher suite. A different suite than before ends the peer's sessions.
    pub suite: Option<Suite>,
    /// The new endpoint.
    pub endpoint: Option<PeerEndpoint>,
    /// Seconds between keepalives; 0 for none.
    pub persistent_keepalive: Option<u16>,
    /// Whether to remove the peer's allowed IPs before [`allowed_ips`](Self::allowed_ips) is applied.
    pub replace_allowed_ips: bool,
    /// Changes to the peer's allowed IPs, applied in order.
    pub allowed_ips: Vec<AllowedIpChange>,
}

impl PeerUpdate {
    /// Creates a change that adds the peer if it is unknown, and changes nothing else.
    pub const fn new(public_key: PublicKey) -> Self {
        PeerUpdate {
            public_key,
            remove: false,
            update_only: false,
            friendly_name: None,
            preshared_key: None,
            suite: None,
            endpoint: None,
            persistent_keepalive: None,
            replace_allowed_ips: false,
            allowed_ips: Vec::new(),
        }
    }
}

/// An allowed IP to give to a peer, or to take away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AllowedIpChange {
    /// The network, host bits zero.
    pub net: IpNet,
    /// Whether to take it away. Has no effect if it belongs to another peer.
    pub remove: bool,
}

/// A peer's configured endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PeerEndpoint {
    /// An address.
    Address(SocketAddr),
    /// A host name, which may resolve to a different address at each lookup.
    Name {
        /// The name.
        host: String,
        /// The UDP port.
        port: u16,
    },
}

impl fmt::Display for PeerEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerEndpoint::Address(address) => address.fmt(f),
            PeerEndpoint::Name { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// Configuration and counters of a router.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeviceStatus {
    /// The router's private key.
    pub private_key: Option<PrivateKey>,
    /// The UDP port the router listens on.
    pub listen_port: u16,
    /// The mark (`SO_MARK`) of datagrams the router sends; 0 for none.
    pub fwmark: u32,
    /// All peers.
    pub peers: Vec<PeerStatus>,
}

/// Configuration and counters of one peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// The peer's public key.
    pub public_key: PublicKey,
    /// The preshared key; all zeros for none.
    pub preshared_key: PresharedKey,
    /// The cipher suite.
    pub suite: Suite,
    /// The address the peer last sent from, or its configured endpoint.
    pub endpoint: Option<SocketAddr>,
    /// When the last handshake completed, since the UNIX epoch.
    pub last_handshake: Option<Duration>,
    /// Bytes sent to the peer, including WireGuard's own overhead.
    pub sent_bytes: u64,
    /// Bytes received from the peer, including WireGuard's own overhead.
    pub received_bytes: u64,
    /// Seconds between keepalives; 0 for none.
    pub persistent_keepalive: u16,
    /// Networks the peer may send from, and whose packets are sent to it.
    pub allowed_ips: Vec<IpNet>,
}

impl PeerStatus {
    /// Creates the status of a peer with no settings and no traffic.
    pub fn new(public_key: PublicKey) -> Self {
        PeerStatus {
            public_key,
            preshared_key: PresharedKey::none(),
            suite: Suite::ChaCha20Poly1305,
            endpoint: None,
            last_handshake: None,
            sent_bytes: 0,
            received_bytes: 0,
            persistent_keepalive: 0,
            allowed_ips: Vec::new(),
        }
    }
}

/// Formats an endpoint as `wg` shows it: the scope of a link-local address is the interface's name, if the calling
/// thread's network namespace has that interface.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScopedByName(pub(crate) SocketAddr);

impl fmt::Display for ScopedByName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |scope| if_indextoname(scope).ok()?.into_string().ok().filter(|name| !name.is_empty());
        match self.0 {
            SocketAddr::V6(address)
                if address.scope_id() != 0
                    && let Some(interface) = name(address.scope_id()) =>
            {
                write!(f, "[{}%{interface}]:{}", address.ip(), address.port())
            }
            address => address.fmt(f),
        }
    }
}

/// Parses a network as `wg` does: an address without a prefix length is a single host, and host bits are cleared.
pub(crate) fn parse_network(text: &str) -> Option<IpNet> {
    parse_interface_address(text).map(|net| net.trunc())
}

/// Parses an address with an optional prefix length, keeping the host bits.
pub(super) fn parse_interface_address(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// Parses `192.0.2.1:51820`, `[2001:db8::1]:51820` or `[fe80::1%2]:51820`.
pub(crate) fn parse_address(text: &str) -> Option<SocketAddr> {
    text.parse().ok()
}

/// Like [`parse_address`], but also accepts an interface name as the scope, as `wg` writes it:
/// `[fe80::1%eth0]:51820`. The name is looked up in the calling thread's network namespace.
pub(crate) fn parse_scoped_address(text: &str) -> Option<SocketAddr> {
    parse_address(text).or_else(|| {
        let (ip, rest) = text.strip_prefix('[')?.split_once('%')?;
        let (interface, port) = rest.split_once("]:")?;
        let scope = if_nametoindex(interface).ok()?;
        Some(SocketAddrV6::new(ip.parse().ok()?, port.parse().ok()?, 0, scope).into())
    })
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
    fn the_scope_of_an_address_is_a_number_or_an_interface() {
        let told = |text| parse_scoped_address(text).map(|address| address.to_string());
        for text in ["[fe80::1%1]:7", "[fe80::1%lo]:7"] {
            assert_eq!(told(text).as_deref(), Some("[fe80::1%1]:7"), "loopback always has index 1: {text}");
        }
        assert_eq!(told("[::1]:7").as_deref(), Some("[::1]:7"));
        for text in [
            "[fe80::1%nothing0]:7",
            "[fe80::1%]:7",
            "[x%lo]:7",
            "[fe80::1%lo]",
            "fe80::1%lo:7",
            "1.2.3.4%lo:7",
        ] {
            assert_eq!(told(text), None, "{text}");
        }
    }
}
