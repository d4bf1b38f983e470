//! Routes that reject the packets of a tunnel while the routes into its interface are missing.
//!
//! The kernel removes an interface's routes when the interface goes down, loses its last address or is deleted.
//! Packets would then take the next route that matches, unencrypted. An `unreachable` route to the same destination
//! with a worse metric stays in place and rejects them (ip-route(8)).
//!
//! The metric is derived from the interface's name, so the routes of a process that was killed can be found and
//! removed, even if the interface no longer exists.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use nix::errno::Errno;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteType};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::{IpVersion, NetlinkError, Route, added, refused, unless};

/// Metrics from here on belong to barriers. All metrics that routing daemons use are better.
const WORST: u32 = 0xff00_0000;

/// Adds the barrier to `route`'s destination. Returns whether it was missing.
pub(super) async fn add(handle: &Handle, interface: &str, route: Route) -> Result<bool, NetlinkError> {
    let what = || format!("add an unreachable route to {} in table {}", route.net, route.table);
    added(handle.route().add(message(interface, route)?).execute().await)
        .map_err(|error| refused(what(), &error))
}

/// Removes the barrier to `route`'s destination, if it exists.
pub(super) async fn remove(handle: &Handle, interface: &str, route: Route) -> Result<(), NetlinkError> {
    let what = || format!("remove the unreachable route to {} in table {}", route.net, route.table);
    unless(Errno::ESRCH, handle.route().del(message(interface, route)?).execute().await)
        .map_err(|error| refused(what(), &error))
}

/// Returns whether `message` is a barrier of `interface`.
pub(super) fn is_of(message: &RouteMessage, interface: &str) -> bool {
    message.header.kind == RouteType::Unreachable
        && message.attributes.contains(&RouteAttribute::Priority(metric(interface)))
}

/// Returns all routes of one IP version, in all tables, that `wanted` selects.
pub(super) async fn routes(
    handle: &Handle,
    any: IpAddr,
    wanted: impl Fn(&RouteMessage) -> bool,
) -> Result<Vec<Route>, NetlinkError> {
    let mut request = RouteMessage::default();
    request.header.address_family = IpVersion::of(any).family();
    let listed = handle.route().get(request).execute();
    let selected =
        listed.try_filter_map(async |route| Ok(wanted(&route).then(|| place(&route, any)).flatten()));
    selected.try_collect().await.map_err(|error| refused("list the routes".to_owned(), &error))
}

/// Returns the destination and the table of `message`, whose destination is omitted if it is `any`.
pub(super) fn place(message: &RouteMessage, any: IpAddr) -> Option<Route> {
    let mut table = message.header.table.into();
    let mut destination = any;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Destination(RouteAddress::Inet(address)) => destination = (*address).into(),
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => destination = (*address).into(),
            _ => {}
        }
    }
    let net = IpNet::new(destination, message.header.destination_prefix_length).ok()?;
    Some(Route { net, table })
}

/// The unspecified addresses, one of each IP version.
pub(super) const ANY: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];

fn message(interface: &str, route: Route) -> Result<RouteMessage, NetlinkError> {
    let Route { net, table } = route;
    let builder = RouteMessageBuilder::<IpAddr>::new().kind(RouteType::Unreachable).table_id(table);
    let builder = builder.protocol(RouteProtocol::Static).priority(metric(interface));
    let builder = builder.destination_prefix(net.network(), net.prefix_len());
    let builder = builder.map_err(|error| NetlinkError::Answer {
        what: format!("encode an unreachable route to {net}"),
        problem: error.to_string(),
    })?;
    Ok(builder.build())
}

/// Returns the metric of the barriers of `interface`: FNV-1a of the name (RFC 9923), cut to 24 bits.
fn metric(interface: &str) -> u32 {
    let hash = interface
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    WORST | (hash & !WORST)
}
