//! Watches for the removal of addresses, routes and rules, whoever removes them.

use std::fmt;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use rtnetlink::MulticastGroup::{Ipv4Ifaddr, Ipv4Route, Ipv4Rule, Ipv6Ifaddr, Ipv6Route, Ipv6Rule, Link};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkFlags;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage};

use super::{NetlinkError, barrier, find};

/// Watches one interface and what outlives it.
pub struct LossWatch {
    messages: BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>,
    interface: String,
    index: u32,
}

impl LossWatch {
    /// Starts watching `interface` in the calling thread's network namespace.
    ///
    /// # Errors
    /// The interface does not exist, or a netlink request failed.
    pub async fn open(interface: &str) -> Result<Self, NetlinkError> {
        let groups = [Link, Ipv4Ifaddr, Ipv6Ifaddr, Ipv4Route, Ipv6Route, Ipv4Rule, Ipv6Rule];
        let (connection, handle, messages) = rtnetlink::new_multicast_connection(&groups)?;
        tokio::spawn(connection);
        let index = find(&handle, interface).await?.header.index;
        let messages = messages.map(|(message, _)| message).boxed();
        Ok(LossWatch { messages, interface: interface.to_owned(), index })
    }

    /// Waits until something may have been removed. The kernel does not report each route that it removes together
    /// with an address or when the interface goes down, so the caller compares with what should exist. Returns
    /// `None` if the socket failed.
    pub async fn next(&mut self) -> Option<()> {
        loop {
            let removed = match self.messages.next().await?.payload {
                NetlinkPayload::InnerMessage(message) => self.is_loss(&message),
                // Messages were lost because they arrived faster than they were read.
                NetlinkPayload::Overrun(_) => true,
                _ => false,
            };
            if removed {
                return Some(());
            }
        }
    }

    fn is_loss(&self, message: &RouteNetlinkMessage) -> bool {
        match message {
            // Routes cannot be added while the interface is down, so they are added once it is up again.
            RouteNetlinkMessage::NewLink(link) => {
                link.header.index == self.index && link.header.flags.contains(LinkFlags::Up)
            }
            RouteNetlinkMessage::DelAddress(address) => address.header.index == self.index,
            RouteNetlinkMessage::DelRoute(route) => self.concerns(route),
            RouteNetlinkMessage::DelRule(_) => true,
            _ => false,
        }
    }

    fn concerns(&self, route: &RouteMessage) -> bool {
        route.attributes.contains(&RouteAttribute::Oif(self.index)) || barrier::is_of(route, &self.interface)
    }
}

impl fmt::Debug for LossWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LossWatch")
            .field("interface", &self.interface)
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}
