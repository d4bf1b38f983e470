//! Configures the interface in the kernel (MTU, queue length, addresses, routes, rules) and watches it for changes
//! (rtnetlink(7)).
//!
//! Sockets are opened in the calling thread's network namespace and stay in it.

mod addresses;
mod barrier;
mod filters;
mod losses;
pub mod masquerade;
mod moved;
mod nftables;
mod port_rules;
mod remains;
mod reverse_path;
mod rules;
mod tables;
mod udp_sockets;
mod underlay;
mod watch;

use std::fs;
use std::io;
use std::net::IpAddr;

use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use nix::errno::Errno;
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkMessage,
};
use rtnetlink::packet_route::route::{RouteMessage, RouteScope};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};
use tokio::runtime;

pub use addresses::AddressWatch;
pub use filters::unprotected;
pub use losses::LossWatch;
pub use moved::OtherNamespaces;
#[cfg(any(test, fuzzing))]
pub(crate) use nftables::acknowledgements;
pub use port_rules::{PortRule, Ports, change_port_rules, port_rules};
pub use remains::{Remains, TunState, delete, remains, tun_state};
pub use reverse_path::{ReversePath, probe_reverse_path};
pub use rules::{DefaultRule, IpVersion, MAIN_TABLE};
pub use tables::{TableLock, free_table};
#[cfg(any(test, fuzzing))]
pub(crate) use udp_sockets::take as sockets_in;
pub use udp_sockets::{UdpSocketInfo, UdpSockets};
pub use underlay::{SelectedRoute, UnderlayWatch, path_mtu};
pub use watch::{LinkEvent, LinkWatch};

/// Length of the TUN's transmit queue in packets. The default of 500 is too short for bulk TCP at 20 ms.
const TX_QUEUE_LENGTH: u32 = 10_000;

/// The kernel's default maximum of segments in a superpacket (`GSO_MAX_SEGS` in `include/linux/netdevice.h`).
const GSO_MAX_SEGS: u32 = 65_535;

/// Smallest MTU in bytes at which an interface has IPv6 (RFC 8200, section 5). The kernel removes IPv6 from an
/// interface whose MTU is smaller (`addrconf_notify` in `net/ipv6/addrconf.c`).
pub const IPV6_MIN_MTU: u16 = 1280;

/// Desired state of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Setup {
    /// MTU in bytes.
    pub mtu: u16,
    /// Maximum number of segments in a superpacket (`gso_max_segs` in ip-link(8)).
    pub gso_max_segs: u32,
    /// Addresses, including host bits.
    pub addresses: Vec<IpNet>,
    /// Routes into the interface.
    pub routes: Vec<Route>,
    /// Rules that select the default routes among them.
    pub rules: Vec<DefaultRule>,
    /// Destinations whose packets are rejected while there is no route to them into the interface. Added before the
    /// rules, and removed after them.
    pub unreachable: Vec<Route>,
    /// Whether to bring the interface up. The kernel refuses routes for an interface that is down.
    pub up: bool,
}

/// A route into the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The destination, host bits zero.
    pub net: IpNet,
    /// The number of the routing table.
    pub table: u32,
}

/// Errors when configuring or watching an interface.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// A netlink socket cannot be opened.
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// The kernel refused a request.
    #[error("cannot {what}: {errno}{}", hint(*errno))]
    Refused {
        /// The operation that failed, with its value.
        what: String,
        /// The kernel's error.
        errno: Errno,
    },
    /// IPv6 is disabled on the interface.
    #[error(
        "cannot {what}: IPv6 is disabled (disable_ipv6 of {interface} is 1); remove it from the configuration, or \
         enable IPv6: `--sysctl net.ipv6.conf.all.disable_ipv6=0` in Docker, `sysctl -w \
         net.ipv6.conf.all.disable_ipv6=0` on a host"
    )]
    NoIpv6 {
        /// The operation that failed, with its value.
        what: String,
        /// The interface.
        interface: String,
    },
    /// The request or the kernel's answer is invalid.
    #[error("cannot {what}: {problem}")]
    Answer {
        /// The operation that failed.
        what: String,
        /// What is wrong.
        problem: String,
    },
}

/// Configures `interface` in the calling thread's network namespace, blocking until the kernel has applied
/// everything. Existing addresses and routes are kept.
///
/// # Errors
/// The first request the kernel refused. Earlier requests remain applied.
///
/// # Panics
/// If called inside an async runtime, since it runs its own.
pub fn set_up(interface: &str, setup: &Setup) -> Result<(), NetlinkError> {
    talk(async |handle| apply(&handle, interface, setup, &[]).await)
}

/// Changes an interface from `before` to `after`: removes what only `before` has, then applies `after` like
/// [`set_up`].
///
/// # Errors
/// The first request the kernel refused. Earlier requests remain applied.
///
/// # Panics
/// If called inside an async runtime, since it runs its own.
pub fn change(interface: &str, before: &Setup, after: &Setup) -> Result<(), NetlinkError> {
    talk(async |handle| {
        let index = find(&handle, interface).await?.header.index;
        for rule in before.rules.iter().filter(|rule| !after.rules.contains(rule)) {
            rules::remove(&handle, *rule).await?;
        }
        for route in before.routes.iter().filter(|route| !after.routes.contains(route)) {
            let what = format!("remove the route to {} in table {}", route.net, route.table);
            let removed = handle.route().del(message(index, *route)?).execute().await;
            unless(Errno::ESRCH, removed).map_err(|error| refused(what, &error))?;
        }
        for address in before.addresses.iter().filter(|address| !after.addresses.contains(address)) {
            remove_address(&handle, index, interface, *address).await?;
        }
        // The kernel removes an interface's routes with its last address, and the other addresses in a network
        // with the first one there, so everything in `after` is added again.
        apply(&handle, interface, after, &before.routes).await?;
        for route in before.unreachable.iter().filter(|route| !after.unreachable.contains(route)) {
            barrier::remove(&handle, interface, *route).await?;
        }
        Ok(())
    })
}

/// Lets an interface carry superpackets of any number of segments, as is the kernel's default.
///
/// # Errors
/// The kernel refused the request; before Linux 5.18 it does not support it.
///
/// # Panics
/// If called inside an async runtime, since it runs its own.
pub fn lift_segment_limit(interface: &str) -> Result<(), NetlinkError> {
    talk(async |handle| {
        let index = find(&handle, interface).await?.header.index;
        let limit = LinkAttribute::GsoMaxSegs(GSO_MAX_SEGS);
        let message = LinkMessageBuilder::<LinkUnspec>::new().index(index).append_extra_attribute(limit);
        let what = || format!("set gso_max_segs of {interface} to {GSO_MAX_SEGS}");
        handle.link().set(message.build()).execute().await.map_err(|error| refused(what(), &error))
    })
}

/// Adds the unreachable routes and the rules of `setup`, so that packets for the tunnel cannot leave unencrypted.
/// The interface need not exist.
///
/// # Errors
/// The first request the kernel refused. Earlier requests remain applied.
///
/// # Panics
/// If called inside an async runtime, since it runs its own.
pub fn shut(interface: &str, setup: &Setup) -> Result<(), NetlinkError> {
    if setup.unreachable.is_empty() && setup.rules.is_empty() {
        return Ok(());
    }
    talk(async |handle| bar(&handle, interface, setup).await.map(drop))
}

/// Adds what is missing of `setup` again: unreachable routes and rules always, addresses and routes if the interface
/// is up. Returns how many were missing; 0 if the interface does not exist.
///
/// # Errors
/// The first request the kernel refused. Earlier requests remain applied.
///
/// # Panics
/// If called inside an async runtime, since it runs its own.
pub fn restore(interface: &str, setup: &Setup) -> Result<usize, NetlinkError> {
    talk(async |handle| {
        let link = match find(&handle, interface).await {
            Err(NetlinkError::Refused { errno: Errno::ENODEV, .. }) => return Ok(0),
            link => link?,
        };
        let mut missing = bar(&handle, interface, setup).await?;
        if !link.header.flags.contains(LinkFlags::Up) {
            return Ok(missing);
        }
        let LinkEvent::Changed { mtu, .. } = watch::state(&link) else { return Ok(missing) };
        let possible = |net: &IpNet| net.addr().is_ipv4() || mtu >= u32::from(IPV6_MIN_MTU);
        let index = link.header.index;
        for address in setup.addresses.iter().filter(|address| possible(address)) {
            missing += usize::from(add_address(&handle, index, interface, *address).await?);
        }
        for route in setup.routes.iter().filter(|route| possible(&route.net)) {
            missing += usize::from(add_route(&handle, index, interface, *route).await?);
        }
        Ok(missing)
    })
}

/// Removes the rules and the unreachable routes of `setup`, which outlive the interface.
///
/// # Errors
/// The kernel refused to remove one.
///
/// # Panics
/// If called inside an async runtime, since it runs its own.
pub fn clean_up(interface: &str, setup: &Setup) -> Result<(), NetlinkError> {
    if setup.unreachable.is_empty() && setup.rules.is_empty() {
        return Ok(());
    }
    talk(async |handle| {
        for rule in &setup.rules {
            rules::remove(&handle, *rule).await?;
        }
        for route in &setup.unreachable {
            barrier::remove(&handle, interface, *route).await?;
        }
        Ok(())
    })
}

/// Adds the unreachable routes, then the rules. Returns how many were missing.
async fn bar(handle: &Handle, interface: &str, setup: &Setup) -> Result<usize, NetlinkError> {
    let mut missing = 0;
    for route in &setup.unreachable {
        missing += usize::from(barrier::add(handle, interface, *route).await?);
    }
    for rule in &setup.rules {
        missing += usize::from(rules::add(handle, *rule).await?);
    }
    Ok(missing)
}

/// Runs `work` with a netlink handle on a new single-threaded runtime.
fn talk<T>(work: impl AsyncFnOnce(Handle) -> Result<T, NetlinkError>) -> Result<T, NetlinkError> {
    runtime()?.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        work(handle).await
    })
}

/// Applies `setup`. If a route exists already, warns unless it is in `known`, the routes added before.
async fn apply(handle: &Handle, interface: &str, setup: &Setup, known: &[Route]) -> Result<(), NetlinkError> {
    bar(handle, interface, setup).await?;
    let index = find(handle, interface).await?.header.index;
    let change = |message: LinkMessageBuilder<LinkUnspec>, what: String| {
        let request = handle.link().set(message.build()).execute();
        async move { request.await.map_err(|error| refused(what, &error)) }
    };
    let link = || LinkMessageBuilder::<LinkUnspec>::new().index(index);
    change(link().mtu(setup.mtu.into()), format!("set the MTU of {interface} to {}", setup.mtu)).await?;
    let what = format!("set the queue length of {interface} to {TX_QUEUE_LENGTH}");
    change(link().txqueuelen(TX_QUEUE_LENGTH), what).await?;
    let segments = LinkAttribute::GsoMaxSegs(setup.gso_max_segs);
    let what = format!("set gso_max_segs of {interface} to {}", setup.gso_max_segs);
    if let Err(error) = change(link().append_extra_attribute(segments), what).await {
        // Kernels before 5.18 do not support this request; some superpackets then take two sends.
        tracing::info!("{error}");
    }
    // As the kernel's WireGuard does (`wg_setup` in `drivers/net/wireguard/device.c`). The kernel generates a
    // link-local address when the interface comes up.
    let generated = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(
        In6AddrGenMode::None,
    )])]);
    let what = format!("disable generated IPv6 addresses on {interface}");
    if let Err(error) = change(link().append_extra_attribute(generated), what).await {
        // Refused by kernels without IPv6, which generate no addresses.
        tracing::debug!("{error}");
    }
    for address in &setup.addresses {
        add_address(handle, index, interface, *address).await?;
    }
    if setup.up {
        change(link().up(), format!("bring {interface} up")).await?;
    }
    for route in &setup.routes {
        if !add_route(handle, index, interface, *route).await? && !known.contains(route) {
            let net = route.net;
            tracing::warn!("a route to {net} already exists; packets for it may not reach {interface}");
        }
    }
    Ok(())
}

/// Adds an address. Returns whether it was missing.
async fn add_address(
    handle: &Handle,
    index: u32,
    interface: &str,
    address: IpNet,
) -> Result<bool, NetlinkError> {
    let request = handle.address().add(index, address.addr(), address.prefix_len());
    let what = format!("add the address {address} to {interface}");
    added(request.execute().await).map_err(|error| refused_for(address, interface, what, &error))
}

/// Adds a route into the interface. Returns whether it was missing.
async fn add_route(handle: &Handle, index: u32, interface: &str, route: Route) -> Result<bool, NetlinkError> {
    let what = format!("add a route to {} through {interface} in table {}", route.net, route.table);
    added(handle.route().add(message(index, route)?).execute().await)
        .map_err(|error| refused_for(route.net, interface, what, &error))
}

fn message(index: u32, Route { net, table }: Route) -> Result<RouteMessage, NetlinkError> {
    // The scope of a network that is reached without a gateway: gateways can be in it. IPv6 routes have no scope.
    let scope = if net.addr().is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
    let builder = RouteMessageBuilder::<IpAddr>::new().output_interface(index).table_id(table).scope(scope);
    let builder = builder.destination_prefix(net.network(), net.prefix_len());
    let builder = builder.map_err(|error| NetlinkError::Answer {
        what: format!("encode a route to {net}"),
        problem: error.to_string(),
    })?;
    Ok(builder.build())
}

async fn remove_address(
    handle: &Handle,
    index: u32,
    interface: &str,
    address: IpNet,
) -> Result<(), NetlinkError> {
    let what = || format!("remove the address {address} from {interface}");
    let request = handle.address().get().set_link_index_filter(index).set_address_filter(address.addr());
    let request = request.set_prefix_length_filter(address.prefix_len());
    // The kernel matches a deletion by all of the address's attributes, so they are read first.
    let found = request.execute().try_next().await.map_err(|error| refused(what(), &error))?;
    let Some(found) = found else { return Ok(()) };
    let removed = handle.address().del(found).execute().await;
    unless(Errno::EADDRNOTAVAIL, removed).map_err(|error| refused(what(), &error))
}

async fn find(handle: &Handle, interface: &str) -> Result<LinkMessage, NetlinkError> {
    let what = || format!("find the interface {interface}");
    let found = handle.link().get().match_name(interface.to_owned()).execute().try_next().await;
    match found.map_err(|error| refused(what(), &error))? {
        Some(link) => Ok(link),
        None => Err(NetlinkError::Refused { what: what(), errno: Errno::ENODEV }),
    }
}

/// Treats the errno `expected` as success: the requested state already holds.
fn unless(expected: Errno, result: Result<(), rtnetlink::Error>) -> Result<(), rtnetlink::Error> {
    match result {
        Err(error) if errno(&error) == Some(expected) => Ok(()),
        result => result,
    }
}

/// Returns whether a request to add something added it, rather than finding it there already.
fn added(result: Result<(), rtnetlink::Error>) -> Result<bool, rtnetlink::Error> {
    match result {
        Err(error) if errno(&error) == Some(Errno::EEXIST) => Ok(false),
        result => result.map(|()| true),
    }
}

fn errno(error: &rtnetlink::Error) -> Option<Errno> {
    match error {
        rtnetlink::Error::NetlinkError(message) => Some(Errno::from_raw(-message.raw_code())),
        _ => None,
    }
}

fn refused(what: String, error: &rtnetlink::Error) -> NetlinkError {
    match errno(error) {
        Some(errno) => NetlinkError::Refused { what, errno },
        None => NetlinkError::Answer { what, problem: error.to_string() },
    }
}

/// Like [`refused`], for a request about `net` on `interface`; reports a disabled IPv6 as such.
fn refused_for(net: IpNet, interface: &str, what: String, error: &rtnetlink::Error) -> NetlinkError {
    // EACCES means that IPv6 is disabled; a missing capability gives EPERM.
    let off = || ipv6_setting(interface, "disable_ipv6") == Some(1);
    if matches!(net, IpNet::V6(_)) && errno(error) == Some(Errno::EACCES) && off() {
        return NetlinkError::NoIpv6 { what, interface: interface.to_owned() };
    }
    refused(what, error)
}

/// Reads a numeric IPv6 setting of `interface` (or of `default`, for future interfaces) in the calling thread's
/// network namespace. Returns `None` if there is no such setting, as in a kernel without IPv6.
pub fn ipv6_setting(interface: &str, name: &str) -> Option<u32> {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/{name}");
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn hint(errno: Errno) -> &'static str {
    match errno {
        Errno::EPERM | Errno::EACCES => {
            "; this requires CAP_NET_ADMIN: `--cap-add NET_ADMIN` in Docker, \
             `securityContext.capabilities.add: [NET_ADMIN]` in Kubernetes"
        }
        Errno::EOPNOTSUPP => "; this kernel may have been started without IPv6 (ipv6.disable=1)",
        _ => "",
    }
}

fn runtime() -> io::Result<runtime::Runtime> {
    runtime::Builder::new_current_thread().enable_io().build()
}

#[cfg(test)]
mod tests;
