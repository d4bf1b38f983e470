//! Detects sockets of other processes on the router's UDP port.
//!
//! A router with several lanes has several sockets on one port, so they set `SO_REUSEPORT`. The kernel then
//! lets every process of the same user in the network namespace bind a socket to the port too, which gets a
//! part of the datagrams, or all: each socket of the group may replace the program that selects one. The
//! kernel has no way to close the group to newcomers and keep it spreading datagrams. A router with one lane
//! does not set `SO_REUSEPORT`, so nothing can join it and nothing is watched.

use std::collections::HashSet;
use std::convert::Infallible;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::readiness::Readiness;
use crate::metrics::{ForeignSockets, Registry};
use crate::netlink::{UdpSocketInfo, UdpSockets};
use crate::peers::handle::Listening;

/// Interval between checks. One takes about 0.1 ms.
const EVERY: Duration = Duration::from_secs(1);

/// Watches the router's UDP port.
pub(crate) struct PortWatch {
    /// The current port.
    port: watch::Receiver<Listening>,
    sockets: UdpSockets,
    /// Sockets on the port that are the router's own.
    own: HashSet<u32>,
    /// Sockets on the port that are not.
    foreign: HashSet<UdpSocketInfo>,
    found: ForeignSockets,
    readiness: Arc<Readiness>,
}

impl PortWatch {
    /// Opens the watch in the calling thread's network namespace. Returns `None`, and logs why, if the kernel
    /// cannot list sockets.
    pub(crate) fn open(
        port: watch::Receiver<Listening>,
        registry: &Registry,
        readiness: Arc<Readiness>,
    ) -> Option<Self> {
        let opened = UdpSockets::open().and_then(|mut sockets| {
            sockets.on(port.borrow().port)?;
            Ok(sockets)
        });
        match opened {
            Ok(sockets) => {
                let found = ForeignSockets::register(registry);
                Some(PortWatch {
                    port,
                    sockets,
                    own: HashSet::new(),
                    foreign: HashSet::new(),
                    found,
                    readiness,
                })
            }
            Err(error) => {
                tracing::info!("cannot check whether other processes use the UDP port too: {error}");
                None
            }
        }
    }

    /// Checks the port at intervals. Never returns.
    pub(crate) async fn run(mut self) -> Infallible {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = self.check() {
                tracing::warn!("cannot check whether other processes use the UDP port too: {error}");
            }
        }
    }

    fn check(&mut self) -> io::Result<()> {
        let port = self.port.borrow().port;
        let mut listed = self.sockets.on(port)?;
        if listed.iter().any(|socket| !self.own.contains(&socket.inode)) {
            // A socket opened after the first list, or closed before the second, is in the other one.
            self.own = own_sockets()?;
            listed = self.sockets.on(port)?;
            self.own.extend(own_sockets()?);
        }
        let foreign: HashSet<_> =
            listed.into_iter().filter(|socket| !self.own.contains(&socket.inode)).collect();
        for socket in foreign.difference(&self.foreign) {
            let UdpSocketInfo { inode, uid } = *socket;
            let process = owner(inode).unwrap_or_else(|| "a process that the router may not see".to_owned());
            tracing::error!(
                port,
                inode,
                uid,
                "{process} has a socket on the router's UDP port and gets datagrams that are meant for the \
                 router: stop it (`ss -ulpen` shows its owner). LANEWAY_QUEUES=1, or a user of its own for the \
                 router, keeps other processes out"
            );
        }
        self.found.add(foreign.difference(&self.foreign).count() as u64);
        if foreign.is_empty() && !self.foreign.is_empty() {
            tracing::info!(port, "the router is alone on its UDP port again");
        }
        self.readiness.set_port_shared(!foreign.is_empty());
        self.foreign = foreign;
        Ok(())
    }
}

/// Returns the inode numbers of all sockets of this process.
fn own_sockets() -> io::Result<HashSet<u32>> {
    Ok(sockets_of(Path::new("/proc/self"))?.collect())
}

/// Returns the name and pid of a process that has the socket open, if this process may see it.
fn owner(inode: u32) -> Option<String> {
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let mut processes = processes.filter_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        Some((pid, entry.path()))
    });
    processes.find_map(|(pid, path)| {
        sockets_of(&path).ok()?.find(|socket| *socket == inode)?;
        let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
        Some(format!("{} (pid {pid})", name.trim()))
    })
}

/// Returns the inode numbers of the sockets of the process at `path` in `/proc`.
fn sockets_of(path: &Path) -> io::Result<impl Iterator<Item = u32> + use<>> {
    let descriptors = fs::read_dir(path.join("fd"))?.flatten();
    Ok(descriptors.filter_map(|descriptor| {
        let target = fs::read_link(descriptor.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    }))
}
