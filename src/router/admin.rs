//! The admin thread: serves HTTP and the UAPI socket, runs reloads, and follows changes of the interface.
//!
//! It ends when the router stops. It stops the router itself if the UAPI socket's file is removed. It does
//! not stop the router when the interface leaves the network namespace: an interface that was moved to
//! another namespace works on there, and one that was deleted is noticed by the workers.
//!
//! The admin thread never waits for the peer actor. A UAPI request or a reload, which do, each run on a
//! thread of their own, so `/healthz` can still name a stuck thread.

mod duties;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::ControlFlow::{self, Break, Continue};
use std::os::fd::{AsFd as _, OwnedFd};
use std::panic;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::runtime::{self, Runtime};
use tokio::sync::{Notify, watch};
use tokio::task;

use self::duties::{follow, follow_hangups, follow_paths, follow_ports, returned, socket_gone, watch_port};
use super::http::{self, HttpState};
use super::listen::Bound;
use super::paths::{OnPathMtu, Paths};
use super::port_watch::PortWatch;
use super::readiness::Readiness;
use super::stopping;
use super::threads::ThreadRegistry;
use super::web::Web;
use crate::metrics::Registry;
use crate::netlink::{AddressWatch, LinkWatch, LossWatch, NetlinkError, UnderlayWatch};
use crate::offload::{Lifetime, TunnelsSeen};
use crate::peers::handle::{ActorHandle, Listening};
use crate::shutdown::Shutdown;
use crate::sys::wake;
use crate::uapi::{self, Device, UapiError};

/// Maximum number of threads that wait for the peer actor or netlink: one for each UAPI request and one each for a reload,
/// for restoring what was removed from the interface, for ports and addresses, for the path MTU, for overlays, and for
/// checking a login.
const WAITING: usize = uapi::MAX_ANSWERS + 6;

/// How often [`Admin::spawn`] checks whether the router was told to stop while it waits for the thread.
const LOOK: Duration = Duration::from_millis(100);

/// Configuration of the admin thread. A service that is `None` is disabled.
pub struct Admin {
    /// The metrics served at `/metrics`.
    pub registry: Arc<Registry>,
    /// The router's threads, for `/healthz`.
    pub threads: Arc<ThreadRegistry>,
    /// The conditions that `/readyz` checks.
    pub readiness: Arc<Readiness>,
    /// Access to the running router, for UAPI requests.
    pub device: Arc<dyn Device>,
    /// Signalled when the router stops, by the admin thread or another.
    pub shutdown: Arc<Shutdown>,
    /// The HTTP service.
    pub metrics: Option<Http>,
    /// Runs before the UAPI socket is opened. It may block: a router that is told to stop meanwhile does not
    /// wait for it.
    pub before: Option<Before>,
    /// Opens the UAPI socket. Called after `before`: tools wait for the socket to appear, and then expect the
    /// interface to exist and signals to stop the process.
    pub uapi: Option<OpenUapi>,
    /// The interface to watch.
    pub link: Option<Link>,
    /// The peers whose routes are followed, if an interface is watched.
    pub paths: Option<Paths>,
    /// The router's UDP port, if other processes can bind it too.
    pub shared_port: Option<watch::Receiver<Listening>>,
    /// The source of reload requests.
    pub hangups: Option<Hangups>,
}

/// The HTTP service.
#[derive(Debug)]
pub struct Http {
    /// Its address, which may have been bound in another network namespace.
    pub bound: Bound,
    /// Whether packets that arrive through the interface are served, that is, requests from peers.
    pub from_tunnel: bool,
    /// HTTPS and logins, if there are any.
    pub web: Option<Arc<Web>>,
}

/// Reload requests (`SIGHUP`).
pub struct Hangups {
    /// An eventfd that counts the requests.
    pub heard: OwnedFd,
    /// Performs one reload.
    pub reload: OnReload,
}

/// An interface to watch, in the network namespace of the thread that calls [`Admin::spawn`].
pub struct Link {
    /// The interface's name.
    pub interface: String,
    /// The peer actor, which follows the interface's state, if it is given.
    pub actor: Option<ActorHandle>,
    /// Finds the interface after it was moved to another network namespace, if it is given.
    pub tun: Option<Lifetime>,
    /// Called with the interface's MTU in bytes, initially and after each change.
    pub on_mtu: OnMtu,
    /// Called with the interface's addresses, initially and after each change.
    pub on_addresses: OnAddresses,
    /// Called with the largest MTU of the routes to the peers in bytes, after changes of the network, if it is given.
    pub on_path_mtu: Option<OnPathMtu>,
    /// Called after addresses, routes or rules may have been removed, and again until it succeeds, if it is given.
    pub on_loss: Option<OnLoss>,
    /// Called after changes of the router's ports or of the network, if it is given.
    pub on_ports: Option<OnPorts>,
    /// Whether superpackets inside UDP tunnels are read from it.
    pub tunnels: TunnelsSeen,
}

/// Runs before the UAPI socket is opened. It must return soon after the router is told to stop.
pub type Before = Box<dyn FnOnce() -> Result<(), NetlinkError> + Send>;
/// Opens the UAPI socket.
pub type OpenUapi = Box<dyn FnOnce() -> Result<uapi::Server, UapiError> + Send>;
/// Receives the interface's MTU in bytes.
pub type OnMtu = Box<dyn Fn(usize) + Send>;
/// Receives the interface's addresses.
pub type OnAddresses = Box<dyn Fn(&[IpAddr]) + Send>;
/// Restores what was removed from the interface. Called on a thread that may block, never concurrently.
pub type OnLoss = Box<dyn FnMut() + Send>;
/// Adapts to changed ports or addresses. Called on a thread that may block, never concurrently.
pub type OnPorts = Box<dyn FnMut() + Send>;
/// Performs one reload. Called on a thread that may block, never concurrently.
pub type OnReload = Box<dyn FnMut() + Send>;

/// Reason that the admin thread ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminEnd {
    /// The router stopped.
    Stopped,
    /// The UAPI socket's file was removed.
    SocketGone,
}

/// Errors when starting the admin thread.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address for `/metrics` cannot be bound.
    #[error(
        "cannot serve /metrics on {address}: {source}; set LANEWAY_METRICS_ADDR to another address, or to `off`"
    )]
    Metrics {
        /// The configured address.
        address: SocketAddr,
        /// The error from `bind(2)` or `listen(2)`.
        source: io::Error,
    },
    /// The interface cannot be watched.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The UAPI socket cannot be opened.
    #[error(transparent)]
    Uapi(#[from] UapiError),
    /// A thread or file descriptor cannot be created.
    #[error("cannot start the admin thread: {0}")]
    System(#[from] io::Error),
}

/// Binds the address for HTTP.
///
/// # Errors
/// Fails if the address is in use or does not belong to this host.
pub fn bind(address: SocketAddr) -> Result<Bound, AdminError> {
    Bound::new(address).map_err(|source| AdminError::Metrics { address, source })
}

impl Admin {
    /// Starts the thread. Returns once the interface is watched and the UAPI socket exists, or once the
    /// router is told to stop.
    ///
    /// # Errors
    /// Fails if the interface does not exist, if the UAPI socket cannot be opened, or if a thread or
    /// descriptor cannot be created.
    pub fn spawn(self) -> Result<JoinHandle<AdminEnd>, AdminError> {
        let entry = self.threads.register(None, "admin", None);
        let shutdown = Arc::clone(&self.shutdown);
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .thread_name("request")
            .max_blocking_threads(WAITING)
            .build()?;
        let (ready, started) = mpsc::sync_channel(1);
        let thread = thread::Builder::new().name("admin".into()).spawn(move || {
            entry.begin();
            run(runtime, self, &ready)
        })?;
        loop {
            match started.recv_timeout(LOOK) {
                Ok(Err(error)) => return Err(error),
                Err(RecvTimeoutError::Timeout) if !shutdown.is_signalled() => {}
                // A thread that ends before it is ready has panicked, which joining it reports.
                Ok(Ok(())) | Err(_) => return Ok(thread),
            }
        }
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("metrics", &self.metrics).finish_non_exhaustive()
    }
}

fn run(runtime: Runtime, admin: Admin, ready: &SyncSender<Result<(), AdminError>>) -> AdminEnd {
    // Must happen after a panic too: the caller waits for the shutdown signal only.
    let stops = Stops(Arc::clone(&admin.shutdown));
    let end = runtime.block_on(async {
        let (result, begun) = match Duties::begin(admin).await {
            Ok(begun) => (Ok(()), begun),
            // A stopping router removes the interface, so errors are expected.
            Err(error) if stops.0.is_signalled() => {
                tracing::debug!("the router stopped while the admin thread started: {error}");
                (Ok(()), Break(AdminEnd::Stopped))
            }
            Err(error) => (Err(error), Break(AdminEnd::Stopped)),
        };
        // The receiver is gone only once the router is told to stop, and then the shutdown signal ends this
        // thread.
        let _ = ready.send(result);
        match begun {
            Continue(duties) => duties.fulfil().await,
            Break(end) => end,
        }
    });
    drop(stops);
    // After the shutdown signal, because this waits for pending requests, which a stopping router answers.
    runtime.shutdown_timeout(stopping::ANSWERS);
    end
}

/// Stops the router when dropped.
struct Stops(Arc<Shutdown>);

impl Drop for Stops {
    fn drop(&mut self) {
        self.0.signal();
    }
}

/// The opened event sources of the thread.
struct Duties {
    device: Arc<dyn Device>,
    uapi: Option<uapi::Server>,
    stopped: AsyncFd<OwnedFd>,
    link: Option<WatchedInterface>,
    paths: Option<FollowedPaths>,
    ports: Option<FollowedPorts>,
    port: Option<PortWatch>,
    readiness: Arc<Readiness>,
    hangups: Option<Heard>,
}

/// A watched interface.
struct WatchedInterface {
    link: Link,
    state: LinkWatch,
    addresses: AddressWatch,
    losses: LossWatch,
}

/// What depends on the router's ports and the addresses outside.
struct FollowedPorts {
    changed: Arc<Notify>,
    listening: watch::Receiver<Listening>,
    on_ports: OnPorts,
}

/// The routes to the peers, and who is told of their MTU.
struct FollowedPaths {
    paths: Paths,
    watch: UnderlayWatch,
    on_mtu: Option<OnPathMtu>,
}

/// Reload requests, registered with the runtime.
struct Heard {
    orders: AsyncFd<OwnedFd>,
    reload: OnReload,
}

impl Duties {
    /// Opens all event sources, unless the router is told to stop first.
    async fn begin(admin: Admin) -> Result<ControlFlow<AdminEnd, Self>, AdminError> {
        let mut link = admin.link;
        let (mut paths, mut ports) = (None, None);
        if let (Some(to_peers), Some(link)) = (admin.paths, &mut link) {
            let (changed, listening) = (Arc::clone(&to_peers.changed), to_peers.actor.listening());
            ports = link.on_ports.take().map(|on_ports| FollowedPorts { changed, listening, on_ports });
            let watch = UnderlayWatch::open(&link.interface).await?;
            paths = Some(FollowedPaths { paths: to_peers, watch, on_mtu: link.on_path_mtu.take() });
        }
        let link = match link {
            Some(link) => Some(WatchedInterface {
                state: LinkWatch::open(&link.interface).await?,
                addresses: AddressWatch::open(&link.interface).await?,
                losses: LossWatch::open(&link.interface).await?,
                link,
            }),
            None => None,
        };
        let hangups = match admin.hangups {
            Some(Hangups { heard, reload }) => Some(Heard { orders: wake::readable(heard)?, reload }),
            None => None,
        };
        let stopped = wake::readable(admin.shutdown.as_fd().try_clone_to_owned()?)?;
        // The probes answer while the rest of the start waits for name servers.
        if let Some(Http { bound, from_tunnel, web }) = admin.metrics {
            let shown = HttpState {
                registry: Arc::clone(&admin.registry),
                threads: admin.threads,
                readiness: Arc::clone(&admin.readiness),
            };
            let tunnel = link.as_ref().map(|link| link.state.index());
            let address = bound.local_addr()?;
            http::spawn(bound, tunnel.filter(|_| !from_tunnel), web, shown)
                .map_err(|source| AdminError::Metrics { address, source })?;
        }
        if let Some(before) = admin.before {
            tokio::select! {
                done = task::spawn_blocking(before) => returned(done)?,
                _ = stopped.readable() => {}
            }
        }
        // Do not open a socket only to close it at once.
        if admin.shutdown.is_signalled() {
            return Ok(Break(AdminEnd::Stopped));
        }
        let watch = |port| PortWatch::open(port, &admin.registry, Arc::clone(&admin.readiness));
        let port = admin.shared_port.and_then(watch);
        let uapi = admin.uapi.map(|open| open()).transpose()?;
        admin.readiness.set_started();
        let (device, readiness) = (admin.device, admin.readiness);
        Ok(Continue(Duties { device, uapi, stopped, link, paths, ports, port, readiness, hangups }))
    }

    async fn fulfil(self) -> AdminEnd {
        let Duties { device, uapi, stopped, link, paths, ports, port, readiness, hangups } = self;
        tokio::select! {
            // Also ends if the descriptor fails: the thread could no longer be told to stop.
            _ = stopped.readable() => AdminEnd::Stopped,
            () = socket_gone(uapi, device) => AdminEnd::SocketGone,
            () = follow(link, &readiness) => unreachable!("follow never returns"),
            () = follow_paths(paths) => unreachable!("follow_paths never returns"),
            () = follow_ports(ports) => unreachable!("follow_ports never returns"),
            _ = watch_port(port) => unreachable!("watch_port never returns"),
            () = follow_hangups(hangups) => unreachable!("follow_hangups never returns"),
        }
    }
}

#[cfg(test)]
mod tests;
