//! `laneway top`: a live view of one router's rates, drops, CPU time and peers.
//!
//! The figures come from the router's own metrics, read from its control socket or over HTTP or HTTPS, so they agree
//! with a dashboard. The router does nothing for it but answer a scrape.

mod access;
mod app;
mod figures;
mod http;
mod source;
mod terminal;
mod text;
mod totals;
mod url;
mod view;

use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use clap::Args;

use super::chosen::ChosenError;
use super::output;
use crate::config::ConfigError;
use crate::config::env::Environment;
use crate::uapi::client::ClientError;
use access::{HttpAccess, HttpAccessArgs};
use figures::Figures;
use source::Source;
use url::Url;

/// Watch a router: rates of each queue and peer, drops and CPU time
///
/// Keys: q quits, p pauses, s changes the order of the peers, r reverses it, Tab chooses the table that the arrow
/// keys scroll, + and - change the interval.
#[derive(Clone, Debug, Args)]
pub struct TopArgs {
    /// Interface to watch; may be left out if there is only one
    #[arg(value_name = "IFNAME", conflicts_with = "url")]
    interface: Option<String>,

    /// Read the metrics over HTTP, for other users and other hosts; endpoints are not shown
    #[arg(long, value_name = "http[s]://[USER@]HOST:PORT/metrics")]
    url: Option<Url>,

    #[command(flatten)]
    access: HttpAccessArgs,

    /// Print the figures of one interval as text
    #[arg(long)]
    once: bool,

    /// Seconds between readings
    #[arg(long, short = 'n', value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
    interval: u64,
}

/// Errors of `laneway top`.
#[derive(Debug, thiserror::Error)]
pub enum TopError {
    /// The environment is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is not exactly one interface to choose.
    #[error("{}", with_url(.0))]
    Chosen(#[from] ChosenError),
    /// The router does not answer on its control socket.
    #[error("{0}; with `--url http://127.0.0.1:9586/metrics` any user can watch")]
    Socket(#[from] ClientError),
    /// The metrics cannot be read over HTTP.
    #[error("{url}: {why}")]
    Http {
        /// The URL.
        url: String,
        /// What happened.
        why: String,
    },
    /// The options for the URL are not complete, or a file that they name is not usable.
    #[error("{0}")]
    Access(String),
    /// The metrics are not in the Prometheus text format.
    #[error("{0}: invalid metrics: {1}")]
    Metrics(String, #[source] crate::metrics::exposition::ExpositionError),
    /// The terminal or standard output failed.
    #[error("cannot write to the terminal: {0}")]
    Terminal(#[source] io::Error),
}

fn with_url(error: &ChosenError) -> String {
    match error {
        ChosenError::NoInterface { .. } => format!("{error}; name the router's metrics with --url"),
        _ => error.to_string(),
    }
}

/// Shows the router until the user quits, or prints text if standard output is not a terminal.
///
/// # Errors
/// See [`TopError`]. A router that stops answering is an error only for the first reading and in text mode.
pub fn run(args: &TopArgs) -> Result<(), TopError> {
    let source = match (&args.url, &args.interface) {
        (Some(url), _) => Source::Url(url.clone(), HttpAccess::new(url, &args.access)?),
        (None, interface) => Source::socket(Environment::of_process()?.uapi_dir, interface.as_deref())?,
    };
    let interval = Duration::from_secs(args.interval);
    if !args.once && io::stdout().is_terminal() && io::stdin().is_terminal() {
        return terminal::run(source, interval);
    }
    let mut before = source.read()?;
    loop {
        if output::is_closed_within(interval) {
            return Ok(());
        }
        let now = source.read()?;
        let text = text::report(&source.to_string(), &Figures::between(&before, &now));
        match io::stdout().lock().write_all(text.as_bytes()) {
            // A closed pipe is not an error.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            printed => printed.map_err(TopError::Terminal)?,
        }
        if args.once {
            return Ok(());
        }
        before = now;
    }
}
