//! From a configuration to a router that runs until it is told to stop: what `laneway run` and
//! `laneway IFNAME` have in common.

use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::control::admin::{self, Admin, AdminError, End, Link, OpenUapi};
use crate::control::config::env::Environment;
use crate::control::config::{RouterConfig, Switch};
use crate::control::netlink;
use crate::control::reload::Reloader;
use crate::control::sandbox::{capabilities, syscalls};
use crate::control::service::ServiceManager;
use crate::control::supervisor::{Router, StartError};
use crate::control::uapi::{self, UapiError};
use crate::sys::inherited;

/// Why a router did not run, or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// It did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Its control socket cannot be had.
    #[error(transparent)]
    Uapi(#[from] UapiError),
    /// Its metrics, signals or interface cannot be looked after.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// An inherited descriptor cannot be had.
    #[error(
        "{variable}={fd}: {source}; expected the number of a descriptor that the process was started with"
    )]
    Inherited {
        /// The variable that names it.
        variable: &'static str,
        /// The descriptor.
        fd: i32,
        /// What the system said.
        source: io::Error,
    },
    /// It runs, but whoever waits for that cannot be told.
    #[error("cannot let go of the terminal: {0}")]
    Ready(#[source] io::Error),
    /// It stopped because a part of it failed.
    #[error("{0}")]
    Failed(String),
}

/// Called once, when the interface and its control socket are there and signals are handled.
pub type OnReady = Box<dyn FnOnce() -> io::Result<()>>;

/// Starts a router and waits until a signal, the end of its interface or of its control socket stops
/// it; all of these are clean ends.
///
/// # Errors
/// What kept it from starting, or what made it fail.
///
/// # Panics
/// If the admin thread leaves a share of the router behind, which it has no place for.
pub fn launch(config: RouterConfig, environment: Environment, ready: OnReady) -> Result<(), LaunchError> {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    // Inherited descriptors first: nothing may have been given their numbers.
    let adopt = |variable, fd: Option<i32>| {
        let error = |fd| move |source| LaunchError::Inherited { variable, fd, source };
        fd.map(|fd| inherited::adopt(fd).map_err(error(fd))).transpose()
    };
    let tun = adopt("WG_TUN_FD", config.tun_fd)?;
    give_up_capabilities(&config);
    let manager = Arc::new(ServiceManager::of_process());
    let uapi = adopt("WG_UAPI_FD", config.uapi_fd)?.map(uapi::Server::inherited).transpose()?;
    let metrics = config.metrics_addr.map(admin::listen).transpose()?;

    let router = Router::start(&config, tun)?;
    let (directory, interface) = (config.uapi_dir.clone(), router.interface().to_owned());
    let open_uapi = move || uapi.map_or_else(|| uapi::Server::bind(&directory, &interface), Ok);
    let device = router.device().clone();
    let seccomp = config.seccomp;
    let up = format!("{} is up", router.interface());
    let reloader = Reloader::new(router.interface().to_owned(), config, environment, device);
    let reloader = Arc::new(Mutex::new(reloader));
    let told = Arc::clone(&manager);
    let ready = Box::new(move || {
        ready()?;
        restrict_system_calls(seccomp);
        told.ready(&up);
        Ok(())
    });
    let outcome = attend(router, metrics, Box::new(open_uapi), Arc::clone(&reloader), &manager, ready);
    if let Err(error) = netlink::clean_up(&lock(&reloader).setup()) {
        tracing::warn!("something is left behind: {error}");
    }
    outcome
}

/// Looks after a running router until something stops it.
fn attend(
    router: Router,
    metrics: Option<TcpListener>,
    open_uapi: OpenUapi,
    reloader: Arc<Mutex<Reloader>>,
    manager: &Arc<ServiceManager>,
    ready: OnReady,
) -> Result<(), LaunchError> {
    let router = Arc::new(router);
    let (of_mtu, of_addresses) = (Arc::clone(&router), Arc::clone(&router));
    let link = Link {
        interface: router.interface().to_owned(),
        on_mtu: Box::new(move |mtu| of_mtu.set_mtu(mtu)),
        on_addresses: Box::new(move |own| of_addresses.set_addresses(own)),
    };
    let asked = Arc::clone(manager);
    let (leading, shutdown) = (Arc::clone(&reloader), Arc::clone(router.shutdown()));
    let admin = Admin {
        registry: Arc::clone(router.registry()),
        roll: Arc::clone(router.roll()),
        readiness: Arc::new(router.readiness()),
        device: Arc::new(router.device().clone()),
        shutdown: Arc::clone(router.shutdown()),
        metrics,
        before: Some(Box::new(move || lock(&leading).add_rules(&shutdown))),
        uapi: Some(open_uapi),
        link: Some(link),
        signals: Some(Box::new(move || on_hangup(&mut lock(&reloader), &asked))),
    };
    let panicked = |_| LaunchError::Failed("the admin thread panicked; please report this".to_owned());
    let thread = admin.spawn()?;
    let told = ready();
    if told.is_err() {
        router.shutdown().signal();
    }
    let end = thread.join().map_err(panicked)?;
    manager.stopping();
    told.map_err(LaunchError::Ready)?;
    match end {
        // Whatever stopped it has said so itself.
        End::Stopped => {}
        End::Signalled => tracing::info!("stopping: a signal asked for it"),
        End::SocketGone => tracing::info!("stopping: the control socket was removed"),
    }
    let router = Arc::into_inner(router).expect("the admin thread had the other share, and it has ended");
    router.stop().map_err(LaunchError::Failed)
}

/// To be called before there are threads.
fn give_up_capabilities(config: &RouterConfig) {
    let files = config.file.iter().chain(&config.private_key_file);
    if let Err(error) = capabilities::give_up(files.map(PathBuf::as_path)) {
        tracing::warn!("the router keeps more capabilities than it needs: {error}");
    }
}

/// To be called when everything is open that takes more than a running router needs.
fn restrict_system_calls(seccomp: Switch) {
    if !seccomp.is_on() {
        return;
    }
    if let Err(error) = syscalls::restrict() {
        tracing::warn!("{error}; LANEWAY_SECCOMP=off does without it");
    }
}

fn on_hangup(reloader: &mut Reloader, manager: &ServiceManager) {
    manager.reloading();
    match reloader.reload() {
        Ok(()) => {
            const DONE: &str = "the configuration is as the file has it now";
            tracing::info!("{DONE}");
            manager.ready(DONE);
        }
        Err(error) => {
            tracing::error!("{error}");
            manager.ready(&format!("not reloaded: {error}"));
        }
    }
}

/// A reload that panicked has ended the admin thread, and with it all others who could look.
fn lock(reloader: &Mutex<Reloader>) -> MutexGuard<'_, Reloader> {
    reloader.lock().unwrap_or_else(PoisonError::into_inner)
}
