//! The addresses inside the tunnel, and what two peers must know of each other.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use laneway::cli::demo::lab::{Lab, Side};

use super::wg::{self, KeyPair};

/// The UDP port of every peer in the lab: namespaces keep them apart.
pub const PORT: u16 = 51820;

/// The MTU of the tunnel device in bytes.
pub const MTU: u16 = 1420;

/// Which Internet protocol something runs over.
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

    /// Where the peer at `side` is reached from outside the tunnel.
    pub fn endpoint(self, side: &Side) -> SocketAddr {
        match self {
            Family::V4 => (side.underlay4, PORT).into(),
            Family::V6 => (side.underlay6, PORT).into(),
        }
    }

    /// The address inside the tunnel of the left (1) or right (2) peer.
    pub fn inside(self, host: u8) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::new(10, 77, 0, host).into(),
            Family::V6 => Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, host.into()).into(),
        }
    }
}

/// Makes one tunnel of two running peers: fresh keys, inside addresses, devices up. The left one knows where the
/// right one is, over the given protocol, and so begins; the right one learns it.
///
/// # Panics
/// When a device or its control socket is not there.
pub fn join(lab: &Lab, left_device: &str, right_device: &str, outside: Family) {
    let (left, right) = (KeyPair::generate(&lab.left), KeyPair::generate(&lab.right));
    wg::configure(&lab.left, left_device, &left, &right, 2, Some(outside.endpoint(&lab.right)));
    wg::configure(&lab.right, right_device, &right, &left, 1, None);
    address(&lab.left, left_device, 1);
    address(&lab.right, right_device, 2);
}

/// Gives a tunnel device the addresses of this host number and brings it up.
///
/// # Panics
/// When there is no such device.
pub fn address(side: &Side, device: &str, host: u8) {
    for (family, prefix) in [(Family::V4, 24), (Family::V6, 64)] {
        let added = side.address(device, family.inside(host), prefix);
        added.unwrap_or_else(|error| panic!("{error}"));
    }
}

/// What the peer with this host number may send, as `wg` writes it.
pub fn allowed_ips(host: u8) -> String {
    format!("{}/32,{}/128", Family::V4.inside(host), Family::V6.inside(host))
}
