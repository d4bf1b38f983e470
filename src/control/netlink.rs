//! The interface as the kernel sees it: MTU, queue lengths, addresses, routes, and news about it
//! (rtnetlink(7)).
//!
//! Sockets are opened in the calling thread's network namespace and stay in it.

use std::fmt;
use std::io;
use std::net::IpAddr;

use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use ipnet::IpNet;
use nix::errno::Errno;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, MulticastGroup, RouteMessageBuilder};
use tokio::runtime;

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
    runtime()?.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        apply(&handle, interface, setup).await
    })
}

/// What happened to the interface that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// It is gone, or has moved to another network namespace.
    Gone,
    /// Its MTU or its state, as they are now.
    Changed {
        /// MTU in bytes.
        mtu: u32,
        /// Whether it is up.
        up: bool,
    },
}

/// News about one interface.
pub struct LinkWatch {
    handle: Handle,
    messages: BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>,
    index: u32,
    last: LinkEvent,
}

impl LinkWatch {
    /// Begins to watch `interface`, in the calling thread's network namespace.
    ///
    /// # Errors
    /// There is no such interface, or the kernel does not talk to us.
    pub async fn open(interface: &str) -> Result<Self, NetlinkError> {
        // First the news, then the state: nothing is missed between the two.
        let (connection, handle, messages) = rtnetlink::new_multicast_connection(&[MulticastGroup::Link])?;
        tokio::spawn(connection);
        let link = find(&handle, interface).await?;
        let messages = messages.map(|(message, _)| message).boxed();
        Ok(LinkWatch { handle, messages, index: link.header.index, last: state(&link) })
    }

    /// The interface's index.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// How the interface was when it was last looked at.
    pub fn last(&self) -> LinkEvent {
        self.last
    }

    /// Waits until the interface is gone or has changed.
    pub async fn next(&mut self) -> LinkEvent {
        loop {
            let now = match self.messages.next().await.map(|message| message.payload) {
                Some(NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)))
                    if link.header.index == self.index =>
                {
                    state(&link)
                }
                Some(NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)))
                    if link.header.index == self.index =>
                {
                    LinkEvent::Gone
                }
                // News came faster than we read it, and some are lost.
                Some(NetlinkPayload::Overrun(_)) => self.look().await,
                Some(_) => continue,
                // The socket failed; without news the interface counts as gone.
                None => LinkEvent::Gone,
            };
            if now != self.last || now == LinkEvent::Gone {
                self.last = now;
                return now;
            }
        }
    }

    async fn look(&self) -> LinkEvent {
        let found = self.handle.link().get().match_index(self.index).execute().try_next().await;
        found.ok().flatten().map_or(LinkEvent::Gone, |link| state(&link))
    }
}

impl fmt::Debug for LinkWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LinkWatch")
            .field("index", &self.index)
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}

async fn apply(handle: &Handle, interface: &str, setup: &Setup) -> Result<(), NetlinkError> {
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
        unless_there(request.execute().await).map_err(|error| refused(what, &error))?;
    }
    if setup.up {
        change(link().up(), format!("bring {interface} up")).await?;
    }
    for route in &setup.routes {
        add_route(handle, index, interface, *route).await?;
    }
    Ok(())
}

async fn add_route(handle: &Handle, index: u32, interface: &str, route: Route) -> Result<(), NetlinkError> {
    let net = route.net;
    let builder = RouteMessageBuilder::<IpAddr>::new().output_interface(index).table_id(route.table);
    let message = builder.destination_prefix(net.network(), net.prefix_len()).map_err(|error| {
        NetlinkError::Answer { what: format!("write a route to {net}"), problem: error.to_string() }
    })?;
    match handle.route().add(message.build()).execute().await {
        Err(error) if errno(&error) == Some(Errno::EEXIST) => {
            tracing::warn!("there is a route to {net} already, and packets for it may not reach {interface}");
            Ok(())
        }
        result => result.map_err(|error| {
            refused(format!("add a route to {net} through {interface} in table {}", route.table), &error)
        }),
    }
}

async fn find(handle: &Handle, interface: &str) -> Result<LinkMessage, NetlinkError> {
    let what = || format!("find the interface {interface}");
    let found = handle.link().get().match_name(interface.to_owned()).execute().try_next().await;
    match found.map_err(|error| refused(what(), &error))? {
        Some(link) => Ok(link),
        None => Err(NetlinkError::Refused { what: what(), errno: Errno::ENODEV }),
    }
}

fn state(link: &LinkMessage) -> LinkEvent {
    let mtu = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    });
    LinkEvent::Changed { mtu: mtu.unwrap_or(0), up: link.header.flags.contains(LinkFlags::Up) }
}

fn unless_there(result: Result<(), rtnetlink::Error>) -> Result<(), rtnetlink::Error> {
    match result {
        Err(error) if errno(&error) == Some(Errno::EEXIST) => Ok(()),
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

fn hint(errno: Errno) -> &'static str {
    match errno {
        Errno::EPERM | Errno::EACCES => {
            "; it takes CAP_NET_ADMIN: `--cap-add NET_ADMIN` in Docker, \
             `securityContext.capabilities.add: [NET_ADMIN]` in Kubernetes"
        }
        Errno::EOPNOTSUPP => "; IPv6 may be disabled here (sysctl net.ipv6.conf.all.disable_ipv6)",
        _ => "",
    }
}

fn runtime() -> io::Result<runtime::Runtime> {
    runtime::Builder::new_current_thread().enable_io().build()
}

#[cfg(test)]
#[path = "netlink_tests.rs"]
mod tests;
