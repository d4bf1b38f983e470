//! The state of an interface that was moved to another network namespace.
//!
//! The kernel tells a socket only of the interfaces of its own namespace, unless the process has `CAP_NET_BROADCAST`
//! (netlink(7), `NETLINK_LISTEN_ALL_NSID`), so the state has to be asked for.

use std::fmt;
use std::os::fd::{AsFd, AsRawFd as _};

use futures_util::{StreamExt as _, TryStreamExt as _};
use nix::errno::Errno;
use rtnetlink::Handle;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::nsid::{NsidAttribute, NsidMessage};

use super::watch::state;
use super::{LinkEvent, NetlinkError, refused};

/// Looks at interfaces in other network namespaces. Requires `CAP_NET_ADMIN` in both.
pub struct OtherNamespaces {
    handle: Handle,
}

impl OtherNamespaces {
    /// Opens a netlink socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// The socket cannot be opened.
    pub fn open() -> Result<Self, NetlinkError> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(OtherNamespaces { handle })
    }

    /// Returns the state of `interface` in `namespace`.
    ///
    /// # Errors
    /// There is no such interface there, or the kernel refused a request.
    pub async fn state(&self, namespace: impl AsFd, interface: &str) -> Result<LinkEvent, NetlinkError> {
        let what = || format!("find the interface {interface} in another network namespace");
        let id = self.id(namespace).await?;
        let mut request = self.handle.link().get().match_name(interface);
        request.message_mut().attributes.push(LinkAttribute::IfNetnsId(id));
        match request.execute().try_next().await.map_err(|error| refused(what(), &error))? {
            Some(link) => Ok(state(&link)),
            None => Err(NetlinkError::Refused { what: what(), errno: Errno::ENODEV }),
        }
    }

    /// Returns the number by which this namespace knows the other one, and has the kernel choose one if there is none.
    async fn id(&self, namespace: impl AsFd) -> Result<i32, NetlinkError> {
        let fd = NsidAttribute::Fd(namespace.as_fd().as_raw_fd().cast_unsigned());
        if let Some(id) = self.known_id(fd.clone()).await? {
            return Ok(id);
        }
        let any = NsidAttribute::Id(-1);
        self.ask(RouteNetlinkMessage::NewNsId(message(vec![fd.clone(), any])), NLM_F_ACK).await?;
        let unknown = || NetlinkError::Refused { what: WHAT.to_owned(), errno: Errno::ENOENT };
        self.known_id(fd).await?.ok_or_else(unknown)
    }

    async fn known_id(&self, fd: NsidAttribute) -> Result<Option<i32>, NetlinkError> {
        let answer = self.ask(RouteNetlinkMessage::GetNsId(message(vec![fd])), 0).await?;
        let Some(RouteNetlinkMessage::NewNsId(answer)) = answer else { return Ok(None) };
        // A negative number means that there is none.
        Ok(answer.attributes.into_iter().find_map(|attribute| match attribute {
            NsidAttribute::Id(id) if id >= 0 => Some(id),
            _ => None,
        }))
    }

    async fn ask(
        &self,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Option<RouteNetlinkMessage>, NetlinkError> {
        let mut request = NetlinkMessage::from(request);
        request.header.flags = NLM_F_REQUEST | flags;
        let refused = |error: &rtnetlink::Error| refused(WHAT.to_owned(), error);
        let mut answers = self.handle.clone().request(request).map_err(|error| refused(&error))?;
        while let Some(answer) = answers.next().await {
            match answer.payload {
                NetlinkPayload::Error(error) if error.code.is_some() => {
                    return Err(refused(&rtnetlink::Error::NetlinkError(error)));
                }
                NetlinkPayload::InnerMessage(answer) => return Ok(Some(answer)),
                _ => {}
            }
        }
        Ok(None)
    }
}

const WHAT: &str = "identify another network namespace";

fn message(attributes: Vec<NsidAttribute>) -> NsidMessage {
    let mut message = NsidMessage::default();
    message.attributes = attributes;
    message
}

impl fmt::Debug for OtherNamespaces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OtherNamespaces").finish_non_exhaustive()
    }
}
