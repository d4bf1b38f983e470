//! Socket names: encoding and decoding of `sockaddr_in` and `sockaddr_in6`
//! (`include/uapi/linux/in.h`, `in6.h`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use arrayvec::ArrayVec;

use crate::sys::udp::NAME_SPACE;

const AF_INET: u16 = libc::AF_INET as u16;
const AF_INET6: u16 = libc::AF_INET6 as u16;
const V4_NAME: usize = 16;
const V6_NAME: usize = 28;
const _: () = assert!(NAME_SPACE == V6_NAME);

/// Address families that a socket supports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// A dual-stack IPv6 socket, which represents IPv4 as v4-mapped addresses.
    Dual,
    /// An IPv4 socket, for hosts without IPv6.
    V4,
}

/// The bytes of one socket name.
pub(super) type SocketName = ArrayVec<u8, NAME_SPACE>;

/// Encodes `address` as a name for a socket of `family`. Returns `None` if such a socket cannot reach
/// the address.
pub(super) fn encode(family: Family, address: SocketAddr) -> Option<SocketName> {
    let port = address.port().to_be_bytes();
    let mut name = SocketName::new();
    match (family, address) {
        (Family::V4, SocketAddr::V4(v4)) => {
            put(&mut name, &AF_INET.to_ne_bytes());
            put(&mut name, &port);
            put(&mut name, &v4.ip().octets());
            put(&mut name, &[0; 8]);
        }
        (Family::V4, SocketAddr::V6(_)) => return None,
        (Family::Dual, _) => {
            let (ip, scope) = match address {
                SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0),
                SocketAddr::V6(v6) => (*v6.ip(), v6.scope_id()),
            };
            put(&mut name, &AF_INET6.to_ne_bytes());
            put(&mut name, &port);
            put(&mut name, &[0; 4]); // no flow label
            put(&mut name, &ip.octets());
            put(&mut name, &scope.to_ne_bytes());
        }
    }
    Some(name)
}

/// Decodes the address in `name`, converting a v4-mapped address to plain IPv4. Returns `None` if the
/// name is of another family or truncated.
pub(crate) fn decode(name: &[u8]) -> Option<SocketAddr> {
    let (family, rest) = name.split_first_chunk::<2>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let port = u16::from_be_bytes(*port);
    match u16::from_ne_bytes(*family) {
        AF_INET if name.len() >= V4_NAME => {
            let octets: [u8; 4] = *rest.first_chunk()?;
            Some(SocketAddrV4::new(Ipv4Addr::from(octets), port).into())
        }
        AF_INET6 if name.len() >= V6_NAME => {
            let (_flow_label, rest) = rest.split_first_chunk::<4>()?;
            let (octets, rest) = rest.split_first_chunk::<16>()?;
            let scope = u32::from_ne_bytes(*rest.first_chunk()?);
            let ip = Ipv6Addr::from(*octets);
            Some(match IpAddr::V6(ip).to_canonical() {
                IpAddr::V4(v4) => SocketAddrV4::new(v4, port).into(),
                IpAddr::V6(v6) => SocketAddrV6::new(v6, port, 0, scope).into(),
            })
        }
        _ => None,
    }
}

/// Appends `bytes`. The layouts above never exceed the capacity.
fn put(name: &mut SocketName, bytes: &[u8]) {
    name.try_extend_from_slice(bytes).expect("a socket name fits NAME_SPACE bytes");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn names_agree_with_socket2s(ip: IpAddr, port: u16, scope: u32) {
            let ip = ip.to_canonical();
            let (family, address) = match ip {
                IpAddr::V4(_) => (Family::V4, SocketAddr::new(ip, port)),
                IpAddr::V6(v6) => (Family::Dual, SocketAddrV6::new(v6, port, 0, scope).into()),
            };
            let name = encode(family, address).unwrap();
            let theirs = socket2::SockAddr::from(address);
            prop_assert_eq!(name.len(), theirs.len() as usize);
            prop_assert_eq!(theirs.family(), u16::from_ne_bytes([name[0], name[1]]));
            prop_assert_eq!(theirs.as_socket(), Some(address));
            prop_assert_eq!(decode(&name), Some(address));
        }

        #[test]
        fn ipv4_survives_the_trip_through_a_dual_stack_name(ip: Ipv4Addr, port: u16) {
            let address = SocketAddr::new(ip.into(), port);
            let name = encode(Family::Dual, address).unwrap();
            prop_assert_eq!(name.len(), V6_NAME);
            prop_assert_eq!(decode(&name), Some(address));
        }

        #[test]
        fn no_bytes_are_trusted(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn an_ipv4_socket_cannot_name_an_ipv6_address() {
        assert_eq!(encode(Family::V4, "[::1]:1".parse().unwrap()), None);
    }

    #[test]
    fn a_short_name_is_no_address() {
        let name = encode(Family::Dual, "[::1]:1".parse().unwrap()).unwrap();
        assert!((0..name.len()).all(|cut| decode(&name[..cut]).is_none()));
    }
}
