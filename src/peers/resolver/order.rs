//! Sorts a name's addresses by preference: a subset of RFC 6724, section 6.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, Type};

use super::exchange::marked;

/// How good an address is, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum AddressRank {
    /// IPv6, from a source address of the same kind.
    V6,
    /// IPv4.
    V4,
    /// IPv6, from a source address of another kind, such as a unique local one.
    OtherKind,
    /// There is no route.
    Unreachable,
}

/// Returns the addresses with `port`, in order of preference for datagrams with the mark `mark`. Addresses of equal
/// preference keep their order.
pub(super) fn sorted(addresses: Vec<IpAddr>, port: u16, mark: u32) -> Vec<SocketAddr> {
    let mut ranked: Vec<_> = addresses
        .into_iter()
        .map(|address| SocketAddr::new(address, port))
        .map(|address| (rank(address.ip(), source(address, mark)), address))
        .collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, address)| address).collect()
}

/// Returns the address that the kernel would send from. Sends nothing.
fn source(to: SocketAddr, mark: u32) -> Option<IpAddr> {
    let socket = marked(Domain::for_address(to), Type::DGRAM, Protocol::UDP, mark).ok()?;
    // Some systems refuse port 0.
    let to = SocketAddr::new(to.ip(), if to.port() == 0 { 53 } else { to.port() });
    socket.connect(&to.into()).ok()?;
    Some(socket.local_addr().ok()?.as_socket()?.ip())
}

fn rank(to: IpAddr, source: Option<IpAddr>) -> AddressRank {
    match (to, source) {
        (_, None) => AddressRank::Unreachable,
        (IpAddr::V4(_), Some(_)) => AddressRank::V4,
        (IpAddr::V6(to), Some(IpAddr::V6(source))) if kind(to) == kind(source) => AddressRank::V6,
        (IpAddr::V6(_), Some(_)) => AddressRank::OtherKind,
    }
}

/// Returns the prefix in the policy table of RFC 6724, section 2.1, that `address` is in, as a number.
fn kind(address: Ipv6Addr) -> u8 {
    match address.segments() {
        [0xfe80..=0xfebf, ..] => 1,
        [0xfc00..=0xfdff, ..] => 2,
        [0x2002, ..] => 3,
        [0x2001, 0, ..] => 4,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ipv6_is_best_where_it_leads_somewhere() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let [v6, v4, own, local] = ["2001:db8::1", "192.0.2.1", "2001:db8::2", "fd00::2"].map(ip);
        assert_eq!(rank(v6, Some(own)), AddressRank::V6);
        assert_eq!(rank(v4, Some(v4)), AddressRank::V4);
        assert_eq!(rank(v6, Some(local)), AddressRank::OtherKind);
        assert_eq!(rank(ip("fd00::1"), Some(local)), AddressRank::V6);
        assert_eq!(rank(v6, None), AddressRank::Unreachable);
        assert!(
            AddressRank::V6 < AddressRank::V4
                && AddressRank::V4 < AddressRank::OtherKind
                && AddressRank::OtherKind < AddressRank::Unreachable
        );
    }
}
