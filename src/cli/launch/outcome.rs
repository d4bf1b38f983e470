//! How a router process ends.

use std::io;

use crate::netlink::masquerade::MasqueradeError;
use crate::router::admin::AdminError;
use crate::router::start::StartError;
use crate::router::stopping::StopError;
use crate::router::takeover::kept::Left;
use crate::router::web::WebError;
use crate::uapi::{self, UapiError};

/// Errors when starting, running or stopping a router.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// The router did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The control socket cannot be created.
    #[error(transparent)]
    Uapi(#[from] UapiError),
    /// The admin thread cannot serve metrics, handle signals or watch the interface.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The certificates or logins of the metrics are invalid.
    #[error(transparent)]
    Web(#[from] WebError),
    /// The interface has a router.
    #[error("{interface} is already run by {}; stop it first, or continue it with `laneway run --take-over`", uapi::named(*process))]
    Running {
        /// The interface.
        interface: String,
        /// The process, if it can be told.
        process: Option<i32>,
    },
    /// Masquerading cannot be set up.
    #[error(transparent)]
    Masquerade(#[from] MasqueradeError),
    /// An inherited descriptor cannot be used.
    #[error("{variable}={fd}: {source}; expected the number of a descriptor that the process inherited")]
    Inherited {
        /// The environment variable that names it.
        variable: &'static str,
        /// The descriptor's number.
        fd: i32,
        /// The system error.
        source: io::Error,
    },
    /// The router runs, but the process cannot detach from its parent.
    #[error("cannot detach from the terminal: {0}")]
    Ready(#[source] io::Error),
    /// A thread failed, or did not stop in time.
    #[error(transparent)]
    Stop(#[from] StopError),
}

/// Why a router stopped without a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// A signal told it to.
    Signal,
    /// Another process deleted the interface.
    InterfaceDeleted,
    /// Another process removed the control socket's file.
    SocketRemoved,
    /// Another process has taken the router over.
    HandedOver,
    /// A signal told it to, and the service manager is to start it again.
    Restart,
}

impl StopReason {
    /// Returns the reason of a router whose successor has taken it over, or will, with what it `left` to the service
    /// manager.
    pub(super) fn of_successor(left: Option<Left>) -> Self {
        match left {
            Some(Left::Sessions) => {
                tracing::info!("the next process of the service continues with the sessions");
                StopReason::Restart
            }
            Some(Left::Descriptors) => StopReason::Restart,
            Some(Left::Nothing) | None => StopReason::HandedOver,
        }
    }

    pub(super) fn log(self) {
        match self {
            StopReason::Signal | StopReason::Restart => tracing::info!("stopping: received a signal"),
            // Logged by the worker that noticed.
            StopReason::InterfaceDeleted | StopReason::HandedOver => {}
            StopReason::SocketRemoved => tracing::info!("stopping: control socket removed"),
        }
    }
}

/// Exit status of a process whose service manager is to start the next one (`RestartForceExitStatus=` in the unit).
pub const EXIT_RESTART: u8 = 4;
