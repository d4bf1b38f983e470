//! `laneway IFNAME`: a drop-in replacement for the wireguard-go command, for `wg-quick` and similar tools. It
//! creates the interface and leaves its configuration to `wg` and `ip`; the environment variables are those of
//! wireguard-go's `main.go`.
//!
//! Unless told to stay in the foreground, the command exits once the interface and its control socket exist, and
//! a background process continues. Startup errors are printed by the command, which exits with the status it
//! would have had in the foreground.

use std::env;

use super::launch::{EXIT_RESTART, StopReason};
use super::{Failure, launch};
use crate::config::env::Environment;
use crate::config::{ConfigError, RouterConfig};
use crate::router::takeover::kept::Kept;
use crate::sys::daemon::{self, Process};
use crate::sys::signals;

/// Runs the interface until it is told to stop, or starts it in the background. Returns the exit status.
///
/// # Errors
/// The environment is invalid, or the router did not start or failed.
pub fn run(interface: &str, foreground: bool) -> Result<u8, Failure> {
    signals::end_at_once().map_err(Failure::Signals)?;
    let foreground = foreground || env::var_os("WG_PROCESS_FOREGROUND").is_some_and(|value| value == "1");
    let kept = foreground.then(Kept::take);
    let environment = Environment::of_process()?;
    let mut config = RouterConfig::for_interface(interface, &environment)?;
    config.tun_fd = descriptor("WG_TUN_FD")?;
    config.uapi_fd = descriptor("WG_UAPI_FD")?;
    let level = env::var("LOG_LEVEL").ok();
    if environment.log.is_none()
        && let Some(level) = &level
    {
        filter(level).clone_into(&mut config.log);
    }
    let start = |config: RouterConfig, kept: Kept, ready: launch::OnReady| -> Result<u8, Failure> {
        launch::init_log(&config.log, config.log_format);
        Ok(match launch::launch(config, environment.clone(), kept, ready)? {
            StopReason::Restart => EXIT_RESTART,
            _ => 0,
        })
    };
    signals::hold().map_err(Failure::Signals)?;
    if let Some(kept) = kept {
        return start(config, kept, Box::new(|| Ok(())));
    }
    // The background process changes its working directory.
    config.uapi_dir = std::path::absolute(&config.uapi_dir).map_err(Failure::Background)?;
    let keep_output = environment.log.is_some() || level.is_some_and(|level| filter(&level) != "off");
    match daemon::split().map_err(Failure::Background)? {
        Process::Parent(parent) => parent.wait().map_err(Failure::Background),
        Process::Child(child) => {
            // Nothing: the service manager has started another process.
            start(config, Kept::take(), Box::new(move || child.ready(keep_output)))
        }
    }
}

/// Reads the number of an inherited descriptor from the variable `name`.
fn descriptor(name: &'static str) -> Result<Option<i32>, ConfigError> {
    env::var_os(name).map(|value| parse_descriptor(name, &value.to_string_lossy())).transpose()
}

fn parse_descriptor(name: &str, value: &str) -> Result<i32, ConfigError> {
    value.parse().ok().filter(|fd| *fd > 2).ok_or_else(|| ConfigError::Variable {
        name: name.to_owned(),
        value: value.to_owned(),
        allowed: "the number of an open descriptor, 3 or more".to_owned(),
    })
}

/// Maps `LOG_LEVEL` to a log filter. Like wireguard-go, treats unknown levels as `error`.
fn filter(level: &str) -> &'static str {
    match level {
        "silent" => "off",
        "verbose" | "debug" => "debug",
        _ => "error",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_levels_are_those_of_wireguard_go() {
        let filters = ["silent", "error", "verbose", "debug", "?"].map(filter);
        assert_eq!(filters, ["off", "error", "debug", "debug", "error"]);
    }

    #[test]
    fn a_descriptor_is_a_number_that_is_not_a_standard_stream() {
        assert_eq!(parse_descriptor("WG_TUN_FD", "3").unwrap(), 3);
        for value in ["", "x", "-1", "2", "99999999999"] {
            let message = parse_descriptor("WG_TUN_FD", value).unwrap_err().to_string();
            assert!(message.starts_with(&format!("WG_TUN_FD={value}: expected the number")), "{message}");
        }
    }
}
