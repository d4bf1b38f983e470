//! Routing rules that let datagrams to the router's UDP port pass a strict reverse path filter.
//!
//! With `rp_filter` = 1 (`Documentation/networking/ip-sysctl.rst`) the kernel drops an IPv4 packet unless the route back
//! to its source leaves by the interface it came in on. It looks the route up without our mark, so the rules of
//! [`rules`](super::rules) lead it into the tunnel. (`src_valid_mark` helps only where a packet filter restores the mark
//! on received packets.) The lookup has the datagram's ports, exchanged (`__fib_validate_source` in
//! `net/ipv4/fib_frontend.c`), so a rule for our port ahead of the others sends it to the main table.
//!
//! That rule must not let other packets past the tunnel, even if it outlives a killed router. It is for one local
//! address outside the tunnel, the router's port and user 0, to whom the filter's lookups are attributed: an
//! application's packet only matches if root has bound its socket to that address and port. A socket that is not bound
//! to an address has no source when its route is looked up, and then one in the tunnel.
//!
//! The kernel reads the ports of received packets only if a rule needs them, and does not count rules for `iif lo`
//! (`fib_rule_requires_fldissect` in `include/net/fib_rules.h`), so there is one more rule, which does nothing else.
//!
//! Fragments have no ports: the kernel looks them up with ports of 0, also the first one (`__skb_flow_dissect` in
//! `net/core/flow_dissector.c`), and no rule can name port 0. Two rules jump over a third one if there is a source or a
//! destination port; the third sends what is left to the main table, again only for a local address and user 0. Of
//! the packets that leave, those of root's raw sockets for UDP that are bound to such an address match it. So do those
//! from port 65535 to port 65535 of root's UDP sockets that are bound to such an address, since no rule can name that
//! port either (`fib_rule_port_range_valid` in `include/net/fib_rules.h`).
//!
//! # IPv6
//!
//! For IPv6 the kernel has no reverse path filter, but packet filters have: firewalld's `IPv6_rpfilter` is on by default.
//! nftables' `fib` (`nft_fib6_eval` in `net/ipv6/netfilter/nft_fib_ipv6.c`) and ip6tables' `rpfilter`
//! (`rpfilter_lookup_reverse6` in `net/ipv6/netfilter/ip6t_rpfilter.c`) look up the route from the packet's destination to
//! its source, for user 0 and with the packet's protocol, but never with ports. So the three rules for packets without
//! ports let all datagrams pass, and no rule names our port. Fragments pass `fib`, which finds the protocol behind the
//! fragment header, and `rpfilter` only if connection tracking has put them together. The jumps need a target that is
//! there as long as they are, which is a rule that does nothing.
//!
//! Since the lookup has no ports, the rules apply to every UDP packet that is received for one of these addresses, also
//! from the tunnel, and such a packet then does not pass the filter if its source is reached by the tunnel's default
//! route. A gateway may well get such packets for the address of an interface whose network it connects to the tunnel.
//! So the rules are only for the addresses that datagrams of peers arrive at: those of the interface through which the
//! router's own datagrams leave by the main table's default route, and the source address that the kernel selects for
//! them. Peers in networks with routes of their own need no rule: the rules of the tunnel skip only the main table's
//! default route. For the same reason there is no rule for link-local addresses.
//!
//! Of the packets that leave, the three rules match the same as for IPv4, and one kind more: if the tunnel has no route,
//! the kernel selects a source among the addresses of all interfaces and looks the route up again
//! (`ip6_dst_lookup_tail` in `net/ipv6/ip6_output.c`), so root's raw sockets for UDP then need not be bound.
//!
//! Of both versions, the rules also match datagrams of tunnels in the kernel whose route lookups have no ports and that are
//! bound to such an address, such as TIPC's (`tipc_udp_xmit` in `net/tipc/udp_media.c`).

mod message;
mod prefixes;

use std::net::{IpAddr, Ipv6Addr};

use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use nix::errno::Errno;
use rtnetlink::Handle;
use rtnetlink::packet_route::rule::RuleMessage;

pub(super) use message::{READ_PORTS, TO_MAIN, message};

use self::message::read;
use self::prefixes::prefixes;
use super::addresses::own;
use super::barrier::place;
use super::{
    DefaultRule, IpVersion, MAIN_TABLE, NetlinkError, added, errno, find, refused, talk, underlay, unless,
};

/// Addresses that no network has a route of its own to (RFC 3849 and RFC 9637, documentation), for the default routes.
/// There are two since a test network may use one of them.
const ANYWHERE: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 1)];

/// UDP ports of a router.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// The lowest port.
    pub first: u16,
    /// The highest port.
    pub last: u16,
}

/// A rule for the datagrams to a router's UDP ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRule {
    /// The mark of the router's own datagrams. It only names the router whose rule this is: the rule's mask is 0.
    mark: u32,
    version: IpVersion,
    purpose: Purpose,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// Makes the kernel read ports.
    ReadPorts(Ports),
    /// Is where the jumps lead to.
    Target,
    /// Sends datagrams to these ports at local addresses to the main table.
    Admit(Ports, IpNet),
    /// Jumps over rules for packets without ports if there is a source port.
    SourcePort,
    /// Jumps over rules for packets without ports if there is a destination port.
    DestinationPort,
    /// Sends packets without ports for local addresses to the main table.
    WithoutPorts(IpNet),
}

/// An address of this network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Local {
    address: IpAddr,
    /// The index of its interface.
    index: u32,
}

/// Returns the rules for datagrams to `ports` at addresses of other interfaces than `interface`, for the IP versions that
/// `rules` route into the tunnel.
///
/// # Errors
/// A netlink request failed.
///
/// # Panics
/// If called inside an async runtime, since it runs its own.
pub fn port_rules(
    interface: &str,
    rules: &[DefaultRule],
    ports: Ports,
) -> Result<Vec<PortRule>, NetlinkError> {
    talk(async |handle| {
        let own = match find(&handle, interface).await {
            // Moved to another network namespace.
            Err(NetlinkError::Refused { errno: Errno::ENODEV, .. }) => 0,
            link => link?.header.index,
        };
        let all = addresses(&handle).await?;
        let mut found = Vec::new();
        for DefaultRule { version, mark } in rules.iter().copied() {
            let of_version = all.iter().filter(|local| IpVersion::of(local.address) == version);
            match version {
                IpVersion::V4 => {
                    let (outside, inside) = split(of_version, |local| local.index != own);
                    found.extend(rules_for(mark, ports, &prefixes(&outside, &inside)));
                }
                IpVersion::V6 => {
                    let ways = ways_out(&handle, mark).await;
                    let is_way_in = |local: &Local| {
                        ways.iter().any(|way| way.index == local.index || way.address == local.address)
                    };
                    let (outside, others) = split(of_version, |local| local.index != own && is_way_in(local));
                    found.extend(rules_without_ports(mark, &prefixes(&outside, &others)));
                }
            }
        }
        Ok(found)
    })
}

/// Returns the IPv4 rules for datagrams to `ports` at local addresses in `nets`, in the order in which they are added.
pub(super) fn rules_for(mark: u32, ports: Ports, nets: &[IpNet]) -> Vec<PortRule> {
    // A rule that jumps has no effect without its target, so the target comes first, and rules without ports last.
    let admitted = nets.iter().map(|net| Purpose::Admit(ports, *net));
    let all = [Purpose::ReadPorts(ports)].into_iter().chain(admitted).chain(without_ports(nets));
    all.map(|purpose| PortRule { mark, version: IpVersion::V4, purpose }).collect()
}

/// Returns the IPv6 rules for datagrams to local addresses in `nets`, in the order in which they are added.
fn rules_without_ports(mark: u32, nets: &[IpNet]) -> Vec<PortRule> {
    if nets.is_empty() {
        return Vec::new();
    }
    let all = [Purpose::Target].into_iter().chain(without_ports(nets));
    all.map(|purpose| PortRule { mark, version: IpVersion::V6, purpose }).collect()
}

fn without_ports(nets: &[IpNet]) -> impl Iterator<Item = Purpose> {
    let jumps = [Purpose::SourcePort, Purpose::DestinationPort];
    jumps.into_iter().chain(nets.iter().map(|net| Purpose::WithoutPorts(*net)))
}

/// Returns the addresses for which `is_outside` holds, and the others, both sorted.
fn split<'a>(
    all: impl Iterator<Item = &'a Local>,
    is_outside: impl Fn(&Local) -> bool,
) -> (Vec<IpAddr>, Vec<IpAddr>) {
    let (outside, inside): (Vec<&Local>, Vec<&Local>) = all.partition(|local| is_outside(local));
    let addresses = |locals: Vec<&Local>| {
        let mut addresses: Vec<_> = locals.into_iter().map(|local| local.address).collect();
        addresses.dedup();
        addresses
    };
    (addresses(outside), addresses(inside))
}

/// Adds the rules `after` unless they exist, then removes those of `before` that are not among them.
///
/// # Errors
/// The first request the kernel refused; `EOPNOTSUPP` if its rules have no ports (before Linux 4.17). Earlier requests
/// remain applied, and the rules after one that cannot be removed are removed.
///
/// # Panics
/// If called inside an async runtime, since it runs its own.
pub fn change_port_rules(before: &[PortRule], after: &[PortRule]) -> Result<(), NetlinkError> {
    if before.is_empty() && after.is_empty() {
        return Ok(());
    }
    talk(async |handle| {
        for rule in after {
            add(&handle, message(*rule)).await?;
            // A kernel that ignores ports would apply the other rules to all packets.
            let is_first_with_ports = match rule.version {
                IpVersion::V4 => matches!(rule.purpose, Purpose::ReadPorts(_)),
                IpVersion::V6 => rule.purpose == Purpose::SourcePort,
            };
            if is_first_with_ports && !listed(&handle, rule.version).await?.contains(rule) {
                delete(&handle, message(*rule)).await?;
                let what = "add a rule for a UDP port".to_owned();
                return Err(NetlinkError::Refused { what, errno: Errno::EOPNOTSUPP });
            }
        }
        let mut done = Ok(());
        for rule in before.iter().rev().filter(|rule| !after.contains(rule)) {
            done = done.and(delete(&handle, message(*rule)).await);
        }
        done
    })
}

/// Returns the rules of routers whose own datagrams have one of the marks.
pub(super) async fn of_marks(handle: &Handle, marks: &[u32]) -> Result<Vec<PortRule>, NetlinkError> {
    let mut rules = listed(handle, IpVersion::V4).await?;
    rules.extend(listed(handle, IpVersion::V6).await?);
    rules.retain(|rule| marks.contains(&rule.mark));
    // As they were added. The kernel lists them by priority, the jumps first.
    rules.sort_by_key(|rule| match rule.purpose {
        Purpose::ReadPorts(_) | Purpose::Target => 0,
        Purpose::Admit(..) => 1,
        Purpose::SourcePort | Purpose::DestinationPort => 2,
        Purpose::WithoutPorts(_) => 3,
    });
    Ok(rules)
}

pub(super) async fn add(handle: &Handle, message: RuleMessage) -> Result<(), NetlinkError> {
    let mut request = handle.rule().add();
    *request.message_mut() = message;
    let what = || "add a rule for a UDP port".to_owned();
    added(request.execute().await).map(drop).map_err(|error| refused(what(), &error))
}

pub(super) async fn delete(handle: &Handle, message: RuleMessage) -> Result<(), NetlinkError> {
    let what = || "remove a rule for a UDP port".to_owned();
    unless(Errno::ENOENT, handle.rule().del(message).execute().await).map_err(|error| refused(what(), &error))
}

/// Returns the addresses of all interfaces, sorted, without loopback addresses and link-local IPv6 addresses.
async fn addresses(handle: &Handle) -> Result<Vec<Local>, NetlinkError> {
    let listed = handle.address().get().execute().try_filter_map(async |message| {
        let is_wanted = |address: &IpAddr| match address {
            IpAddr::V4(address) => !address.is_loopback(),
            IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
        };
        let index = message.header.index;
        Ok(own(&message).filter(is_wanted).map(|address| Local { address, index }))
    });
    let mut listed: Vec<_> =
        listed.try_collect().await.map_err(|error| refused("list the addresses".to_owned(), &error))?;
    listed.sort_unstable();
    Ok(listed)
}

/// Returns through which interface, and from which address, IPv6 datagrams with the mark `mark` leave by a default route
/// of the main table.
async fn ways_out(handle: &Handle, mark: u32) -> Vec<Local> {
    let mut ways = Vec::new();
    for far in ANYWHERE {
        // Without a route nothing arrives that a rule could let pass. Nor does a rule help if the router's own datagrams
        // leave by another table, such as that of another tunnel.
        let Ok(found) = underlay::lookup(handle, (far, 0).into(), None, 0, mark).await else { continue };
        if place(&found, far.into()).is_none_or(|route| route.table != MAIN_TABLE) {
            continue;
        }
        ways.extend(underlay::selected(found).map(|route| Local {
            address: route.source.unwrap_or(Ipv6Addr::UNSPECIFIED.into()),
            index: route.ifindex,
        }));
    }
    ways
}

/// Returns all rules of this kind.
async fn listed(handle: &Handle, version: IpVersion) -> Result<Vec<PortRule>, NetlinkError> {
    let listed = handle.rule().get(version.into()).execute();
    let rules: Result<_, rtnetlink::Error> =
        listed.try_filter_map(async |message| Ok(read(&message))).try_collect().await;
    match rules {
        // A kernel without IPv6, or without rules for it.
        Err(error) if matches!(errno(&error), Some(Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP)) => {
            Ok(Vec::new())
        }
        rules => rules.map_err(|error| refused("list the routing rules".to_owned(), &error)),
    }
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::rule::RuleAttribute;

    use super::*;

    #[test]
    fn no_ipv6_rule_names_the_port_and_without_addresses_there_is_none() {
        assert_eq!(rules_without_ports(51_820, &[]), []);
        let rules = rules_without_ports(51_820, &["fd00::1/128".parse().unwrap()]);
        let all: Vec<_> = rules.iter().map(|rule| message(*rule).attributes).collect();
        let has =
            |wanted: &RuleAttribute| all.iter().filter(|attributes| attributes.contains(wanted)).count();
        // The kernel need not read the ports of received packets.
        assert_eq!(has(&RuleAttribute::Iifname("lo".to_owned())), rules.len());
        assert_eq!(has(&RuleAttribute::Table(MAIN_TABLE)), 1);
        assert_eq!(has(&RuleAttribute::Goto(READ_PORTS)), 2);
    }
}
