//! The lab: two network namespaces connected by a veth pair, the underlay for two routers. The namespaces have no
//! names outside this process, so the kernel removes everything when the process ends, however it ends.
//!
//! ```text
//!   left namespace                                 right namespace
//!   underlay 192.0.2.1/24  ─────── veth ───────  192.0.2.2/24 underlay
//!            2001:db8::1/64                      2001:db8::2/64
//! ```
//!
//! The addresses are documentation prefixes (RFC 5737, RFC 3849), so they conflict with nothing real.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd as _;
use std::pin::pin;

use futures_util::StreamExt as _;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth};
use thiserror::Error;

use crate::netns::{self, Namespace};

/// The veth device's name, the same at both ends.
pub const CABLE: &str = "underlay";

/// The cable's MTU in bytes, that of Ethernet: a tunnel with an MTU of 1,420 fits (1,420 + 32 + 8 + 40).
pub const CABLE_MTU: u32 = 1500;

/// Two namespaces connected by a cable.
#[derive(Debug)]
pub struct Lab {
    /// The end that sends first in the demo.
    pub left: Side,
    /// The end that receives first in the demo.
    pub right: Side,
}

/// One end of the cable.
#[derive(Debug)]
pub struct Side {
    /// The namespace in which this end's devices and sockets are opened.
    pub namespace: Namespace,
    /// IPv4 address of this end of the cable.
    pub underlay4: Ipv4Addr,
    /// IPv6 address of this end of the cable.
    pub underlay6: Ipv6Addr,
}

/// Errors when creating the lab.
#[derive(Debug, Error)]
pub enum LabError {
    /// The process is neither root nor allowed to create a user namespace.
    #[error(
        "creating network namespaces requires root or a user namespace, and neither is available ({cause}). \
         Run as root (sudo laneway demo), in a container with --cap-add SYS_ADMIN --cap-add NET_ADMIN, \
         or allow user namespaces: sysctl user.max_user_namespaces=10000, on Debian also \
         kernel.unprivileged_userns_clone=1, on Ubuntu also kernel.apparmor_restrict_unprivileged_userns=0"
    )]
    NoPrivilege {
        /// The system error.
        cause: io::Error,
    },
    /// A namespace or thread could not be created for another reason.
    #[error("cannot create a network namespace: {0}")]
    Namespace(#[source] io::Error),
    /// A netlink request failed.
    #[error("cannot set up {what} in the demo's namespace: {cause}")]
    Netlink {
        /// What was being set up.
        what: String,
        /// The system error.
        cause: rtnetlink::Error,
    },
}

/// Ensures that this process may create a [`Lab`], by becoming root in a new user namespace if necessary. Must be
/// called while the process has a single thread.
///
/// # Errors
/// [`LabError::NoPrivilege`] if the system does not permit it, [`LabError::Namespace`] if `/proc` is not mounted.
pub fn gain_privilege() -> Result<(), LabError> {
    if netns::may_administer().map_err(LabError::Namespace)? {
        return Ok(());
    }
    netns::become_root_of_user_namespace().map_err(|cause| LabError::NoPrivilege { cause })
}

impl Lab {
    /// Creates both namespaces and the cable between them, up and addressed. Loopback is up at both ends.
    ///
    /// # Errors
    /// Privilege is missing, or the kernel does not support veth.
    pub fn create() -> Result<Lab, LabError> {
        let (left, right) = (Side::create(1)?, Side::create(2)?);
        left.netlink(async |handle| add_cable(&handle, &right.namespace).await)?;
        left.bring_up()?;
        right.bring_up()?;
        Ok(Lab { left, right })
    }
}

impl Side {
    /// Adds an address with its prefix length to a device at this end, and brings the device up. IPv6 addresses are
    /// usable at once (no duplicate address detection).
    ///
    /// # Errors
    /// The device does not exist, or the kernel refused the address.
    pub fn address(&self, device: &str, address: IpAddr, prefix: u8) -> Result<(), LabError> {
        self.netlink(async |handle| {
            let index = index_of(&handle, device).await?;
            let mut request = handle.address().add(index, address, prefix);
            if address.is_ipv6() {
                // Nothing else is on the cable, and a tentative address would be unusable for about a second.
                request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            }
            let added = request.execute().await;
            added.map_err(|cause| failed(format!("the address {address}/{prefix} of {device}"), cause))?;
            up(&handle, index, device).await
        })
    }

    /// Creates a namespace whose end of the cable will have host number `host`.
    fn create(host: u8) -> Result<Side, LabError> {
        let namespace = Namespace::create().map_err(|cause| match cause.kind() {
            io::ErrorKind::PermissionDenied => LabError::NoPrivilege { cause },
            _ => LabError::Namespace(cause),
        })?;
        Ok(Side {
            namespace,
            underlay4: Ipv4Addr::new(192, 0, 2, host),
            underlay6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, host.into()),
        })
    }

    /// Brings up loopback and the cable, and assigns the cable's addresses.
    fn bring_up(&self) -> Result<(), LabError> {
        self.netlink(async |handle| {
            let loopback = index_of(&handle, "lo").await?;
            up(&handle, loopback, "lo").await
        })?;
        self.address(CABLE, self.underlay4.into(), 24)?;
        self.address(CABLE, self.underlay6.into(), 64)
    }
    /// Runs `talk` with a netlink handle for the namespace. A netlink socket belongs to the namespace of the thread
    /// that opens it, so this uses a new thread with its own runtime.
    fn netlink<T: Send>(
        &self,
        talk: impl AsyncFnOnce(Handle) -> Result<T, LabError> + Send,
    ) -> Result<T, LabError> {
        let inside = self.namespace.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
            runtime.map_err(LabError::Namespace)?.block_on(async {
                let (connection, handle, _) = rtnetlink::new_connection().map_err(LabError::Namespace)?;
                tokio::spawn(connection);
                talk(handle).await
            })
        });
        inside.map_err(LabError::Namespace)?
    }
}

/// Creates a veth pair with one end in this namespace and the other in `there`.
async fn add_cable(handle: &Handle, there: &Namespace) -> Result<(), LabError> {
    let far_end = LinkMessageBuilder::<LinkUnspec>::new()
        .name(CABLE)
        .mtu(CABLE_MTU)
        .setns_by_fd(there.as_raw_fd())
        .build();
    let near_end = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name(CABLE.to_owned())
        .mtu(CABLE_MTU)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(far_end)))
        .build();
    let added = handle.link().add(near_end).execute().await;
    added.map_err(|cause| failed("the veth cable", cause))
}

async fn index_of(handle: &Handle, device: &str) -> Result<u32, LabError> {
    let mut found = pin!(handle.link().get().match_name(device).execute());
    match found.next().await {
        Some(Ok(link)) => Ok(link.header.index),
        Some(Err(cause)) => Err(failed(device, cause)),
        None => Err(failed(device, rtnetlink::Error::RequestFailed)),
    }
}

async fn up(handle: &Handle, index: u32, device: &str) -> Result<(), LabError> {
    let message = LinkUnspec::new_with_index(index).up().build();
    handle.link().set(message).execute().await.map_err(|cause| failed(device, cause))
}

fn failed(what: impl Into<String>, cause: rtnetlink::Error) -> LabError {
    LabError::Netlink { what: what.into(), cause }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::Duration;

    #[test]
    fn both_ends_of_the_cable_reach_each_other_over_ipv4_and_ipv6() {
        if std::env::var_os("LANEWAY_SKIP_NETNS").is_some_and(|skip| skip == "1") {
            return;
        }
        let lab = Lab::create().expect("run as root, or set LANEWAY_SKIP_NETNS=1");
        let pairs: [(IpAddr, IpAddr); 2] = [
            (lab.left.underlay4.into(), lab.right.underlay4.into()),
            (lab.left.underlay6.into(), lab.right.underlay6.into()),
        ];
        for (left, right) in pairs {
            let bind = |side: &Side, address| side.namespace.run(|| UdpSocket::bind((address, 0))).unwrap();
            let (sender, receiver) = (bind(&lab.left, left).unwrap(), bind(&lab.right, right).unwrap());
            receiver.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            let mut bytes = [0; 16];
            // The first datagrams may be lost until the kernel sees carrier on both ends.
            let came = (0..60).find_map(|_| {
                sender.send_to(b"across", receiver.local_addr().unwrap()).unwrap();
                receiver.recv_from(&mut bytes).ok()
            });
            let (length, from) = came.expect("a datagram crosses");
            assert_eq!((&bytes[..length], from), (&b"across"[..], sender.local_addr().unwrap()));
        }
    }

    #[test]
    fn the_sentence_for_a_person_without_privilege_names_every_way_out() {
        let cause = io::Error::from(io::ErrorKind::PermissionDenied);
        let sentence = LabError::NoPrivilege { cause }.to_string();
        for way in ["sudo", "--cap-add", "user.max_user_namespaces", "unprivileged_userns"] {
            assert!(sentence.contains(way), "{sentence}");
        }
    }
}
