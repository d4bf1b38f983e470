//! `laneway show`: prints userspace devices as `wg show` does (wg(8)), plus one line per queue for Laneway's own.

mod text;

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Args;

use crate::config::env::Environment;
use crate::config::{ConfigError, RouterConfig};
use crate::metrics::exposition::Exposition;
use crate::uapi::client::{self, ClientError};
use text::{Device, Secrets};

/// Show the keys, peers and traffic of interfaces, and the counters of each queue
#[derive(Clone, Debug, Args)]
pub struct ShowArgs {
    /// An interface name, `all` for every interface, or `interfaces` for their names only
    #[arg(value_name = "IFNAME|all|interfaces", default_value = "all")]
    what: String,
}

/// Errors of `laneway show`.
#[derive(Debug, thiserror::Error)]
pub enum ShowError {
    /// The environment is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The interface's status cannot be read.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The directory of UAPI sockets cannot be read.
    #[error("{}: cannot list interfaces: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The system error.
        source: io::Error,
    },
    /// Standard output failed.
    #[error("cannot write to standard output: {0}")]
    Print(#[source] io::Error),
}

/// Prints the requested interfaces.
///
/// # Errors
/// See [`ShowError`].
pub fn run(args: &ShowArgs) -> Result<(), ShowError> {
    let environment = Environment::of_process()?;
    let directory = environment.uapi_dir.unwrap_or_else(|| RouterConfig::named("").uapi_dir);
    let named = || {
        client::interfaces(&directory)
            .map_err(|source| ShowError::Directory { path: directory.clone(), source })
    };
    let text = match args.what.as_str() {
        "interfaces" => names(&named()?),
        "all" => all(&directory, &named()?),
        interface => device(&directory, interface)?,
    };
    let printed = io::Write::write_all(&mut io::stdout().lock(), text.as_bytes());
    match printed {
        // A closed pipe is not an error.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed.map_err(ShowError::Print),
    }
}

fn names(interfaces: &[String]) -> String {
    if interfaces.is_empty() { String::new() } else { interfaces.join(" ") + "\n" }
}

/// Formats every device that answers, separated by empty lines.
fn all(directory: &Path, interfaces: &[String]) -> String {
    let shown = interfaces.iter().filter_map(|interface| match device(directory, interface) {
        Ok(text) => Some(text),
        Err(error) => {
            // Continue with the other devices.
            eprintln!("laneway: {error}");
            None
        }
    });
    shown.collect::<Vec<_>>().join("\n")
}

fn device(directory: &Path, interface: &str) -> Result<String, ShowError> {
    let status = client::status(directory, interface)?;
    let metrics = client::metrics(directory, interface)?;
    let metrics = metrics.and_then(|text| Exposition::parse(&text).ok()).unwrap_or_default();
    // The same variable as in `wg` (wg(8), "ENVIRONMENT VARIABLES").
    let never = env::var_os("WG_HIDE_KEYS").is_some_and(|value| value == "never");
    let secrets = if never { Secrets::Shown } else { Secrets::Hidden };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ok(Device { interface, status: &status, metrics: &metrics, now, secrets }.to_string())
}
