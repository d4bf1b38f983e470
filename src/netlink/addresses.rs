//! Watches an interface's addresses, whoever adds or removes them.

use std::fmt;
use std::net::IpAddr;

use futures_util::stream::BoxStream;
use futures_util::{StreamExt as _, TryStreamExt as _};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::{Handle, MulticastGroup};

use super::{NetlinkError, find, refused};

/// Watches the addresses of one interface.
pub struct AddressWatch {
    handle: Handle,
    messages: BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>,
    index: u32,
    last: Vec<IpAddr>,
}

impl AddressWatch {
    /// Starts watching `interface` in the calling thread's network namespace.
    ///
    /// # Errors
    /// The interface does not exist, or a netlink request failed.
    pub async fn open(interface: &str) -> Result<Self, NetlinkError> {
        // Subscribe before reading the state, so that no change in between is missed.
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

    /// Returns the addresses last seen, sorted.
    pub fn last(&self) -> &[IpAddr] {
        &self.last
    }

    /// Waits for a change and returns the new addresses, sorted. Returns `None` if the socket failed.
    pub async fn next(&mut self) -> Option<&[IpAddr]> {
        loop {
            match self.messages.next().await?.payload {
                NetlinkPayload::InnerMessage(
                    RouteNetlinkMessage::NewAddress(message) | RouteNetlinkMessage::DelAddress(message),
                ) if message.header.index == self.index => {}
                // Messages were lost because they arrived faster than they were read.
                NetlinkPayload::Overrun(_) => {}
                _ => continue,
            }
            // An interface that no longer exists has no addresses.
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

/// Returns the local address. On an IPv4 point-to-point link, `IFA_ADDRESS` is the remote end.
pub(super) fn own(message: &AddressMessage) -> Option<IpAddr> {
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
