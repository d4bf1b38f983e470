//! The interface as the kernel sees it: MTU, queue lengths, addresses, routes, and news about it
//! (rtnetlink(7)).
//!
//! Sockets are opened in the calling thread's network namespace and stay in it.

mod addresses;
mod rules;
mod watch;

use std::fs;
use std::io;
use std::net::IpAddr;

use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use nix::errno::Errno;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::RouteMessage;
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};
use tokio::runtime;

pub use addresses::AddressWatch;
pub use rules::{DefaultRule, IpVersion};
pub use watch::{LinkEvent, LinkWatch};

/// Packets that the TUN queue holds while we do not read. The default of 500 is too short for bulk
/// TCP at 20 ms.
const TX_QUEUE_LENGTH: u32 = 10_000;

/// How an interface is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// MTU in bytes.
    pub mtu: u16,
    /// The most segments of one superpacket, `gso_max_segs` in ip-link(8).
    pub gso_max_segs: u32,
    /// Addresses, host bits kept.
    pub addresses: Vec<IpNet>,
    /// Routes into it.
    pub routes: Vec<Route>,
    /// Rules that lead to those of them that are default routes.
    pub rules: Vec<DefaultRule>,
    /// Whether it is brought up. An interface that is down takes no routes.
    pub up: bool,
}

/// A route into the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it leads, host bits zero.
    pub net: IpNet,
    /// The number of its routing table.
    pub table: u32,
}

/// Why an interface is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// There is no way to talk to the kernel.
    #[error("no netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// The kernel refused something.
    #[error("cannot {what}: {errno}{}", hint(*errno))]
    Refused {
        /// What was attempted, with its value.
        what: String,
        /// What the kernel said.
        errno: Errno,
    },
    /// IPv6 is switched off for the interface.
    #[error(
        "cannot {what}: IPv6 is switched off here (disable_ipv6 of {interface} is 1); leave it out, or switch IPv6 \
         on: `--sysctl net.ipv6.conf.all.disable_ipv6=0` in Docker, `sysctl -w net.ipv6.conf.all.disable_ipv6=0` on a \
         host"
    )]
    NoIpv6 {
        /// What was attempted, with its value.
        what: String,
        /// The interface.
        interface: String,
    },
    /// The kernel's answer makes no sense.
    #[error("cannot {what}: {problem}")]
    Answer {
        /// What was attempted.
        what: String,
        /// What is wrong.
        problem: String,
    },
}

/// Sets `interface` up, in the calling thread's network namespace. Blocks until the kernel has done
/// it all. Addresses and routes that are there already stay.
///
/// # Errors
/// The first thing that the kernel refused; what came before it stays done.
///
/// # Panics
/// Inside an async runtime, for it runs one of its own.
pub fn set_up(interface: &str, setup: &Setup) -> Result<(), NetlinkError> {
    talk(async |handle| apply(&handle, interface, setup, &[]).await)
}

/// Makes an interface that is as `before` says as `after` says: like [`set_up`], and what only `before`
/// has is taken away.
///
/// # Errors
/// The first thing that the kernel refused; what came before it stays done.
///
/// # Panics
/// Inside an async runtime, for it runs one of its own.
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
        // With an interface's last address the kernel removes its routes, and with its first in a network
        // the others there: all that is to be there is added once more.
        apply(&handle, interface, after, &before.routes).await
    })
}

/// Takes away what would outlive the interface: its rules.
///
/// # Errors
/// The kernel refused to.
///
/// # Panics
/// Inside an async runtime, for it runs one of its own.
pub fn clean_up(rules: &[DefaultRule]) -> Result<(), NetlinkError> {
    if rules.is_empty() {
        return Ok(());
    }
    talk(async |handle| {
        for rule in rules {
            rules::remove(&handle, *rule).await?;
        }
        Ok(())
    })
}

/// Speaks netlink on a small runtime of its own.
fn talk<T>(work: impl AsyncFnOnce(Handle) -> Result<T, NetlinkError>) -> Result<T, NetlinkError> {
    runtime()?.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        work(handle).await
    })
}

/// `known` are routes that are ours if they are there already.
async fn apply(handle: &Handle, interface: &str, setup: &Setup, known: &[Route]) -> Result<(), NetlinkError> {
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
        // Kernels before 5.18 have no such request; superpackets then take two sends now and then.
        tracing::info!("{error}");
    }
    for address in &setup.addresses {
        let request = handle.address().add(index, address.addr(), address.prefix_len());
        let what = format!("give {interface} the address {address}");
        unless(Errno::EEXIST, request.execute().await)
            .map_err(|error| refused_for(*address, interface, what, &error))?;
    }
    if setup.up {
        change(link().up(), format!("bring {interface} up")).await?;
    }
    for route in &setup.routes {
        let what = format!("add a route to {} through {interface} in table {}", route.net, route.table);
        match handle.route().add(message(index, *route)?).execute().await {
            Err(error) if errno(&error) == Some(Errno::EEXIST) => {
                if !known.contains(route) {
                    let net = route.net;
                    tracing::warn!(
                        "there is a route to {net} already, and packets for it may not reach {interface}"
                    );
                }
            }
            result => result.map_err(|error| refused_for(route.net, interface, what, &error))?,
        }
    }
    for rule in &setup.rules {
        rules::add(handle, *rule).await?;
    }
    Ok(())
}

fn message(index: u32, Route { net, table }: Route) -> Result<RouteMessage, NetlinkError> {
    let builder = RouteMessageBuilder::<IpAddr>::new().output_interface(index).table_id(table);
    let builder = builder.destination_prefix(net.network(), net.prefix_len());
    let builder = builder.map_err(|error| NetlinkError::Answer {
        what: format!("write a route to {net}"),
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
    let what = || format!("take the address {address} from {interface}");
    let request = handle.address().get().set_link_index_filter(index).set_address_filter(address.addr());
    let request = request.set_prefix_length_filter(address.prefix_len());
    // Deleted with all the attributes that the kernel has of it, as it wants it.
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

/// `expected` is no failure: what was asked for is so already.
fn unless(expected: Errno, result: Result<(), rtnetlink::Error>) -> Result<(), rtnetlink::Error> {
    match result {
        Err(error) if errno(&error) == Some(expected) => Ok(()),
        result => result,
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

/// The same for what was to be done with `net` on `interface`.
fn refused_for(net: IpNet, interface: &str, what: String, error: &rtnetlink::Error) -> NetlinkError {
    // The kernel's word for a missing capability is EPERM.
    let off = || ipv6_setting(interface, "disable_ipv6") == Some(1);
    if matches!(net, IpNet::V6(_)) && errno(error) == Some(Errno::EACCES) && off() {
        return NetlinkError::NoIpv6 { what, interface: interface.to_owned() };
    }
    refused(what, error)
}

/// A number among the IPv6 settings of `interface`, or of `default` for interfaces that are yet to be made, in
/// the calling thread's network namespace. `None` if there is none, as in a kernel without IPv6.
pub fn ipv6_setting(interface: &str, name: &str) -> Option<u32> {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/{name}");
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn hint(errno: Errno) -> &'static str {
    match errno {
        Errno::EPERM | Errno::EACCES => {
            "; it takes CAP_NET_ADMIN: `--cap-add NET_ADMIN` in Docker, \
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
