//! From a configuration to a router that runs until it is told to stop: what `laneway run` and
//! `laneway IFNAME` have in common.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::signals::Signals;
use crate::control::admin::{self, Admin, AdminError, End, Hangups, Link, OpenUapi};
use crate::control::config::env::Environment;
use crate::control::config::{RouterConfig, Switch};
use crate::control::netlink;
use crate::control::reload::Reloader;
use crate::control::sandbox::{capabilities, syscalls};
use crate::control::service::ServiceManager;
use crate::control::stopping::{self, StopError};
use crate::control::supervisor::{Router, StartError};
use crate::control::uapi::{self, UapiError};
use crate::offload::Shutdown;
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
    /// It stopped because a part of it failed, or a part of it did not stop.
    #[error(transparent)]
    Stop(#[from] StopError),
}

/// Called once, when the interface and its control socket are there, unless the router is told to stop before.
pub type OnReady = Box<dyn FnOnce() -> io::Result<()>>;

/// Starts a router and waits until a signal, the end of its interface or of its control socket stops
/// it; all of these are clean ends. It ends within [`stopping::PROCESS`] then, or the process does. To be called
/// while the process has one thread.
///
/// # Errors
/// What kept it from starting, what made it fail, or what did not stop.
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
    let shutdown = Arc::new(Shutdown::new().map_err(StartError::System)?);
    let signals = Signals::watch(&shutdown).map_err(StartError::System)?;
    let metrics = config.metrics_addr.map(admin::listen).transpose()?;

    let router = Router::start_with(&config, tun, Arc::clone(&shutdown))?;
    let (directory, interface) = (config.uapi_dir.clone(), router.interface().to_owned());
    let noted = Arc::clone(&signals);
    let open_uapi = move || {
        let server = uapi.map_or_else(|| uapi::Server::bind(&directory, &interface), Ok)?;
        server.file().cloned().into_iter().for_each(|file| noted.note_socket(file));
        Ok(server)
    };
    let device = router.device().clone();
    let seccomp = config.seccomp;
    let up = format!("{} is up", router.interface());
    let reloader = Reloader::new(router.interface().to_owned(), config, environment, device, shutdown);
    let rules = Arc::clone(reloader.rules());
    let told = Arc::clone(&manager);
    let ready = Box::new(move || {
        ready()?;
        restrict_system_calls(seccomp);
        told.ready(&up);
        Ok(())
    });
    let outcome = attend(router, metrics, Box::new(open_uapi), reloader, &signals, &manager, ready);
    // First what must not be left behind: the log may be what somebody is stuck with.
    let cleaned = netlink::clean_up(&rules.list());
    signals.remove_socket();
    if let Err(error) = cleaned {
        tracing::warn!("something is left behind: {error}");
    }
    match outcome? {
        // Whatever stopped it has said so itself.
        _ if signals.told_to_stop() => tracing::info!("stopping: a signal asked for it"),
        End::Stopped => {}
        End::SocketGone => tracing::info!("stopping: the control socket was removed"),
    }
    Ok(())
}

/// Looks after a running router until something stops it, and until it has stopped.
fn attend(
    router: Router,
    metrics: Option<TcpListener>,
    open_uapi: OpenUapi,
    reloader: Reloader,
    signals: &Signals,
    manager: &Arc<ServiceManager>,
    ready: OnReady,
) -> Result<End, LaunchError> {
    let shutdown = Arc::clone(router.shutdown());
    let (of_mtu, of_addresses) = (router.bulletin(), router.bulletin());
    let link = Link {
        interface: router.interface().to_owned(),
        on_mtu: Box::new(move |mtu| of_mtu.set_mtu(mtu)),
        on_addresses: Box::new(move |own| of_addresses.set_addresses(own)),
    };
    let reloader = Arc::new(Mutex::new(reloader));
    let leading = Arc::clone(&reloader);
    let asked = Arc::clone(manager);
    let hangups = Hangups {
        heard: signals.hangups().map_err(AdminError::System)?,
        reload: Box::new(move || on_hangup(&mut lock(&reloader), &asked)),
    };
    let admin = Admin {
        registry: Arc::clone(router.registry()),
        roll: Arc::clone(router.roll()),
        readiness: Arc::new(router.readiness()),
        device: Arc::new(router.device().clone()),
        shutdown: Arc::clone(&shutdown),
        metrics,
        before: Some(Box::new(move || lock(&leading).add_rules())),
        uapi: Some(open_uapi),
        link: Some(link),
        hangups: Some(hangups),
    };
    let admin = admin.spawn()?;
    // Nobody is to rely on what is about to end.
    let told = if shutdown.is_signalled() { Ok(()) } else { ready() };
    if told.is_err() {
        shutdown.signal();
    }
    wait_for(&shutdown);
    manager.stopping();
    let deadline = Instant::now() + stopping::THREADS;
    let end = stopping::join_until(admin, deadline);
    let stopped = router.stop_until(deadline);
    told.map_err(LaunchError::Ready)?;
    let stuck = match (end, stopped) {
        (Ok(Ok(end)), Ok(())) => return Ok(end),
        (Ok(Err(_)), _) => StopError::Failed("the admin thread panicked; please report this".to_owned()),
        (_, Err(failed @ StopError::Failed(_))) => failed,
        (Ok(_), Err(stuck)) => stuck,
        (Err(admin), Ok(())) => StopError::Stuck(vec![stopping::name_of(&admin)]),
        (Err(admin), Err(StopError::Stuck(mut others))) => {
            others.push(stopping::name_of(&admin));
            StopError::Stuck(others)
        }
    };
    Err(stuck.into())
}

/// Waits until the router is told to stop.
fn wait_for(shutdown: &Shutdown) {
    while !shutdown.is_signalled() {
        match poll(&mut [PollFd::new(shutdown.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR | Errno::EAGAIN | Errno::ENOMEM) => {}
            Err(errno) => panic!("poll on a descriptor that is ours: {errno}"),
        }
    }
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
