//! News about the interface's addresses, whoever gives or takes them.

use std::fmt;
use std::net::IpAddr;

use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::{Handle, MulticastGroup};

use super::{NetlinkError, find, refused};

/// The addresses of one interface, followed.
pub struct AddressWatch {
    handle: Handle,
    messages: BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>,
    index: u32,
    last: Vec<IpAddr>,
}

impl AddressWatch {
    /// Begins to watch `interface`, in the calling thread's network namespace.
    ///
    /// # Errors
    /// There is no such interface, or the kernel does not talk to us.
    pub async fn open(interface: &str) -> Result<Self, NetlinkError> {
        // First the news, then the state: nothing is missed between the two.
        let groups = [MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let (connection, handle, messages) = rtnetlink::new_multicast_connection(&groups)?;
        tokio::spawn(connection);
        let index = find(&handle, interface).await?.header.index;
        let last = list(&handle, index).await.map_err(|error| {
            let what = format!("list the addresses of {interface}");
            refused(what, &error)
        })?;
        let messages = messages.map(|(message, _)| message).boxed();
        Ok(AddressWatch { handle, messages, index, last })
    }

    /// The addresses when they were last looked at, sorted.
    pub fn last(&self) -> &[IpAddr] {
        &self.last
    }

    /// Waits until they have changed; what they are now, sorted. `None` if there is no more news, because
    /// the socket failed.
    pub async fn next(&mut self) -> Option<&[IpAddr]> {
        loop {
            match self.messages.next().await?.payload {
                NetlinkPayload::InnerMessage(
                    RouteNetlinkMessage::NewAddress(message) | RouteNetlinkMessage::DelAddress(message),
                ) if message.header.index == self.index => {}
                // News came faster than we read it, and some are lost.
                NetlinkPayload::Overrun(_) => {}
                _ => continue,
            }
            // An interface that is gone has none.
            let now = list(&self.handle, self.index).await.unwrap_or_default();
            if now != self.last {
                self.last = now;
                return Some(&self.last);
            }
        }
    }
}

impl fmt::Debug for AddressWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddressWatch")
            .field("index", &self.index)
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}

async fn list(handle: &Handle, index: u32) -> Result<Vec<IpAddr>, rtnetlink::Error> {
    let request = handle.address().get().set_link_index_filter(index).execute();
    let mut addresses: Vec<_> =
        request.try_filter_map(async |message| Ok(own(&message))).try_collect().await?;
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

/// Our end of an address: IPv4 calls the other end of a point-to-point link the address, if there is one.
fn own(message: &AddressMessage) -> Option<IpAddr> {
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(local) => return Some(*local),
            AddressAttribute::Address(either) => address = Some(*either),
            _ => {}
        }
    }
    address
}
