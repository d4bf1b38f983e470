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
//! the packets that leave, only those of root's raw sockets for UDP that are bound to such an address match it.
//!
//! For IPv6 the kernel has no reverse path filter. There are no rules for that of firewalld (`IPv6_rpfilter`);
//! `deploy/README.md` has a remedy.

use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt as _;
use ipnet::Ipv4Net;
use nix::errno::Errno;
use rtnetlink::Handle;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange, RuleUidRange};
use rtnetlink::packet_route::{AddressFamily, IpProtocol};

use super::addresses::own;
use super::{MAIN_TABLE, NetlinkError, added, find, refused, talk, unless};

/// Priorities: before the rules that lead into the tunnel ([`rules`](super::rules)).
const SOURCE_PORT: u32 = 32_695;
const DESTINATION_PORT: u32 = 32_696;
const FRAGMENTS: u32 = 32_697;
pub(super) const READ_PORTS: u32 = 32_698;
pub(super) const TO_MAIN: u32 = 32_699;

/// Maximum number of addresses with rules of their own. More are covered by rules for prefixes, since each rule costs
/// every route lookup a comparison.
const MAX_ADDRESSES: usize = 16;

/// The ports that a rule can name.
const ANY_PORT: Ports = Ports { first: 1, last: 65_534 };

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
    purpose: Purpose,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// Makes the kernel read ports.
    ReadPorts(Ports),
    /// Sends datagrams to these ports at local addresses to the main table.
    Admit(Ports, Ipv4Net),
    /// Jumps over rules for fragments if there is a source port.
    SourcePort,
    /// Jumps over rules for fragments if there is a destination port.
    DestinationPort,
    /// Sends fragments for local addresses to the main table.
    Fragments(Ipv4Net),
}

/// Returns the rules for datagrams to `ports` at the IPv4 addresses of other interfaces than `interface`. `mark` is that
/// of the router's own datagrams.
///
/// # Errors
/// A netlink request failed.
///
/// # Panics
/// If called inside an async runtime, since it runs its own.
pub fn port_rules(interface: &str, mark: u32, ports: Ports) -> Result<Vec<PortRule>, NetlinkError> {
    let (outside, inside) = talk(async |handle| addresses(&handle, interface).await)?;
    Ok(rules_for(mark, ports, &prefixes(&outside, &inside)))
}

/// Returns the rules for datagrams to `ports` at local addresses in `nets`, in the order in which they are added.
pub(super) fn rules_for(mark: u32, ports: Ports, nets: &[Ipv4Net]) -> Vec<PortRule> {
    // A rule that jumps has no effect without its target, so the target comes first, and rules for fragments last.
    let admitted = nets.iter().map(|net| Purpose::Admit(ports, *net));
    let jumps = [Purpose::SourcePort, Purpose::DestinationPort];
    let fragments = nets.iter().map(|net| Purpose::Fragments(*net));
    let all = [Purpose::ReadPorts(ports)].into_iter().chain(admitted).chain(jumps).chain(fragments);
    all.map(|purpose| PortRule { mark, purpose }).collect()
}

/// Returns prefixes that contain all addresses of `outside`, and none of `inside` that is not also in `outside`. Both
/// are sorted. No prefix contains 0.0.0.0, the source of packets that have none yet.
///
/// More than [`MAX_ADDRESSES`] addresses share prefixes, which contain other hosts' addresses, too. A strict reverse path
/// filter on the tunnel's interface then looks up forwarded packets to those hosts in the main table if they are
/// fragments or go to the router's port.
fn prefixes(outside: &[Ipv4Addr], inside: &[Ipv4Addr]) -> Vec<Ipv4Net> {
    if outside.len() <= MAX_ADDRESSES {
        return outside.iter().map(|address| Ipv4Net::from(*address)).collect();
    }
    let inside = inside.iter().filter(|address| outside.binary_search(address).is_err());
    let without: Vec<_> = [Ipv4Addr::UNSPECIFIED].into_iter().chain(inside.copied()).collect();
    let mut found = Vec::new();
    let mut left = vec![Ipv4Net::default()];
    while let Some(net) = left.pop() {
        if !outside.iter().any(|address| net.contains(address)) {
            continue;
        }
        if without.iter().any(|address| net.contains(address)) {
            left.extend(net.subnets(net.prefix_len() + 1).into_iter().flatten());
        } else {
            found.push(net);
        }
    }
    found
}

/// Adds the rules `after` unless they exist, then removes those of `before` that are not among them.
///
/// # Errors
/// The first request the kernel refused; `EOPNOTSUPP` if its rules have no ports (before Linux 4.17). Earlier requests
/// remain applied.
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
            if matches!(rule.purpose, Purpose::ReadPorts(_)) && !listed(&handle).await?.contains(rule) {
                delete(&handle, message(*rule)).await?;
                let what = "add a rule for a UDP port".to_owned();
                return Err(NetlinkError::Refused { what, errno: Errno::EOPNOTSUPP });
            }
        }
        for rule in before.iter().rev().filter(|rule| !after.contains(rule)) {
            delete(&handle, message(*rule)).await?;
        }
        Ok(())
    })
}

/// Returns the rules of routers whose own datagrams have one of the marks.
pub(super) async fn of_marks(handle: &Handle, marks: &[u32]) -> Result<Vec<PortRule>, NetlinkError> {
    let mut rules = listed(handle).await?;
    rules.retain(|rule| marks.contains(&rule.mark));
    // As they were added. The kernel lists them by priority, the jumps first.
    rules.sort_by_key(|rule| match rule.purpose {
        Purpose::ReadPorts(_) => 0,
        Purpose::Admit(..) => 1,
        Purpose::SourcePort | Purpose::DestinationPort => 2,
        Purpose::Fragments(_) => 3,
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

/// Returns the IPv4 addresses of all interfaces but `interface` and the loopback interface, and those of `interface`,
/// both sorted.
async fn addresses(handle: &Handle, interface: &str) -> Result<(Vec<Ipv4Addr>, Vec<Ipv4Addr>), NetlinkError> {
    let own_index = match find(handle, interface).await {
        // Moved to another network namespace.
        Err(NetlinkError::Refused { errno: Errno::ENODEV, .. }) => 0,
        link => link?.header.index,
    };
    let listed = handle.address().get().execute().try_filter_map(async |message| {
        let is_inside = message.header.index == own_index;
        Ok(match own(&message) {
            Some(IpAddr::V4(address)) if !address.is_loopback() => Some((address, is_inside)),
            _ => None,
        })
    });
    let mut listed: Vec<_> =
        listed.try_collect().await.map_err(|error| refused("list the addresses".to_owned(), &error))?;
    listed.sort_unstable();
    listed.dedup();
    let (inside, outside): (Vec<_>, Vec<_>) = listed.into_iter().partition(|(_, is_inside)| *is_inside);
    let addresses = |pairs: Vec<(Ipv4Addr, bool)>| pairs.into_iter().map(|(address, _)| address).collect();
    Ok((addresses(outside), addresses(inside)))
}

/// Returns all rules of this kind.
async fn listed(handle: &Handle) -> Result<Vec<PortRule>, NetlinkError> {
    let listed = handle.rule().get(rtnetlink::IpVersion::V4).execute();
    let rules = listed.try_filter_map(async |message| Ok(read(&message))).try_collect().await;
    rules.map_err(|error| refused("list the routing rules".to_owned(), &error))
}

pub(super) fn message(PortRule { mark, purpose }: PortRule) -> RuleMessage {
    let range = |ports: Ports| RulePortRange { start: ports.first, end: ports.last };
    let at = |net: Ipv4Net| {
        [
            RuleAttribute::Table(MAIN_TABLE),
            RuleAttribute::Source(net.addr().into()),
            RuleAttribute::UidRange(RuleUidRange { start: 0, end: 0 }),
        ]
    };
    let mut message = RuleMessage::default();
    let mut attributes = Vec::new();
    let (priority, action) = match purpose {
        Purpose::ReadPorts(ports) => {
            attributes.push(RuleAttribute::SourcePortRange(range(ports)));
            (READ_PORTS, RuleAction::Nop)
        }
        Purpose::Admit(ports, net) => {
            attributes.push(RuleAttribute::SourcePortRange(range(ports)));
            attributes.extend(at(net));
            message.header.src_len = net.prefix_len();
            (TO_MAIN, RuleAction::ToTable)
        }
        Purpose::SourcePort => {
            attributes.push(RuleAttribute::SourcePortRange(range(ANY_PORT)));
            (SOURCE_PORT, RuleAction::Goto)
        }
        Purpose::DestinationPort => {
            attributes.push(RuleAttribute::DestinationPortRange(range(ANY_PORT)));
            (DESTINATION_PORT, RuleAction::Goto)
        }
        Purpose::Fragments(net) => {
            attributes.extend(at(net));
            message.header.src_len = net.prefix_len();
            (FRAGMENTS, RuleAction::ToTable)
        }
    };
    if action == RuleAction::Goto {
        attributes.push(RuleAttribute::Goto(READ_PORTS));
    }
    // Packets of this machine, and lookups of the filter.
    if action != RuleAction::Nop {
        attributes.push(RuleAttribute::Iifname("lo".to_owned()));
    }
    attributes.extend([
        RuleAttribute::Priority(priority),
        RuleAttribute::FwMark(mark),
        RuleAttribute::FwMask(0),
        RuleAttribute::IpProtocol(IpProtocol::Udp),
    ]);
    message.header.family = AddressFamily::Inet;
    message.header.action = action;
    message.attributes = attributes;
    message
}

/// The reverse of [`message`]. Returns `None` for other rules.
fn read(message: &RuleMessage) -> Option<PortRule> {
    let (mut priority, mut mark, mut ports, mut net) = (0, 0, Ports::default(), Ipv4Net::default());
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(number) => priority = *number,
            RuleAttribute::FwMark(number) => mark = *number,
            RuleAttribute::SourcePortRange(range) => {
                ports = Ports { first: range.start, last: range.end };
            }
            RuleAttribute::Source(IpAddr::V4(address)) => {
                net = Ipv4Net::new(*address, message.header.src_len).ok()?;
            }
            _ => {}
        }
    }
    let purpose = match priority {
        READ_PORTS => Purpose::ReadPorts(ports),
        TO_MAIN => Purpose::Admit(ports, net),
        SOURCE_PORT => Purpose::SourcePort,
        DESTINATION_PORT => Purpose::DestinationPort,
        FRAGMENTS => Purpose::Fragments(net),
        _ => return None,
    };
    let rule = PortRule { mark, purpose };
    let expected = self::message(rule);
    let holds = expected.attributes.iter().all(|attribute| message.attributes.contains(attribute));
    (holds && message.header.action == expected.header.action).then_some(rule)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn addresses(most: usize) -> impl Strategy<Value = Vec<Ipv4Addr>> {
        // Few distinct addresses, so that inside and outside ones are close to each other.
        let address =
            (0_u32..4, 1_u32..60).prop_map(|(net, host)| Ipv4Addr::from(0x0a00_0000 | net << 20 | host));
        prop::collection::btree_set(address, 0..most).prop_map(|all| all.into_iter().collect())
    }

    proptest! {
        #[test]
        fn prefixes_contain_every_address_outside_and_none_inside(
            outside in addresses(100),
            inside in addresses(4),
        ) {
            let found = prefixes(&outside, &inside);
            let holding = |address: &Ipv4Addr| found.iter().filter(|net| net.contains(address)).count();
            for address in &outside {
                prop_assert_eq!(holding(address), 1, "{} in {:?}", address, found);
            }
            for address in inside.iter().filter(|address| !outside.contains(address)) {
                prop_assert_eq!(holding(address), 0, "{} in {:?}", address, found);
            }
            prop_assert_eq!(holding(&Ipv4Addr::UNSPECIFIED), 0);
            prop_assert!(found.len() <= MAX_ADDRESSES.max(32 * (1 + inside.len())), "{:?}", found);
        }
    }

    #[test]
    fn rules_are_read_as_they_are_written() {
        let ports = Ports { first: 7001, last: 7004 };
        for rule in
            rules_for(51_820, ports, &["10.0.0.0/8".parse().unwrap(), "192.0.2.1/32".parse().unwrap()])
        {
            assert_eq!(read(&message(rule)), Some(rule));
            let mut other = message(rule);
            other.attributes.retain(|attribute| !matches!(attribute, RuleAttribute::IpProtocol(_)));
            assert_eq!(read(&other), None, "{rule:?}");
        }
    }
}
