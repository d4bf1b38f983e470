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
//! Fragments have no ports and are still dropped. IPv6 has no reverse path filter.

use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt as _;
use nix::errno::Errno;
use rtnetlink::Handle;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange, RuleUidRange};
use rtnetlink::packet_route::{AddressFamily, IpProtocol};

use super::addresses::own;
use super::{MAIN_TABLE, NetlinkError, added, find, refused, talk, unless};

/// Priorities: before the rules that lead into the tunnel ([`rules`](super::rules)).
const READ_PORTS: u32 = 32_698;
const TO_MAIN: u32 = 32_699;

/// Maximum number of addresses with a rule. Each rule costs every route lookup a comparison.
const MAX_ADDRESSES: usize = 32;

const UDP: u8 = 17;

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
    ports: Ports,
    /// The local address. `None` for the rule that makes the kernel read ports.
    address: Option<Ipv4Addr>,
}

/// Result of [`probe_reverse_path`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReversePath {
    /// There is no IPv4 route to the internet, or it does not lead back, so nothing can be tried.
    NoRoute,
    /// The filter does not drop datagrams, with or without rules.
    Open,
    /// The filter drops datagrams from peers, and the rules prevent it.
    Cured,
    /// The filter drops datagrams from peers despite the rules.
    Closed,
}

/// Returns the rules for datagrams to `ports`: one for each IPv4 address of other interfaces than `interface`, and one
/// that makes the kernel read ports. `mark` is that of the router's own datagrams.
///
/// # Errors
/// A netlink request failed.
///
/// # Panics
/// If called inside an async runtime, since it runs its own.
pub fn port_rules(interface: &str, mark: u32, ports: Ports) -> Result<Vec<PortRule>, NetlinkError> {
    let addresses = talk(async |handle| outside(&handle, interface).await)?;
    let addresses = [None].into_iter().chain(addresses.into_iter().map(Some));
    Ok(addresses.map(|address| PortRule { mark, ports, address }).collect())
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
            if rule.address.is_none() && !listed(&handle).await?.contains(rule) {
                delete(&handle, message(*rule)).await?;
                let what = "add a rule for a UDP port".to_owned();
                return Err(NetlinkError::Refused { what, errno: Errno::EOPNOTSUPP });
            }
        }
        for rule in before.iter().filter(|rule| !after.contains(rule)) {
            delete(&handle, message(*rule)).await?;
        }
        Ok(())
    })
}

/// Returns the rules of routers whose own datagrams have one of the marks.
pub(super) async fn of_marks(handle: &Handle, marks: &[u32]) -> Result<Vec<PortRule>, NetlinkError> {
    let mut rules = listed(handle).await?;
    rules.retain(|rule| marks.contains(&rule.mark));
    Ok(rules)
}

/// Tries whether the reverse path filter of this network namespace lets datagrams to a router's port pass while
/// everything is routed through a tunnel. Asks the kernel for the way of packets from an address that is reserved for
/// documentation (RFC 5737), with rules that only apply to this address and are removed again.
///
/// # Errors
/// The kernel refused a request.
///
/// # Panics
/// If called inside an async runtime, since it runs its own.
pub fn probe_reverse_path() -> Result<ReversePath, NetlinkError> {
    talk(async |handle| {
        for far in [[192, 0, 2, 1], [198, 51, 100, 1], [203, 0, 113, 1]] {
            let found = probe_from(&handle, far.into()).await?;
            // An address may be in use here nevertheless.
            if found != ReversePath::NoRoute {
                return Ok(found);
            }
        }
        Ok(ReversePath::NoRoute)
    })
}

async fn probe_from(handle: &Handle, far: Ipv4Addr) -> Result<ReversePath, NetlinkError> {
    /// The discard service (RFC 863), on which no router listens.
    const PORT: u16 = 9;
    let to_far = |mut message: RuleMessage| {
        message.header.dst_len = 32;
        message.attributes.push(RuleAttribute::Destination(far.into()));
        message
    };
    let plain = |priority, action| {
        let mut message = RuleMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.action = action;
        message.attributes = vec![RuleAttribute::Priority(priority)];
        to_far(message)
    };
    // The way without a tunnel, even if there is one.
    let mut main = plain(READ_PORTS, RuleAction::ToTable);
    main.attributes.push(RuleAttribute::Table(MAIN_TABLE));
    add(handle, main.clone()).await?;
    let way = way_to(handle, far).await;
    let open = match way {
        Some((interface, local)) => arrives(handle, far, local, interface, PORT).await,
        None => false,
    };
    delete(handle, main).await?;
    let Some((interface, local)) = way.filter(|_| open) else { return Ok(ReversePath::NoRoute) };

    let ports = Ports { first: PORT, last: PORT };
    let rule = |address| to_far(message(PortRule { mark: 0, ports, address }));
    let tunnel = plain(TO_MAIN, RuleAction::Unreachable);
    let rules = [rule(None), rule(Some(local)), tunnel];
    let mut done = Ok(());
    for rule in &rules {
        done = done.and(add(handle, rule.clone()).await);
    }
    let cured = arrives(handle, far, local, interface, PORT).await;
    let open = arrives(handle, far, local, interface, PORT + 1).await;
    for rule in rules {
        done = done.and(delete(handle, rule).await);
    }
    done.map(|()| match (cured, open) {
        (_, true) => ReversePath::Open,
        (true, false) => ReversePath::Cured,
        (false, false) => ReversePath::Closed,
    })
}

async fn add(handle: &Handle, message: RuleMessage) -> Result<(), NetlinkError> {
    let mut request = handle.rule().add();
    *request.message_mut() = message;
    let what = || "add a rule for a UDP port".to_owned();
    added(request.execute().await).map(drop).map_err(|error| refused(what(), &error))
}

async fn delete(handle: &Handle, message: RuleMessage) -> Result<(), NetlinkError> {
    let what = || "remove a rule for a UDP port".to_owned();
    unless(Errno::ENOENT, handle.rule().del(message).execute().await).map_err(|error| refused(what(), &error))
}

/// Returns the IPv4 addresses of all interfaces but `interface` and the loopback interface.
async fn outside(handle: &Handle, interface: &str) -> Result<Vec<Ipv4Addr>, NetlinkError> {
    let inside = match find(handle, interface).await {
        // Moved to another network namespace.
        Err(NetlinkError::Refused { errno: Errno::ENODEV, .. }) => 0,
        link => link?.header.index,
    };
    let listed = handle.address().get().execute().try_filter_map(async |message| {
        let address = own(&message).filter(|_| message.header.index != inside);
        Ok(match address {
            Some(IpAddr::V4(address)) if !address.is_loopback() => Some(address),
            _ => None,
        })
    });
    let listed = listed.try_collect().await;
    let mut addresses: Vec<Ipv4Addr> =
        listed.map_err(|error| refused("list the addresses".to_owned(), &error))?;
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(MAX_ADDRESSES);
    Ok(addresses)
}

/// Returns all rules of this kind.
async fn listed(handle: &Handle) -> Result<Vec<PortRule>, NetlinkError> {
    let listed = handle.rule().get(rtnetlink::IpVersion::V4).execute();
    let rules = listed.try_filter_map(async |message| Ok(read(&message))).try_collect().await;
    rules.map_err(|error| refused("list the routing rules".to_owned(), &error))
}

fn message(PortRule { mark, ports, address }: PortRule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = AddressFamily::Inet;
    message.header.action = RuleAction::Nop;
    message.attributes = vec![
        RuleAttribute::Priority(READ_PORTS),
        RuleAttribute::FwMark(mark),
        RuleAttribute::FwMask(0),
        RuleAttribute::IpProtocol(IpProtocol::Udp),
        RuleAttribute::SourcePortRange(RulePortRange { start: ports.first, end: ports.last }),
    ];
    if let Some(address) = address {
        message.header.action = RuleAction::ToTable;
        message.header.src_len = 32;
        message.attributes[0] = RuleAttribute::Priority(TO_MAIN);
        message.attributes.extend([
            RuleAttribute::Table(MAIN_TABLE),
            RuleAttribute::Iifname("lo".to_owned()),
            RuleAttribute::Source(address.into()),
            RuleAttribute::UidRange(RuleUidRange { start: 0, end: 0 }),
        ]);
    }
    message
}

/// The reverse of [`message`]. Returns `None` for other rules.
fn read(message: &RuleMessage) -> Option<PortRule> {
    let mut rule = PortRule { mark: 0, ports: Ports::default(), address: None };
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::FwMark(mark) => rule.mark = *mark,
            RuleAttribute::SourcePortRange(range) => {
                rule.ports = Ports { first: range.start, last: range.end };
            }
            RuleAttribute::Source(IpAddr::V4(address)) => rule.address = Some(*address),
            _ => {}
        }
    }
    let expected = self::message(rule);
    let holds = expected.attributes.iter().all(|attribute| message.attributes.contains(attribute));
    (holds && message.header.action == expected.header.action).then_some(rule)
}

/// Returns the interface and the local address of packets to `far`.
async fn way_to(handle: &Handle, far: Ipv4Addr) -> Option<(u32, Ipv4Addr)> {
    let request = route_request(vec![RouteAttribute::Destination(RouteAddress::Inet(far))]);
    let route = handle.route().get(request).execute().try_next().await.ok()??;
    let interface = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    let local = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::PrefSource(RouteAddress::Inet(address)) => Some(*address),
        _ => None,
    });
    interface.zip(local)
}

/// Returns whether the kernel accepts a datagram from `far` to `local` on `interface`.
async fn arrives(handle: &Handle, far: Ipv4Addr, local: Ipv4Addr, interface: u32, port: u16) -> bool {
    let mut request = route_request(vec![
        RouteAttribute::Destination(RouteAddress::Inet(local)),
        RouteAttribute::Source(RouteAddress::Inet(far)),
        RouteAttribute::Iif(interface),
        RouteAttribute::IpProto(UDP),
        RouteAttribute::Sport(port),
        RouteAttribute::Dport(port),
    ]);
    request.header.source_prefix_length = 32;
    let found = handle.route().get(request).execute().try_next().await;
    // The filter's refusal is EXDEV, or EINVAL in newer kernels.
    found.is_ok_and(|route| route.is_some())
}

fn route_request(attributes: Vec<RouteAttribute>) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet;
    message.header.destination_prefix_length = 32;
    message.attributes = attributes;
    message
}
