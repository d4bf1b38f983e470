//! `laneway show`: prints userspace devices as `wg show` does (wg(8)), plus one line per queue for Laneway's own.

mod dump;
mod json;
mod text;

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::{Args, ValueEnum};

use super::{chosen, kept};
use crate::config::ConfigError;
use crate::config::env::Environment;
use crate::config::update::DeviceStatus;
use crate::metrics::exposition::Exposition;
use crate::uapi::client::{self, ClientError};
use text::{Secrets, ShownInterface};

/// Show the keys, peers and traffic of interfaces, and the counters of each queue
#[derive(Clone, Debug, Args)]
pub struct ShowArgs {
    /// An interface name, `all` for every interface, or `interfaces` for their names only
    #[arg(value_name = "IFNAME|all|interfaces", default_value = "all")]
    what: String,

    /// `dump`: one line for each interface and peer, with keys, as `wg show IFNAME dump` prints them
    #[arg(value_name = "dump", conflicts_with = "json")]
    form: Option<Form>,

    /// Print JSON, with keys only if `WG_HIDE_KEYS=never`
    #[arg(long)]
    json: bool,
}

/// A form of output other than the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// As `wg show IFNAME dump`.
    Dump,
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
    /// There are interfaces, but none could be queried. The reasons have been printed.
    #[error("no interface could be queried")]
    Nothing,
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
    let directory = chosen::directory(environment.uapi_dir);
    let named = || {
        client::interfaces(&directory)
            .map_err(|source| ShowError::Directory { path: directory.clone(), source })
    };
    let interfaces = match args.what.as_str() {
        "interfaces" | "all" => named()?,
        interface => vec![interface.to_owned()],
    };
    if args.what == "interfaces" {
        let text =
            if args.json { format!("{:#}\n", serde_json::json!(interfaces)) } else { names(&interfaces) };
        return print(&text);
    }
    let mut shown = Vec::new();
    for interface in &interfaces {
        match InterfaceAnswer::read(&directory, interface) {
            Ok(device) => shown.push(device),
            // Continue with the other interfaces.
            Err(error) if args.what == "all" => eprintln!("laneway: {error}"),
            Err(error) => return Err(error.into()),
        }
    }
    if args.what == "all" {
        for notice in kept::notices(&directory) {
            eprintln!("laneway: {notice}");
        }
    }
    let prefix = args.what == "all";
    print(&match args.form {
        Some(Form::Dump) => {
            let dump =
                |shown: &InterfaceAnswer| dump::dump(&shown.status, prefix.then_some(&shown.interface));
            shown.iter().map(dump).collect()
        }
        None if args.json => {
            let entry = |shown: &InterfaceAnswer| (shown.interface.clone(), json::device(&shown.device()));
            format!("{:#}\n", serde_json::Value::Object(shown.iter().map(entry).collect()))
        }
        None => shown.iter().map(|shown| shown.device().to_string()).collect::<Vec<_>>().join("\n"),
    })?;
    // As in `wg`, one interface that can be queried is enough.
    if shown.is_empty() && !interfaces.is_empty() { Err(ShowError::Nothing) } else { Ok(()) }
}

fn print(text: &str) -> Result<(), ShowError> {
    match io::Write::write_all(&mut io::stdout().lock(), text.as_bytes()) {
        // A closed pipe is not an error.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed.map_err(ShowError::Print),
    }
}

fn names(interfaces: &[String]) -> String {
    if interfaces.is_empty() { String::new() } else { interfaces.join(" ") + "\n" }
}

/// What an interface has answered.
struct InterfaceAnswer {
    interface: String,
    status: DeviceStatus,
    metrics: Exposition,
}

impl InterfaceAnswer {
    fn read(directory: &Path, interface: &str) -> Result<Self, ClientError> {
        let status = client::status(directory, interface)?;
        let metrics = client::metrics(directory, interface)?;
        let metrics = metrics.and_then(|text| Exposition::parse(&text).ok()).unwrap_or_default();
        Ok(InterfaceAnswer { interface: interface.to_owned(), status, metrics })
    }

    fn device(&self) -> ShownInterface<'_> {
        // The same variable as in `wg` (wg(8), "ENVIRONMENT VARIABLES").
        let never = env::var_os("WG_HIDE_KEYS").is_some_and(|value| value == "never");
        let secrets = if never { Secrets::Shown } else { Secrets::Hidden };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        ShownInterface {
            interface: &self.interface,
            status: &self.status,
            metrics: &self.metrics,
            now,
            secrets,
        }
    }
}
