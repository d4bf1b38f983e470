//! News about the interface: its MTU, whether it is up, and its end.

use std::fmt;

use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::{Handle, MulticastGroup};

use super::{NetlinkError, find};

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

fn state(link: &LinkMessage) -> LinkEvent {
    let mtu = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    });
    LinkEvent::Changed { mtu: mtu.unwrap_or(0), up: link.header.flags.contains(LinkFlags::Up) }
}
