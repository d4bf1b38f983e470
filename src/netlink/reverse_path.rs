//! Tries whether a strict reverse path filter lets datagrams to a router's port pass, with and without the rules of
//! [`port_rules`](super::port_rules).

use std::net::{IpAddr, Ipv4Addr};

use futures_util::TryStreamExt as _;
use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};

use super::port_rules::{READ_PORTS, TO_MAIN, add, delete, message, rules_for};
use super::{MAIN_TABLE, NetlinkError, Ports, talk};

const UDP: u8 = 17;

/// Result of [`probe_reverse_path`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReversePath {
    /// There is no IPv4 route to the internet, or it does not lead back, so nothing can be tried.
    NoRoute,
    /// The filter does not drop datagrams, with or without rules.
    Open,
    /// The filter drops datagrams from peers, and the rules prevent it.
    Cured,
    /// The filter drops datagrams from peers. The rules prevent it, except for fragments.
    CuredButFragments,
    /// The filter drops datagrams from peers despite the rules.
    Closed,
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
    let tunnel = plain(TO_MAIN, RuleAction::Unreachable);
    // A probe that was interrupted may have left them.
    for rule in [&main, &tunnel] {
        let _ = delete(handle, rule.clone()).await;
    }
    add(handle, main.clone()).await?;
    let way = way_to(handle, far).await;
    let open = match way {
        Some((interface, local)) => arrives(handle, far, local, interface, PORT).await,
        None => false,
    };
    delete(handle, main).await?;
    let Some((interface, local)) = way.filter(|_| open) else { return Ok(ReversePath::NoRoute) };

    let ports = Ports { first: PORT, last: PORT };
    let net = IpAddr::V4(local).into();
    let rules = rules_for(0, ports, &[net]).into_iter().map(|rule| to_far(message(rule)));
    let rules: Vec<_> = rules.chain([tunnel]).collect();
    let mut done = Ok(());
    for rule in &rules {
        done = done.and(add(handle, rule.clone()).await);
    }
    let cured = arrives(handle, far, local, interface, PORT).await;
    let fragments = arrives(handle, far, local, interface, 0).await;
    let open = arrives(handle, far, local, interface, PORT + 1).await;
    for rule in rules.into_iter().rev() {
        done = done.and(delete(handle, rule).await);
    }
    done.map(|()| match (cured, fragments, open) {
        (_, _, true) => ReversePath::Open,
        (true, true, false) => ReversePath::Cured,
        (true, false, false) => ReversePath::CuredButFragments,
        (false, _, false) => ReversePath::Closed,
    })
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

/// Returns whether the kernel accepts a datagram from `far` to `local` on `interface`; with `port` 0, a fragment.
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
