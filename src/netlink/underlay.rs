//! Watches the network that carries the datagrams: links, addresses, routes and rules of a network namespace, except
//! those of the router's own interface. Looks up the route to a peer.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use nix::errno::Errno;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteMetric};
use rtnetlink::{Handle, MulticastGroup};
use tokio::time::{Instant, timeout_at};

use super::{IpVersion, NetlinkError, errno, find, refused, talk};

/// How long the network must be quiet before a change is reported.
const QUIET: Duration = Duration::from_millis(100);

/// The longest time that a change is held back while others follow it.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the kernel tells about.
const GROUPS: [MulticastGroup; 7] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
];

/// Watches a network namespace's links, addresses, routes and rules.
pub struct UnderlayWatch {
    handle: Handle,
    messages: BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>,
    /// The index of the router's own interface, whose changes are ignored.
    own: u32,
    /// The MTU of each link in bytes.
    mtus: HashMap<u32, u32>,
}

/// The route that the kernel selects for datagrams to an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectedRoute {
    /// Index of the interface through which the datagrams leave.
    pub ifindex: u32,
    /// The source address that the kernel selects. `None` if the lookup specified one.
    pub source: Option<IpAddr>,
    gateway: Option<RouteAddress>,
    /// MTU of the interface in bytes, if known.
    mtu: Option<u32>,
    metrics: Vec<RouteMetric>,
}

impl SelectedRoute {
    /// Returns the MTU of the path in bytes: that of the route, otherwise that of its interface, if known.
    pub fn mtu(&self) -> Option<u32> {
        let of_route = self.metrics.iter().find_map(|metric| match metric {
            RouteMetric::Mtu(mtu) => Some(*mtu),
            _ => None,
        });
        of_route.or(self.mtu)
    }
}

/// Addresses that no network has a route of its own to (RFC 5737 and RFC 3849, documentation), for the default routes.
const ANYWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// Returns the largest MTU, in bytes, of the routes to `endpoints` for datagrams with the mark `mark`, otherwise that of
/// the default routes, in the calling thread's network namespace. Routes into `interface` do not count.
///
/// # Errors
/// A netlink request failed.
///
/// # Panics
/// If called inside an async runtime, since it runs its own.
pub fn path_mtu(interface: &str, endpoints: &[SocketAddr], mark: u32) -> Result<Option<u32>, NetlinkError> {
    talk(async |handle| {
        let own = match find(&handle, interface).await {
            Ok(link) => link.header.index,
            Err(NetlinkError::Refused { errno: Errno::ENODEV, .. }) => 0,
            Err(error) => return Err(error),
        };
        let mut watch =
            UnderlayWatch { handle, messages: stream::pending().boxed(), own, mtus: HashMap::new() };
        watch.read_mtus().await.map_err(|error| refused("list the links".to_owned(), &error))?;
        let largest = async |addresses: &[SocketAddr]| {
            let mut largest = None;
            for to in addresses {
                let route = watch.route(*to, None, 0, mark).await;
                largest = largest.max(route.ok().and_then(|route| watch.outer_mtu(&route)));
            }
            largest
        };
        match largest(endpoints).await {
            Some(mtu) => Ok(Some(mtu)),
            None => Ok(largest(&ANYWHERE.map(|ip| SocketAddr::new(ip, 0))).await),
        }
    })
}

impl UnderlayWatch {
    /// Returns the MTU of a route's path in bytes, unless the route leads into the router's own interface.
    pub fn outer_mtu(&self, route: &SelectedRoute) -> Option<u32> {
        if route.ifindex == self.own { None } else { route.mtu() }
    }

    /// Starts watching the calling thread's network namespace, in which `interface` is the router's own.
    ///
    /// # Errors
    /// The interface does not exist, or a netlink request failed.
    pub async fn open(interface: &str) -> Result<Self, NetlinkError> {
        // Subscribe before reading the state, so that no change in between is missed.
        let (connection, handle, messages) = rtnetlink::new_multicast_connection(&GROUPS)?;
        tokio::spawn(connection);
        let own = find(&handle, interface).await?.header.index;
        let messages = messages.map(|(message, _)| message).boxed();
        let mut watch = UnderlayWatch { handle, messages, own, mtus: HashMap::new() };
        watch.read_mtus().await.map_err(|error| refused("list the links".to_owned(), &error))?;
        Ok(watch)
    }

    /// Waits for changes, or for `told`. Returns 100 ms after the last of several, but at most 1 s after the first.
    /// Returns `None` if the socket failed.
    pub async fn next(&mut self, told: impl Future<Output = ()>) -> Option<()> {
        let mut told = pin!(told);
        loop {
            tokio::select! {
                message = self.messages.next() => if self.takes(message?).await { break },
                () = &mut told => break,
            }
        }
        let end = Instant::now() + PATIENCE;
        let mut quiet = Instant::now() + QUIET;
        while let Ok(message) = timeout_at(quiet.min(end), self.messages.next()).await {
            if self.takes(message?).await {
                quiet = Instant::now() + QUIET;
            }
        }
        Some(())
    }

    /// Looks up the route of datagrams with the firewall mark `mark` to the peer at `to`, from the local address
    /// `source` if given and from the local UDP port `port`.
    ///
    /// # Errors
    /// Returns the kernel's error: `ENETUNREACH` without a route, `EINVAL` if `source` is not a local address.
    pub async fn route(
        &self,
        to: SocketAddr,
        source: Option<IpAddr>,
        port: u16,
        mark: u32,
    ) -> Result<SelectedRoute, Errno> {
        let found = lookup(&self.handle, to, source, port, mark).await?;
        let mut route = selected(found).ok_or(Errno::ENETUNREACH)?;
        route.mtu = self.mtus.get(&route.ifindex).copied();
        Ok(route)
    }

    /// Returns whether `message` tells of a change outside the router's own interface.
    async fn takes(&mut self, message: NetlinkMessage<RouteNetlinkMessage>) -> bool {
        use RouteNetlinkMessage as Told;
        let told = match message.payload {
            NetlinkPayload::InnerMessage(told) => told,
            // Messages were lost because they arrived faster than they were read.
            NetlinkPayload::Overrun(_) => {
                // If the list cannot be read, MTUs are unknown, which is not worth more than a late discovery.
                let _ = self.read_mtus().await;
                return true;
            }
            _ => return false,
        };
        match told {
            Told::NewLink(link) if link.header.index != self.own => {
                self.note_mtu(&link);
                true
            }
            Told::DelLink(link) if link.header.index != self.own => {
                self.mtus.remove(&link.header.index);
                true
            }
            Told::NewAddress(address) | Told::DelAddress(address) => address.header.index != self.own,
            Told::NewRoute(route) | Told::DelRoute(route) => {
                !route.attributes.contains(&RouteAttribute::Oif(self.own))
            }
            Told::NewRule(_) | Told::DelRule(_) => true,
            _ => false,
        }
    }

    async fn read_mtus(&mut self) -> Result<(), rtnetlink::Error> {
        self.mtus.clear();
        let mut links = self.handle.link().get().execute();
        while let Some(link) = links.try_next().await? {
            self.note_mtu(&link);
        }
        Ok(())
    }

    fn note_mtu(&mut self, link: &LinkMessage) {
        let mtu = link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        });
        self.mtus.extend(mtu.map(|mtu| (link.header.index, mtu)));
    }
}

/// Looks up a route like [`UnderlayWatch::route`], and returns the kernel's answer.
pub(super) async fn lookup(
    handle: &Handle,
    to: SocketAddr,
    source: Option<IpAddr>,
    port: u16,
    mark: u32,
) -> Result<RouteMessage, Errno> {
    const UDP: u8 = 17;
    let address = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => RouteAddress::Inet(ip),
        IpAddr::V6(ip) => RouteAddress::Inet6(ip),
    };
    let bits = if to.is_ipv4() { 32 } else { 128 };
    let mut message = RouteMessage::default();
    message.header.address_family = IpVersion::of(to.ip()).family();
    message.header.destination_prefix_length = bits;
    message.attributes = vec![
        RouteAttribute::Destination(address(to.ip())),
        RouteAttribute::Mark(mark),
        RouteAttribute::IpProto(UDP),
        RouteAttribute::Sport(port),
        RouteAttribute::Dport(to.port()),
    ];
    if let Some(source) = source {
        message.header.source_prefix_length = bits;
        message.attributes.push(RouteAttribute::Source(address(source)));
    }
    if let SocketAddr::V6(v6) = to
        && v6.scope_id() != 0
    {
        message.attributes.push(RouteAttribute::Oif(v6.scope_id()));
    }
    let found = handle.route().get(message).execute().try_next().await;
    found.map_err(|error| errno(&error).unwrap_or(Errno::EIO))?.ok_or(Errno::ENETUNREACH)
}

/// Reads the kernel's answer, without the interface's MTU. Returns `None` for a route without an interface, such as an
/// unreachable one.
pub(super) fn selected(route: RouteMessage) -> Option<SelectedRoute> {
    let mut ifindex = None;
    let (mut source, mut gateway, mut metrics) = (None, None, Vec::new());
    for attribute in route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => ifindex = Some(index),
            RouteAttribute::PrefSource(RouteAddress::Inet(ip)) => source = Some(ip.into()),
            RouteAttribute::PrefSource(RouteAddress::Inet6(ip)) => source = Some(ip.into()),
            RouteAttribute::Gateway(address) => gateway = Some(address),
            RouteAttribute::Metrics(list) => metrics = list,
            _ => {}
        }
    }
    Some(SelectedRoute { ifindex: ifindex?, source, gateway, mtu: None, metrics })
}

impl fmt::Debug for UnderlayWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnderlayWatch").field("own", &self.own).finish_non_exhaustive()
    }
}
