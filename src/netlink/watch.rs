//! Watches an interface's MTU, state and removal.

use std::fmt;

use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::{Handle, MulticastGroup};

use super::{NetlinkError, find};

/// State of a watched interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// The interface was removed or moved to another network namespace.
    Gone,
    /// The current MTU and state.
    Changed {
        /// MTU in bytes.
        mtu: u32,
        /// Whether the interface is up.
        up: bool,
    },
}

/// Watches one interface.
pub struct LinkWatch {
    handle: Handle,
    messages: BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>,
    index: u32,
    last: LinkEvent,
}

impl LinkWatch {
    /// Starts watching `interface` in the calling thread's network namespace.
    ///
    /// # Errors
    /// The interface does not exist, or a netlink request failed.
    pub async fn open(interface: &str) -> Result<Self, NetlinkError> {
        // Subscribe before reading the state, so that no change in between is missed.
        let (connection, handle, messages) = rtnetlink::new_multicast_connection(&[MulticastGroup::Link])?;
        tokio::spawn(connection);
        let link = find(&handle, interface).await?;
        let messages = messages.map(|(message, _)| message).boxed();
        Ok(LinkWatch { handle, messages, index: link.header.index, last: state(&link) })
    }

    /// Returns the interface's index.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Returns the state last seen.
    pub fn last(&self) -> LinkEvent {
        self.last
    }

    /// Waits until the interface changes or is removed, and returns its new state.
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
                // Messages were lost because they arrived faster than they were read.
                Some(NetlinkPayload::Overrun(_)) => self.look().await,
                Some(_) => continue,
                // The socket failed. Without notifications the interface counts as gone.
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

pub(super) fn state(link: &LinkMessage) -> LinkEvent {
    let mtu = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    });
    LinkEvent::Changed { mtu: mtu.unwrap_or(0), up: link.header.flags.contains(LinkFlags::Up) }
}
