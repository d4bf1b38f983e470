//! `laneway show`: what `wg show` prints (wg(8)) of devices in user space, and a line for each queue of
//! those that are ours.

mod text;

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Args;

use super::exposition::Exposition;
use crate::control::config::env::Environment;
use crate::control::config::{ConfigError, RouterConfig};
use crate::control::uapi::client::{self, ClientError};
use text::{Device, Secrets};

/// Show interfaces: keys, peers, what they have sent, and what each queue has done
#[derive(Clone, Debug, Args)]
pub struct ShowArgs {
    /// An interface, `all` of them, or the names of all `interfaces`
    #[arg(value_name = "IFNAME|all|interfaces", default_value = "all")]
    what: String,
}

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum ShowError {
    /// A mistake in the environment.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An interface does not say how it is.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The directory of the sockets cannot be read.
    #[error("{}: cannot look for interfaces: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Nowhere to print to.
    #[error("cannot print: {0}")]
    Print(#[source] io::Error),
}

/// Prints what was asked for.
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
        // Whoever read has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed.map_err(ShowError::Print),
    }
}

fn names(interfaces: &[String]) -> String {
    if interfaces.is_empty() { String::new() } else { interfaces.join(" ") + "\n" }
}

/// Every device that answers, with an empty line between them.
fn all(directory: &Path, interfaces: &[String]) -> String {
    let shown = interfaces.iter().filter_map(|interface| match device(directory, interface) {
        Ok(text) => Some(text),
        Err(error) => {
            // The others are shown all the same.
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
    // `wg` has the same variable.
    let never = env::var_os("WG_HIDE_KEYS").is_some_and(|value| value == "never");
    let secrets = if never { Secrets::Shown } else { Secrets::Hidden };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Ok(Device { interface, status: &status, metrics: &metrics, now, secrets }.to_string())
}
