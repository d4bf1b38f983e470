//! Starts a router from a configuration and runs it until it is told to stop; shared by `laneway run` and
//! `laneway IFNAME`.

mod inheritance;
mod outcome;

use std::fs;
use std::io::{self, IsTerminal as _};
use std::mem;
use std::os::fd::AsFd as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nix::net::if_::if_nametoindex;
use tracing_subscriber::EnvFilter;

use self::inheritance::{Inheritance, wait_for};
pub use self::outcome::{EXIT_RESTART, LaunchError, StopReason};
use super::injection;
use super::signals::Signals;
use crate::config::env::Environment;
use crate::config::{LogFormat, RouterConfig, Switch};
use crate::netlink;
use crate::netlink::masquerade::Masquerading;
use crate::router::admin::{Admin, AdminEnd, AdminError, Hangups, Http, Link, OnLoss, OnPorts, OpenUapi};
use crate::router::kill_switch::{self, KillSwitch};
use crate::router::mtu;
use crate::router::paths::OnPathMtu;
use crate::router::reload::{self, Reloader};
use crate::router::sandbox::{capabilities, files, memory, syscalls};
use crate::router::start::{Origin, Router, StartError};
use crate::router::stopping::{self, StopError};
use crate::router::takeover::kept::{Keeper, Kept, Left};
use crate::router::web::Web;
use crate::router::wiring;
use crate::service::ServiceManager;
use crate::shutdown::Shutdown;
use crate::sys::inherited;
use crate::uapi::{self, Device, UapiError};

/// Called once, when the interface and its control socket exist, unless the router is told to stop before that.
pub type OnReady = Box<dyn FnOnce() -> io::Result<()>>;

/// Initializes logging with `filter`. Later calls have no effect.
///
/// The configuration has already validated the filter; an invalid one is replaced with `info`.
pub fn init_log(filter: &str, format: LogFormat) {
    let filter = EnvFilter::try_new(of_laneway(filter)).unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colours);
    // An error means that the enclosing test or program has already installed a subscriber.
    let _ = match format {
        LogFormat::Text => log.with_target(false).try_init(),
        LogFormat::Json => log.json().try_init(),
    };
}

/// Restricts bare levels more verbose than `warn` to Laneway itself: at these levels, what libraries log is of use to
/// their authors. A filter that names a library still applies to it. `netlink_proto` also warns when a notification
/// arrives for a watch that has just ended.
fn of_laneway(filter: &str) -> String {
    let directive = |directive: &str| match directive.trim().to_ascii_lowercase().as_str() {
        level @ ("info" | "debug" | "trace" | "3" | "4" | "5") => {
            format!("laneway={level},netlink_proto=error,warn")
        }
        _ => directive.to_owned(),
    };
    filter.split(',').map(directive).collect::<Vec<_>>().join(",")
}

/// Starts a router and runs it until a signal arrives or another process removes its interface or control socket. From
/// then on the router has [`stopping::PROCESS`] to end before the process is ended
/// by force. Must be called while the process has a single thread. `kept` is what the service manager has kept for this
/// process.
///
/// # Errors
/// The router did not start, failed, or did not stop in time.
pub fn launch(
    mut config: RouterConfig,
    environment: Environment,
    kept: Kept,
    ready: OnReady,
) -> Result<StopReason, LaunchError> {
    let manager = Arc::clone(kept.manager());
    manager.log_failure();
    if let Err(error) = memory::seclude() {
        tracing::warn!("cannot forbid core dumps, which would contain keys: {error}");
    }
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    // Adopt inherited descriptors first, before anything else is opened under their numbers.
    let adopt = |variable, fd: Option<i32>| {
        let error = |fd| move |source| LaunchError::Inherited { variable, fd, source };
        fd.map(|fd| inherited::adopt(fd).map_err(error(fd))).transpose()
    };
    let tun = adopt("WG_TUN_FD", config.tun_fd)?;
    if let Some(warning) = injection::warning(&config) {
        tracing::warn!("{warning}");
    }
    let web = config.metrics_config.as_deref().map(Web::read).transpose()?.map(Arc::new);
    if let Some(warning) = web.as_ref().and_then(|web| web.warning(config.metrics_addr)) {
        tracing::warn!("{warning}");
    }
    give_up_capabilities(&config, web.as_deref());
    restrict_files(&config);
    let uapi = adopt("WG_UAPI_FD", config.uapi_fd)?.map(uapi::Server::inherited).transpose()?;
    let shutdown = Arc::new(Shutdown::new().map_err(StartError::System)?);
    let signals = Signals::watch(&shutdown).map_err(StartError::System)?;
    let mut inheritance = Inheritance::find(&config, kept, tun)?;
    let takes_over = inheritance.takes_over();
    let replaces = matches!(inheritance.origin, Origin::Predecessor(_));
    // First, since a router that runs has the port for HTTP, too.
    if uapi.is_none() && !inheritance.inherits() {
        refuse_running(&config)?;
    }
    wiring::check(&config)?;
    let metrics = inheritance.bind_http(&config, web)?;

    let lock = reload::choose_table(&mut config, None).map_err(StartError::Netlink)?;
    mtu::choose(&mut config, &[]);
    let switch = if takes_over {
        KillSwitch::inherit(&config)
    } else {
        KillSwitch::close(&config).map_err(StartError::Netlink)?
    };
    let switch = Arc::new(switch);
    drop(lock);
    let opened = open(&config, &mut inheritance, &shutdown, metrics.as_ref(), &signals, &switch);
    let (router, masquerading) = opened.inspect_err(|_| switch.end(kill_switch::ProcessEnd::NotStarted))?;
    takes_over.then(|| follow_switch(&switch, &config, replaces)).transpose()?;
    let (http, rules) = (metrics.as_ref(), masquerading.as_ref());
    let keeper = inheritance.bequeath(&router, &config, http, rules, &signals, &manager)?;
    let open = inheritance.control_of(uapi, &config, router.interface());
    let (noted, offering) = (Arc::clone(&signals), Arc::clone(keeper.router()));
    let open_uapi = move || {
        let server = open()?;
        server.file().cloned().into_iter().for_each(|file| noted.note_socket(file));
        offering.note_control(&server);
        Ok(server)
    };
    let (seccomp, persist) = (config.seccomp, config.persist);
    let up = format!("{} is up", router.interface());
    let mut summary = router.summary().clone();
    if let Some(http) = &metrics
        && let Ok(address) = http.bound.local_addr()
    {
        summary.add_metrics(Web::describe(http.web.as_deref(), address));
    }
    let reloader = Reloader::new(&router, config, environment, Arc::clone(&switch));
    let (told, keeping) = (Arc::clone(&manager), Arc::clone(&keeper));
    let ready = Box::new(move || {
        ready()?;
        restrict_system_calls(seccomp);
        summary.log();
        keeping.keep();
        told.ready(&up);
        Ok(())
    });
    let outcome = attend(router, metrics, Box::new(open_uapi), reloader, &signals, &keeper, ready);
    if signals.handed_over().load(Ordering::Acquire) {
        // Everything is the successor's now.
        if keeper.left() != Some(Left::Descriptors) {
            masquerading.into_iter().for_each(Masquerading::leave);
        }
        return outcome.map(|_| StopReason::of_successor(keeper.left()));
    }
    drop(masquerading);
    if signals.told_to_stop() {
        keeper.forget();
    }
    switch.end(match &outcome {
        // The service manager starts it again.
        Ok(_) if persist && !signals.told_to_stop() => kill_switch::ProcessEnd::Failed,
        Ok(_) | Err(LaunchError::Stop(StopError::Stuck(_))) => kill_switch::ProcessEnd::Ordered,
        Err(LaunchError::Stop(StopError::Failed(_))) => kill_switch::ProcessEnd::Failed,
        Err(_) => kill_switch::ProcessEnd::NotStarted,
    });
    signals.remove_socket();
    let stopped = match outcome? {
        _ if keeper.left().is_some() && manager.is_there() => StopReason::Restart,
        _ if signals.told_to_stop() => StopReason::Signal,
        // Besides a signal and a failure, only the end of the interface stops the workers.
        AdminEnd::Stopped => StopReason::InterfaceDeleted,
        AdminEnd::SocketGone => StopReason::SocketRemoved,
    };
    stopped.log();
    Ok(stopped)
}

/// Refuses to start if a router serves an interface of this name, here or in another network namespace.
fn refuse_running(config: &RouterConfig) -> Result<(), LaunchError> {
    let interface = &config.interface;
    match uapi::Server::check(&config.uapi_dir, interface) {
        Err(UapiError::Taken { process, .. }) if if_nametoindex(interface.as_str()).is_ok() => {
            Err(LaunchError::Running { interface: interface.clone(), process })
        }
        checked => Ok(checked?),
    }
}

/// Starts the router and masquerading.
fn open(
    config: &RouterConfig,
    inheritance: &mut Inheritance,
    shutdown: &Arc<Shutdown>,
    metrics: Option<&Http>,
    signals: &Signals,
    switch: &KillSwitch,
) -> Result<(Router, Option<Masquerading>), LaunchError> {
    let takes_over = inheritance.takes_over();
    let origin = mem::replace(&mut inheritance.origin, Origin::Nothing);
    // The rules of a router that is taken over are in force.
    let admit = |listening| {
        if !takes_over {
            switch.admit_first(config, listening);
        }
    };
    let router = Router::start_from(config, origin, Arc::clone(shutdown), admit)?;
    if let Some(http) = metrics {
        router.marked().add(http.bound.as_fd().try_clone_to_owned().map_err(StartError::System)?);
    }
    if config.persist {
        let lifetime = router.outlive_process()?;
        if !config.keep {
            signals.note_interface(lifetime.clone());
        }
    }
    let masquerade = |to| match inheritance.rules.take() {
        Some(rules) => Ok(Masquerading::inherit(router.interface(), rules)),
        None => Masquerading::begin(router.interface(), to),
    };
    let masquerading = config.masquerade.as_ref().map(masquerade).transpose()?;
    if masquerading.is_some() && !netlink::masquerade::forwards_ipv4() {
        tracing::warn!(
            "LANEWAY_MASQUERADE has no effect on IPv4 yet: this machine does not forward packets; \
             `sysctl -w net.ipv4.ip_forward=1` makes it a gateway"
        );
    }
    Ok((router, masquerading))
}

/// Runs the admin thread beside the router until the router is told to stop, then stops both.
fn attend(
    router: Router,
    metrics: Option<Http>,
    open_uapi: OpenUapi,
    reloader: Reloader,
    signals: &Signals,
    keeper: &Arc<Keeper>,
    ready: OnReady,
) -> Result<AdminEnd, LaunchError> {
    let manager = keeper.manager();
    let shutdown = Arc::clone(router.shutdown());
    let (up, readiness) = (reloader.setup().up, reloader.readiness());
    let reloader = Arc::new(Mutex::new(reloader));
    let (restoring, admitting, resizing) =
        (Arc::clone(&reloader), Arc::clone(&reloader), Arc::clone(&reloader));
    let keeping = Arc::clone(keeper);
    let (of_mtu, of_addresses) = (router.interface_updates(), router.interface_updates());
    let link = Link {
        interface: router.interface().to_owned(),
        actor: Some(router.device().clone()),
        tun: Some(router.lifetime().clone()),
        on_mtu: Box::new(move |mtu| of_mtu.set_mtu(mtu)),
        on_addresses: Box::new(move |own| of_addresses.set_addresses(own)),
        on_path_mtu: up.then(|| Box::new(move |path| lock(&resizing).follow_mtu(path)) as OnPathMtu),
        on_loss: up.then(|| Box::new(move || lock(&restoring).restore()) as OnLoss),
        on_ports: up.then(|| {
            Box::new(move || {
                lock(&admitting).admit_ports();
                keeping.keep();
            }) as OnPorts
        }),
        tunnels: router.tunnels(),
    };
    let leading = Arc::clone(&reloader);
    let asked = Arc::clone(manager);
    let hangups = Hangups {
        heard: signals.hangups().map_err(AdminError::System)?,
        reload: Box::new(move || on_hangup(&mut lock(&reloader), &asked)),
    };
    let admin = Admin {
        registry: Arc::clone(router.registry()),
        threads: Arc::clone(router.threads()),
        readiness,
        device: Arc::clone(keeper.router()) as Arc<dyn Device>,
        shutdown: Arc::clone(&shutdown),
        metrics,
        before: Some(Box::new(move || {
            let mut leading = lock(&leading);
            leading.add_rules()?;
            leading.admit_ports();
            Ok(())
        })),
        uapi: Some(open_uapi),
        link: Some(link),
        paths: Some(router.paths()),
        shared_port: router.shared_port(),
        hangups: Some(hangups),
    };
    let admin = admin.spawn()?;
    let restart = signals.restarts();
    // A router that is already stopping never reports readiness.
    let told = if shutdown.is_signalled() { Ok(()) } else { ready() };
    if told.is_err() {
        shutdown.signal();
    }
    wait_for(&shutdown, restart, signals, keeper);
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

/// Drops capabilities the router does not need. Must be called before threads are started.
fn give_up_capabilities(config: &RouterConfig, web: Option<&Web>) {
    let web = web.map(Web::files).unwrap_or_default();
    let files = config.file.iter().chain(&config.private_key_file).chain(&web);
    if let Err(error) = capabilities::give_up(files.map(PathBuf::as_path)) {
        tracing::warn!("cannot drop unneeded capabilities: {error}");
    }
}

/// Limits which files the router may change. Must be called before threads are started.
fn restrict_files(config: &RouterConfig) {
    if !config.seccomp.is_on() {
        return;
    }
    // Rules are for directories that exist. Opening the control socket reports an error.
    let _ = fs::DirBuilder::new().recursive(true).mode(0o755).create(&config.uapi_dir);
    match files::restrict(&config.uapi_dir) {
        Ok(true) => {}
        Ok(false) => tracing::info!("this kernel has no Landlock: files are protected by their modes only"),
        Err(error) => tracing::warn!("cannot restrict access to files: {error}"),
    }
}

/// Closes the `switch` again for `config`. A router that `replaces` a running one, which has ended, goes on without.
fn follow_switch(switch: &KillSwitch, config: &RouterConfig, replaces: bool) -> Result<(), StartError> {
    match switch.close_again(config) {
        Err(error) if replaces => {
            tracing::error!("rules and unreachable routes are those of the router before: {error}");
            Ok(())
        }
        closed => closed.map_err(StartError::Netlink),
    }
}

/// Installs the seccomp filter. Must be called once everything is open that needs other system calls.
fn restrict_system_calls(seccomp: Switch) {
    if !seccomp.is_on() {
        return;
    }
    if let Err(error) = syscalls::restrict() {
        tracing::warn!("{error}; set LANEWAY_SECCOMP=off to run without a system call filter");
    }
}

fn on_hangup(reloader: &mut Reloader, manager: &ServiceManager) {
    manager.reloading();
    match reloader.reload() {
        Ok(changes) => {
            let done = format!("configuration reloaded from the file; {changes}");
            tracing::info!("{done}");
            manager.ready(&done);
        }
        Err(error) => {
            tracing::error!("{error}");
            manager.ready(&format!("not reloaded: {error}"));
        }
    }
}

/// Locks the reloader. Ignores poisoning: only the admin thread uses the reloader once the router runs, and a
/// panic during a reload ends that thread.
fn lock(reloader: &Mutex<Reloader>) -> MutexGuard<'_, Reloader> {
    reloader.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_level_is_that_of_laneway() {
        for (filter, applied) in [
            ("debug", "laneway=debug,netlink_proto=error,warn"),
            (" TRACE", "laneway=trace,netlink_proto=error,warn"),
            ("warn", "warn"),
            ("off", "off"),
            ("warn,laneway::peers=debug", "warn,laneway::peers=debug"),
            ("debug,netlink_proto=trace", "laneway=debug,netlink_proto=error,warn,netlink_proto=trace"),
        ] {
            assert_eq!(of_laneway(filter), applied);
            assert!(EnvFilter::try_new(of_laneway(filter)).is_ok());
        }
    }
}
