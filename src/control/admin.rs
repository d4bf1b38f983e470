//! The admin thread: everything that is slow, rare or asked for from outside. It serves HTTP
//! and the UAPI socket, and waits for orders to reload and for news about the interface.
//!
//! It ends when the router is told to stop, and it is one of those who tell it: when the UAPI socket's file is
//! removed. It does not stop the router when the interface is gone
//! from its network namespace, for it may have moved to another and work on there; if it was deleted,
//! the workers notice.
//!
//! It never waits for the peer actor: what does (a request of the control socket, a reload) has a thread of
//! its own for as long as it takes. So it can still say which thread is stuck.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::ops::ControlFlow::{self, Break, Continue};
use std::os::fd::{AsFd as _, OwnedFd};
use std::panic;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::runtime::{self, Runtime};
use tokio::task;

use super::http::{self, Shown};
use super::netlink::{AddressWatch, LinkEvent, LinkWatch, NetlinkError};
use super::readiness::Readiness;
use super::roll::Roll;
use super::stopping;
use super::uapi::{self, Device, UapiError};
use crate::lane::telemetry::Registry;
use crate::offload::Shutdown;
use crate::sys::wake;

/// Threads that wait for the router at one time: one for each client of the control socket, and a reload.
const WAITING: usize = uapi::MAX_CLIENTS + 1;

/// How often whoever starts the thread looks whether there is still anything to wait for.
const LOOK: Duration = Duration::from_millis(100);

/// What the admin thread looks after. What is `None` is not looked after.
pub struct Admin {
    /// The metrics of `/metrics`.
    pub registry: Arc<Registry>,
    /// The router's threads, for `/healthz`.
    pub roll: Arc<Roll>,
    /// What `/readyz` answers.
    pub readiness: Arc<Readiness>,
    /// The way to the running router.
    pub device: Arc<dyn Device>,
    /// Signalled when the router stops, by us or by others.
    pub shutdown: Arc<Shutdown>,
    /// Where HTTP is served. It may have been bound in another network namespace.
    pub metrics: Option<TcpListener>,
    /// What is to be done before the UAPI socket is opened. It may take its time: a router that is told to stop
    /// meanwhile does not wait for it.
    pub before: Option<Before>,
    /// Opens the UAPI socket. It is called last: tools wait for the socket to appear, and then
    /// expect to find the interface and to be able to end us with a signal.
    pub uapi: Option<OpenUapi>,
    /// The interface to watch.
    pub link: Option<Link>,
    /// How the router is told to read its configuration again.
    pub hangups: Option<Hangups>,
}

/// Orders to reload.
pub struct Hangups {
    /// An eventfd that counts them.
    pub heard: OwnedFd,
    /// What to do.
    pub reload: OnReload,
}

/// An interface to watch, in the network namespace of the thread that calls [`Admin::spawn`].
pub struct Link {
    /// Its name.
    pub interface: String,
    /// Told its MTU in bytes, at first and when it changes.
    pub on_mtu: OnMtu,
    /// Told its addresses, at first and when they change.
    pub on_addresses: OnAddresses,
}

/// Done before the UAPI socket is opened. It is to return soon once the router is told to stop.
pub type Before = Box<dyn FnOnce() -> Result<(), NetlinkError> + Send>;
/// Opens the UAPI socket.
pub type OpenUapi = Box<dyn FnOnce() -> Result<uapi::Server, UapiError> + Send>;
/// Told an MTU in bytes.
pub type OnMtu = Box<dyn Fn(usize) + Send>;
/// Told addresses.
pub type OnAddresses = Box<dyn Fn(&[IpAddr]) + Send>;
/// Called to reload, one call at a time, where it may read files and wait for the router.
pub type OnReload = Box<dyn FnMut() + Send>;

/// Why the admin thread ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The router stopped.
    Stopped,
    /// The UAPI socket's file is gone.
    SocketGone,
}

/// Why there is no admin thread.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address for `/metrics` cannot be had.
    #[error(
        "cannot serve /metrics on {address}: {source}; LANEWAY_METRICS_ADDR chooses another address, or `off`"
    )]
    Metrics {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The interface cannot be watched.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The control socket cannot be had.
    #[error(transparent)]
    Uapi(#[from] UapiError),
    /// The system lacks a thread or a descriptor.
    #[error("cannot start the admin thread: {0}")]
    System(#[from] io::Error),
}

/// Listens where `/metrics` is to be served.
///
/// # Errors
/// The address is taken, or not this machine's.
pub fn listen(address: SocketAddr) -> Result<TcpListener, AdminError> {
    TcpListener::bind(address).map_err(|source| AdminError::Metrics { address, source })
}

impl Admin {
    /// Starts the thread. When this returns, the interface is watched and the UAPI socket is there; or the router
    /// has been told to stop in the meantime.
    ///
    /// # Errors
    /// The interface does not exist, the UAPI socket cannot be had, or the system lacks something.
    pub fn spawn(self) -> Result<JoinHandle<End>, AdminError> {
        let member = self.roll.enlist(None, "admin", None);
        let shutdown = Arc::clone(&self.shutdown);
        let runtime = runtime::Builder::new_current_thread()
            .enable_all()
            .thread_name("request")
            .max_blocking_threads(WAITING)
            .build()?;
        let (ready, started) = mpsc::sync_channel(1);
        let thread = thread::Builder::new().name("admin".into()).spawn(move || {
            member.begin();
            run(runtime, self, &ready)
        })?;
        loop {
            match started.recv_timeout(LOOK) {
                Ok(Err(error)) => return Err(error),
                Err(RecvTimeoutError::Timeout) if !shutdown.is_signalled() => {}
                // A thread that ends before it is ready has panicked; joining it says so.
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

fn run(runtime: Runtime, admin: Admin, ready: &SyncSender<Result<(), AdminError>>) -> End {
    // Also if it panics: whoever looks after a router waits for nothing but its end.
    let stops = Stops(Arc::clone(&admin.shutdown));
    let end = runtime.block_on(async {
        let (result, begun) = match Duties::begin(admin).await {
            Ok(begun) => (Ok(()), begun),
            // What is missing may have gone because the router stops, the interface first of all.
            Err(error) if stops.0.is_signalled() => {
                tracing::debug!("stopped while it started: {error}");
                (Ok(()), Break(End::Stopped))
            }
            Err(error) => (Err(error), Break(End::Stopped)),
        };
        // Whoever spawned us waits for this; if it is gone all the same, the shutdown signal ends us.
        let _ = ready.send(result);
        match begun {
            Continue(duties) => duties.fulfil().await,
            Break(end) => end,
        }
    });
    drop(stops);
    // Only now, for this waits for the requests that are under way: a router that stops answers them.
    runtime.shutdown_timeout(stopping::ANSWERS);
    end
}

/// Stops the router when it is dropped.
struct Stops(Arc<Shutdown>);

impl Drop for Stops {
    fn drop(&mut self) {
        self.0.signal();
    }
}

/// What the thread waits for, opened.
struct Duties {
    device: Arc<dyn Device>,
    uapi: Option<uapi::Server>,
    stopped: AsyncFd<OwnedFd>,
    link: Option<Watched>,
    readiness: Arc<Readiness>,
    hangups: Option<Heard>,
}

/// The interface and the news about it.
struct Watched {
    link: Link,
    state: LinkWatch,
    addresses: AddressWatch,
}

/// Orders to reload, to wait for.
struct Heard {
    orders: AsyncFd<OwnedFd>,
    reload: OnReload,
}

impl Duties {
    /// Opens it all, unless the router is told to stop before.
    async fn begin(admin: Admin) -> Result<ControlFlow<End, Self>, AdminError> {
        let link = match admin.link {
            Some(link) => Some(Watched {
                state: LinkWatch::open(&link.interface).await?,
                addresses: AddressWatch::open(&link.interface).await?,
                link,
            }),
            None => None,
        };
        let hangups = match admin.hangups {
            Some(Hangups { heard, reload }) => Some(Heard { orders: wake::readable(heard)?, reload }),
            None => None,
        };
        let stopped = wake::readable(admin.shutdown.as_fd().try_clone_to_owned()?)?;
        if let Some(before) = admin.before {
            tokio::select! {
                done = task::spawn_blocking(before) => returned(done)?,
                _ = stopped.readable() => {}
            }
        }
        // What would be opened now would be closed at once.
        if admin.shutdown.is_signalled() {
            return Ok(Break(End::Stopped));
        }
        let uapi = admin.uapi.map(|open| open()).transpose()?;
        // Who gets an answer finds everything in its place.
        if let Some(listener) = admin.metrics {
            let shown =
                Shown { registry: admin.registry, roll: admin.roll, readiness: Arc::clone(&admin.readiness) };
            http::spawn(listener, shown)?;
        }
        let (device, readiness) = (admin.device, admin.readiness);
        Ok(Continue(Duties { device, uapi, stopped, link, readiness, hangups }))
    }

    async fn fulfil(self) -> End {
        let Duties { device, uapi, stopped, link, readiness, hangups } = self;
        tokio::select! {
            // If the descriptor itself fails, nobody could tell us to stop any more.
            _ = stopped.readable() => End::Stopped,
            () = socket_gone(uapi, device) => End::SocketGone,
            () = follow(link, &readiness) => unreachable!("it waits for ever"),
            () = follow_hangups(hangups) => unreachable!("it waits for ever"),
        }
    }
}

/// Reloads when it is ordered to, once for what was ordered meanwhile; never returns.
async fn follow_hangups(hangups: Option<Heard>) {
    let Some(Heard { orders, mut reload }) = hangups else { return std::future::pending().await };
    // If the descriptor itself fails, nobody could order anything any more.
    while let Ok(mut ready) = orders.readable().await {
        if nix::unistd::read(orders.get_ref(), &mut [0; 8]).is_err() {
            ready.clear_ready();
            continue;
        }
        let reloaded = task::spawn_blocking(move || {
            reload();
            reload
        });
        reload = returned(reloaded.await);
    }
    std::future::pending::<()>().await;
}

/// What work on another thread has returned; if it panicked, so do we.
fn returned<T>(work: Result<T, task::JoinError>) -> T {
    work.unwrap_or_else(|failed| panic::resume_unwind(failed.into_panic()))
}

/// Passes on news about the interface; never returns.
async fn follow(link: Option<Watched>, readiness: &Readiness) {
    if let Some(Watched { link, state, addresses }) = link {
        tokio::join!(
            follow_state(state, &link.on_mtu, readiness),
            follow_addresses(addresses, &link.on_addresses)
        );
    }
    std::future::pending::<()>().await;
}

async fn follow_state(mut watch: LinkWatch, on_mtu: &OnMtu, readiness: &Readiness) {
    let mut event = watch.last();
    while let LinkEvent::Changed { mtu, up } = event {
        readiness.set_interface_up(up);
        on_mtu(mtu as usize);
        event = watch.next().await;
        if let LinkEvent::Changed { mtu, up } = event {
            tracing::info!("the interface has MTU {mtu} and is {}", if up { "up" } else { "down" });
        }
    }
    tracing::info!("the interface has left this network namespace");
}

async fn follow_addresses(mut watch: AddressWatch, on_addresses: &OnAddresses) {
    on_addresses(watch.last());
    while let Some(addresses) = watch.next().await {
        on_addresses(addresses);
    }
}

async fn socket_gone(uapi: Option<uapi::Server>, device: Arc<dyn Device>) {
    let Some(server) = uapi else { return std::future::pending().await };
    if let Err(error) = server.serve(device).await {
        tracing::error!("the UAPI socket cannot be served: {error}");
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
#[path = "admin_tests.rs"]
mod tests;
