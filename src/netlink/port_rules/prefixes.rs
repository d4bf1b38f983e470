//! Few prefixes for many addresses.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::netlink::barrier::ANY;

/// Maximum number of addresses with rules of their own. More are covered by rules for prefixes, since each rule costs
/// every route lookup a comparison.
const MAX_ADDRESSES: usize = 16;

/// Returns prefixes that contain all addresses of `outside`, and none of `inside` that is not also in `outside`. Both
/// are sorted, and of one IP version. No prefix contains 0.0.0.0 or ::, the source of packets that have none yet.
///
/// More than [`MAX_ADDRESSES`] addresses share prefixes, as long ones as possible, which contain other hosts' addresses,
/// too. A strict reverse path filter on the tunnel's interface then looks up forwarded packets to those hosts in the main
/// table: over IPv4 if they are fragments or go to the router's port, over IPv6 all UDP packets.
pub(super) fn prefixes(outside: &[IpAddr], inside: &[IpAddr]) -> Vec<IpNet> {
    let inside = inside.iter().filter(|address| outside.binary_search(address).is_err());
    let without: Vec<_> = ANY.iter().chain(inside).collect();
    let mut nets: Vec<_> = outside.iter().map(|address| IpNet::from(*address)).collect();
    let longest = nets.first().map_or(0, IpNet::prefix_len);
    for length in (0..longest).rev() {
        if nets.len() <= MAX_ADDRESSES {
            break;
        }
        let mut joined: Vec<IpNet> = Vec::new();
        for net in nets {
            let wider = joined.last().and_then(|last| IpNet::new(last.addr(), length).ok());
            let wider = wider.map(|wider| wider.trunc()).filter(|wider| {
                wider.contains(&net) && !without.iter().any(|address| wider.contains(*address))
            });
            match (wider, joined.last_mut()) {
                (Some(wider), Some(last)) => *last = wider,
                _ => joined.push(net),
            }
        }
        nets = joined;
    }
    nets
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::netlink::IpVersion;

    /// A few distinct addresses of one IP version, so that inside and outside ones are close to each other.
    fn addresses(version: IpVersion, most: usize) -> impl Strategy<Value = Vec<IpAddr>> {
        let address = (0_u32..4, 1_u32..60).prop_map(move |(net, host)| match version {
            IpVersion::V4 => IpAddr::from((0x0a00_0000 | net << 20 | host).to_be_bytes()),
            IpVersion::V6 => {
                IpAddr::from((0x2001_0db8 << 96 | u128::from(net) << 62 | u128::from(host)).to_be_bytes())
            }
        });
        prop::collection::btree_set(address, 0..most).prop_map(|all| all.into_iter().collect())
    }

    fn outside_and_inside() -> impl Strategy<Value = (Vec<IpAddr>, Vec<IpAddr>)> {
        let both = |version| (addresses(version, 100), addresses(version, 4));
        prop_oneof![both(IpVersion::V4), both(IpVersion::V6)]
    }

    proptest! {
        #[test]
        fn prefixes_contain_every_address_outside_and_none_inside((outside, inside) in outside_and_inside()) {
            let found = prefixes(&outside, &inside);
            let holding = |address: &IpAddr| found.iter().filter(|net| net.contains(address)).count();
            for address in &outside {
                prop_assert_eq!(holding(address), 1, "{} in {:?}", address, found);
            }
            for address in inside.iter().filter(|address| !outside.contains(address)) {
                prop_assert_eq!(holding(address), 0, "{} in {:?}", address, found);
            }
            for unspecified in ANY {
                prop_assert_eq!(holding(&unspecified), 0);
            }
            let bits = found.first().map_or(0, |net| usize::from(net.max_prefix_len()));
            prop_assert!(found.len() <= MAX_ADDRESSES.max(bits * (1 + inside.len())), "{:?}", found);
            if outside.len() <= MAX_ADDRESSES {
                prop_assert!(found.iter().all(|net| net.prefix_len() == net.max_prefix_len()), "{:?}", found);
            }
        }
    }

    #[test]
    fn prefixes_are_no_wider_than_needed() {
        let near = (1..=40_u8).map(|host| IpAddr::from([192, 0, 2, host]));
        let outside: Vec<_> = near.chain([IpAddr::from([198, 51, 100, 7])]).collect();
        let found = prefixes(&outside, &[]);
        assert!(found.len() <= MAX_ADDRESSES);
        assert!(found.contains(&"198.51.100.7/32".parse().unwrap()), "{found:?}");
        assert!(found.iter().all(|net| net.prefix_len() >= 27), "{found:?}");
    }
}
