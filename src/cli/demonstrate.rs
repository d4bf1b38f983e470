//! `laneway demo` with real routers, optionally serving the left one's metrics.

use std::net::TcpListener;
use std::sync::Arc;

use super::demo::routers::{self, RoutersError};
use super::demo::{self, DemoArgs, DemoError, Ending};
use crate::router::admin::{Admin, AdminError, Http};
use crate::router::start::Router;

/// Runs the demo until it completes or is interrupted.
///
/// # Errors
/// The lab or the routers cannot be set up, or traffic was lost or corrupted.
pub fn run(args: &DemoArgs) -> Result<Ending, DemoError> {
    demo::run(args, |lab, args, listener| -> Result<_, StartError> {
        let routers = routers::start(lab, args)?;
        if let Some(listener) = listener {
            serve_metrics(&routers[0], listener)?;
        }
        Ok(routers)
    })
}

impl demo::Router for Router {
    fn metrics_text(&self) -> String {
        Router::metrics_text(self)
    }
}

/// Errors when starting the demo's routers.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Routers(#[from] RoutersError),
    #[error(transparent)]
    Admin(#[from] AdminError),
}

/// Serves metrics until the router stops. The listener stays in the network namespace it was bound in.
fn serve_metrics(router: &Router, listener: TcpListener) -> Result<(), AdminError> {
    let admin = Admin {
        registry: Arc::clone(router.registry()),
        threads: Arc::clone(router.threads()),
        readiness: Arc::new(router.readiness()),
        device: Arc::new(router.device().clone()),
        shutdown: Arc::clone(router.shutdown()),
        metrics: Some(Http { bound: listener.into(), from_tunnel: false }),
        before: None,
        uapi: None,
        link: None,
        hangups: None,
    };
    // The thread ends when the router stops, so it is not joined.
    admin.spawn().map(drop)
}
