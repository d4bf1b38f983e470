//! Addresses inside the tunnel, and the configuration of two peers for each other.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use laneway::cli::demo::lab::{Lab, Side};

use super::addresses::{INSIDE, INSIDE6};
use super::wg::{self, KeyPair};

pub use super::addresses::{PORT, TUNNEL_MTU as MTU};

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// Returns the endpoint of the peer at `side`.
    pub fn endpoint(self, side: &Side) -> SocketAddr {
        match self {
            Family::V4 => (side.underlay4, PORT).into(),
            Family::V6 => (side.underlay6, PORT).into(),
        }
    }

    /// Returns the address inside the tunnel of the left (1) or right (2) peer.
    pub fn inside(self, host: u8) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::new(INSIDE[0], INSIDE[1], 0, host).into(),
            Family::V6 => Ipv6Addr::new(INSIDE6, 0, 0, 0, 0, 0, 0, host.into()).into(),
        }
    }
}

/// Configures two running peers as one tunnel: new keys, inside addresses, devices up. The left one knows the
/// right one's endpoint, in the given address family, and initiates; the right one learns the left one's endpoint.
///
/// # Panics
/// If a device or its control socket does not exist.
pub fn join(lab: &Lab, left_device: &str, right_device: &str, outside: Family) {
    let (left, right) = (KeyPair::generate(&lab.left), KeyPair::generate(&lab.right));
    wg::configure(&lab.left, left_device, &left, &right, 2, Some(outside.endpoint(&lab.right)));
    wg::configure(&lab.right, right_device, &right, &left, 1, None);
    address(&lab.left, left_device, 1);
    address(&lab.right, right_device, 2);
}

/// Assigns the addresses of this host number to a tunnel device and brings it up.
///
/// # Panics
/// If there is no such device.
pub fn address(side: &Side, device: &str, host: u8) {
    for (family, prefix) in [(Family::V4, 24), (Family::V6, 64)] {
        let added = side.address(device, family.inside(host), prefix);
        added.unwrap_or_else(|error| panic!("{error}"));
    }
}

/// Returns the allowed IPs of the peer with this host number, as `wg` writes them.
pub fn allowed_ips(host: u8) -> String {
    format!("{}/32,{}/128", Family::V4.inside(host), Family::V6.inside(host))
}
