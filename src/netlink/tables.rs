//! Finds a routing table that no other router uses, as `wg-quick` does (`add_default` in its `linux.bash`).

use std::collections::BTreeSet;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt as _;
use nix::errno::Errno;
use rtnetlink::packet_route::route::{RouteAttribute, RouteMessage};

use super::barrier::{self, ANY};
use super::{IpVersion, MAIN_TABLE, NetlinkError, Route, find, refused, talk};

/// Abstract name of a UNIX socket that one process of the network namespace can hold (unix(7)).
const LOCK: &[u8] = b"laneway/tables";

/// How long to wait for other routers that are choosing a table.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often the lock is tried meanwhile.
const LOOK: Duration = Duration::from_millis(5);

/// Keeps other routers in the network namespace from choosing a table until it is dropped.
#[derive(Debug)]
pub struct TableLock(#[expect(dead_code, reason = "held, not used")] Option<UnixDatagram>);

impl TableLock {
    /// Waits until no other router is choosing a table, up to 2 s. A process that holds the lock for longer cannot
    /// keep a router from starting.
    pub fn take() -> TableLock {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let bound = SocketAddr::from_abstract_name(LOCK).and_then(|name| UnixDatagram::bind_addr(&name));
            match bound {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                    thread::sleep(LOOK);
                }
                bound => return TableLock(bound.ok()),
            }
        }
    }
}

/// Returns the table whose unreachable default route an earlier process of `interface` left, otherwise the first number, from
/// `first` on, of a table without routes of either IP version.
///
/// # Errors
/// A netlink request failed.
///
/// # Panics
/// If called inside an async runtime, since it runs its own.
pub fn free_table(interface: &str, first: u32) -> Result<u32, NetlinkError> {
    talk(async |handle| {
        let own = match find(&handle, interface).await {
            Ok(link) => Some(link.header.index),
            Err(NetlinkError::Refused { errno: Errno::ENODEV, .. }) => None,
            Err(error) => return Err(error),
        };
        let is_into = |attribute: &RouteAttribute| matches!(attribute, RouteAttribute::Oif(index) if Some(*index) == own);
        let (mut kept, mut used) = (BTreeSet::new(), BTreeSet::new());
        for any in ANY {
            let mut request = RouteMessage::default();
            request.header.address_family = IpVersion::of(any).family();
            let mut routes = handle.route().get(request).execute();
            let failed = |error| refused("list the routes".to_owned(), &error);
            while let Some(route) = routes.try_next().await.map_err(failed)? {
                let Some(Route { net, table }) = barrier::place(&route, any) else { continue };
                if barrier::is_of(&route, interface) {
                    if net.prefix_len() == 0 && table != MAIN_TABLE {
                        kept.insert(table);
                    }
                } else if !route.attributes.iter().any(is_into) {
                    used.insert(table);
                }
            }
        }
        let kept = kept.difference(&used).next().copied();
        Ok(kept.or_else(|| (first..=u32::MAX).find(|number| !used.contains(number))).unwrap_or(first))
    })
}
