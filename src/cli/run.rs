//! `laneway run`: runs one router, configured from a file and the environment.

use std::path::PathBuf;

use clap::Args;

use super::launch::{EXIT_RESTART, StopReason};
use super::{Failure, launch};
use crate::config::RouterConfig;
use crate::config::env::Environment;
use crate::router::takeover::kept::Kept;
use crate::sys::signals;

/// Run a router from a wg-quick style file and LANEWAY_* variables
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Configuration file [default: `LANEWAY_CONFIG`]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Continue a running router with its sessions, without losing packets; start as usual if none runs
    #[arg(long)]
    take_over: bool,
}

/// Runs a router until it is told to stop. SIGHUP reloads the file. Returns the exit status.
///
/// # Errors
/// The configuration is invalid, the router did not start or failed, or another process removed its interface or
/// control socket: service managers restart what ends with an error.
pub fn run(args: &RunArgs) -> Result<u8, Failure> {
    signals::end_at_once().map_err(Failure::Signals)?;
    let kept = Kept::take();
    let environment = Environment::of_process()?;
    let mut config = RouterConfig::for_run(args.config.as_deref(), &environment)?;
    config.take_over = args.take_over;
    signals::hold().map_err(Failure::Signals)?;
    launch::init_log(&config.log, config.log_format);
    match launch::launch(config, environment, kept, Box::new(|| Ok(())))? {
        StopReason::Signal | StopReason::HandedOver => Ok(0),
        StopReason::Restart => Ok(EXIT_RESTART),
        StopReason::InterfaceDeleted => Err(Failure::Removed("the interface")),
        StopReason::SocketRemoved => Err(Failure::Removed("the control socket")),
    }
}
