//! `laneway demo`: the demo with real routers, and the first one's metrics where they were asked for.

use std::net::TcpListener;
use std::sync::Arc;

use super::demo::routers::{self, RoutersError};
use super::demo::{self, DemoArgs, DemoError, Ending};
use crate::control::admin::{Admin, AdminError};
use crate::control::supervisor::Router;

/// Runs the demo to its end, or until somebody interrupts it.
///
/// # Errors
/// No laboratory or no routers could be had, or something did not cross.
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

/// Why the demo's routers did not start.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error(transparent)]
    Routers(#[from] RoutersError),
    #[error(transparent)]
    Admin(#[from] AdminError),
}

/// Serves until the router stops. The listener stays in the network it was bound in.
fn serve_metrics(router: &Router, listener: TcpListener) -> Result<(), AdminError> {
    let admin = Admin {
        registry: Arc::clone(router.registry()),
        roll: Arc::clone(router.roll()),
        readiness: Arc::new(router.readiness()),
        device: Arc::new(router.device().clone()),
        shutdown: Arc::clone(router.shutdown()),
        metrics: Some(listener),
        before: None,
        uapi: None,
        link: None,
        hangups: None,
    };
    // The thread ends by itself when the router stops.
    admin.spawn().map(drop)
}
