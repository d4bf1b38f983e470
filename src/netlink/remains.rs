//! What a router left in the kernel when its process was killed, crashed, or ended with `LANEWAY_KEEP=on`.

use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use nix::errno::Errno;
use rtnetlink::Handle;
use rtnetlink::packet_core::Nla as _;
use rtnetlink::packet_route::address::{AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{InfoData, LinkAttribute, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage, RouteProtocol, RouteType};

use super::MAIN_TABLE;
use super::addresses::own;
use super::barrier::{self, ANY};
use super::{
    DefaultRule, IpVersion, NetlinkError, PortRule, Setup, find, port_rules, refused, rules, talk, unless,
};

/// Attributes of a TUN interface (`IFLA_TUN_*` in `include/uapi/linux/if_link.h`), since Linux 4.20.
const TUN_PERSIST: u16 = 6;
const TUN_QUEUES: u16 = 8;
const TUN_DISABLED_QUEUES: u16 = 9;

/// An existing TUN interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunState {
    /// Whether the interface exists without a process.
    pub persistent: bool,
    /// Number of queues that processes have attached, enabled or not.
    pub queues: u32,
}

/// The state of an interface and of the rules and routes that outlive it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remains {
    /// Whether an interface of this name exists, and if it is a multiqueue TUN, its state.
    pub device: Option<Option<TunState>>,
    /// Addresses, routes and rules that a router added.
    pub setup: Setup,
    /// Rules for datagrams to a router's UDP port.
    pub port_rules: Vec<PortRule>,
}

impl Remains {
    /// Returns whether there is anything.
    pub fn is_empty(&self) -> bool {
        self.device.is_none() && self.setup.unreachable.is_empty() && self.setup.rules.is_empty()
    }
}

/// Returns what exists for `interface` in the calling thread's network namespace.
///
/// # Errors
/// A netlink request failed.
///
/// # Panics
/// If called inside an async runtime, since it runs its own.
pub fn remains(interface: &str) -> Result<Remains, NetlinkError> {
    talk(async |handle| look(&handle, interface).await)
}

/// Returns the state of the multiqueue TUN `interface`, or `None` if there is no such interface.
///
/// # Errors
/// A netlink request failed.
///
/// # Panics
/// If called inside an async runtime, since it runs its own.
pub fn tun_state(interface: &str) -> Result<Option<TunState>, NetlinkError> {
    talk(async |handle| Ok(link(&handle, interface).await?.and_then(|link| state(&link))))
}

/// Deletes `interface`, if it exists.
///
/// # Errors
/// The kernel refused.
///
/// # Panics
/// If called inside an async runtime, since it runs its own.
pub fn delete(interface: &str) -> Result<(), NetlinkError> {
    talk(async |handle| {
        let Some(link) = link(&handle, interface).await? else { return Ok(()) };
        unless(Errno::ENODEV, handle.link().del(link.header.index).execute().await)
            .map_err(|error| refused(format!("delete the interface {interface}"), &error))
    })
}

async fn look(handle: &Handle, interface: &str) -> Result<Remains, NetlinkError> {
    let mut setup = Setup::default();
    let link = link(handle, interface).await?;
    let index = link.as_ref().map(|link| link.header.index);
    if let Some(index) = index {
        let request = handle.address().get().set_link_index_filter(index).execute();
        let addresses = request.try_filter_map(async |message| Ok(configured(&message)));
        setup.addresses = addresses
            .try_collect()
            .await
            .map_err(|error| refused(format!("list the addresses of {interface}"), &error))?;
    }
    let into = |route: &RouteMessage| {
        index.is_some_and(|index| route.attributes.contains(&RouteAttribute::Oif(index)))
            && route.header.kind == RouteType::Unicast
            && route.header.protocol == RouteProtocol::Static
    };
    for any in ANY {
        setup.routes.extend(barrier::routes(handle, any, into).await?);
        let barriers = barrier::routes(handle, any, |route| barrier::is_of(route, interface)).await?;
        setup.unreachable.extend(barriers);
        let version = IpVersion::of(any);
        let all = setup.routes.iter().chain(&setup.unreachable);
        let is_default = |net: &IpNet| net.prefix_len() == 0 && net.addr().is_ipv4() == any.is_ipv4();
        let tables: Vec<u32> = all
            .filter(|route| is_default(&route.net) && route.table != MAIN_TABLE)
            .map(|route| route.table)
            .collect();
        let marks = rules::tables(handle, version).await?.into_iter().filter(|mark| tables.contains(mark));
        setup.rules.extend(marks.map(|mark| DefaultRule { version, mark }));
    }
    let marks: Vec<u32> = setup.rules.iter().map(|rule| rule.mark).collect();
    let port_rules = port_rules::of_marks(handle, &marks).await?;
    Ok(Remains { device: link.map(|link| state(&link)), setup, port_rules })
}

async fn link(handle: &Handle, interface: &str) -> Result<Option<LinkMessage>, NetlinkError> {
    match find(handle, interface).await {
        Ok(link) => Ok(Some(link)),
        Err(NetlinkError::Refused { errno: Errno::ENODEV, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn state(link: &LinkMessage) -> Option<TunState> {
    let data = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.iter().find_map(|info| match info {
            LinkInfo::Data(InfoData::Tun(data)) => Some(data),
            _ => None,
        }),
        _ => None,
    })?;
    let value = |kind| {
        let found = data.iter().find(|attribute| attribute.kind() == kind)?;
        let mut bytes = [0; 4];
        let length = found.value_len();
        found.emit_value(bytes.get_mut(..length)?);
        // Bytes are stored in native order, and an u8 comes first in either order once the rest is cut off.
        Some(if length == 1 { u32::from(bytes[0]) } else { u32::from_ne_bytes(bytes) })
    };
    // Single-queue interfaces have no number of queues.
    let queues = value(TUN_QUEUES)? + value(TUN_DISABLED_QUEUES).unwrap_or(0);
    Some(TunState { persistent: value(TUN_PERSIST) == Some(1), queues })
}

/// Returns the address with its prefix length, unless the kernel generated it.
fn configured(message: &AddressMessage) -> Option<IpNet> {
    let is_link_local = message.header.scope == AddressScope::Link;
    own(message).filter(|_| !is_link_local).and_then(|own| IpNet::new(own, message.header.prefix_len).ok())
}
