//! From a configuration to a router that runs until it is told to stop: what `laneway run` and
//! `laneway IFNAME` have in common.

use std::io;
use std::sync::Arc;

use crate::control::admin::{self, Admin, AdminError, End, OnReload};
use crate::control::config::RouterConfig;
use crate::control::config::env::Environment;
use crate::control::device::DeviceHandle;
use crate::control::supervisor::{Router, StartError};
use crate::control::uapi::{self, Device as _, UapiError};
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
    /// It stopped because a part of it failed.
    #[error("{0}")]
    Failed(String),
}

/// Starts a router and waits until a signal, the end of its interface or of its control socket stops
/// it; all of these are clean ends.
///
/// # Errors
/// What kept it from starting, or what made it fail.
///
/// # Panics
/// If the admin thread leaves a share of the router behind, which it has no place for.
pub fn launch(config: RouterConfig, environment: Environment) -> Result<(), LaunchError> {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    // Inherited descriptors first: nothing may have been given their numbers.
    let adopt = |variable, fd: Option<i32>| {
        let error = |fd| move |source| LaunchError::Inherited { variable, fd, source };
        fd.map(|fd| inherited::adopt(fd).map_err(error(fd))).transpose()
    };
    let tun = adopt("WG_TUN_FD", config.tun_fd)?;
    let uapi = adopt("WG_UAPI_FD", config.uapi_fd)?.map(uapi::Server::inherited).transpose()?;
    let metrics = config.metrics_addr.map(admin::listen).transpose()?;

    let router = Arc::new(Router::start(&config, tun)?);
    // The socket comes last: tools wait for it to appear, and then expect to find the interface.
    let uapi = match uapi {
        Some(server) => server,
        None => uapi::Server::bind(&config.uapi_dir, router.interface())?,
    };
    let of_link = Arc::clone(&router);
    let admin = Admin {
        registry: Arc::clone(router.registry()),
        roll: Arc::clone(router.roll()),
        readiness: Arc::new(router.readiness(config.ready_peer)),
        device: Arc::new(router.device().clone()),
        shutdown: Arc::clone(router.shutdown()),
        metrics,
        uapi: Some(uapi),
        link: Some((router.interface().to_owned(), Box::new(move |mtu| of_link.set_mtu(mtu)))),
        signals: Some(reloader(config, environment, router.device().clone())),
    };
    let panicked = |_| LaunchError::Failed("the admin thread panicked; please report this".to_owned());
    let end = admin.spawn()?.join().map_err(panicked)?;
    match end {
        // Whatever stopped it has said so itself.
        End::Stopped => {}
        End::Signalled => tracing::info!("stopping: a signal asked for it"),
        End::SocketGone => tracing::info!("stopping: the control socket was removed"),
    }
    let router = Arc::into_inner(router).expect("the admin thread had the other share, and it has ended");
    router.stop().map_err(LaunchError::Failed)
}

/// What SIGHUP does: the file is read again, and applied if it has no mistake.
fn reloader(config: RouterConfig, environment: Environment, device: DeviceHandle) -> OnReload {
    Box::new(move || match config.reload(&environment) {
        Err(error) => tracing::error!("the configuration stays as it is: {error}"),
        Ok(update) => match device.apply(update) {
            Ok(()) => tracing::info!(
                "keys, port and peers are as the file has them now; addresses, routes and MTU take a restart"
            ),
            Err(errno) => tracing::error!("the configuration stays as it is: {errno}"),
        },
    })
}
