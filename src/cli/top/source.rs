//! Where readings come from: the control socket or a metrics URL.

use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

use super::TopError;
use super::access::HttpAccess;
use super::http;
use super::totals::Totals;
use super::url::Url;
use crate::cli::chosen;
use crate::metrics::exposition::Exposition;
use crate::uapi::client;

/// A router to read from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// The control socket of an interface in a directory.
    Socket(PathBuf, String),
    /// The metrics over HTTP.
    Url(Url, HttpAccess),
}

impl Source {
    /// Returns the control socket of `interface`, or of the only interface.
    ///
    /// # Errors
    /// The directory cannot be read, or there is not exactly one interface.
    pub(super) fn socket(directory: Option<PathBuf>, interface: Option<&str>) -> Result<Source, TopError> {
        let (directory, interface) = chosen::interface(directory, interface)?;
        Ok(Source::Socket(directory, interface))
    }

    /// Takes a reading.
    ///
    /// # Errors
    /// The router does not answer, or answers nonsense.
    pub(super) fn read(&self) -> Result<Totals, TopError> {
        let (metrics, status) = match self {
            Source::Socket(directory, interface) => {
                let metrics = client::metrics(directory, interface)?;
                // Other implementations have no metrics.
                (metrics.unwrap_or_default(), Some(client::status(directory, interface)?))
            }
            Source::Url(url, access) => {
                let answer =
                    http::get(url, access).map_err(|why| TopError::Http { url: url.to_string(), why })?;
                (answer, None)
            }
        };
        let at = Instant::now();
        let metrics =
            Exposition::parse(&metrics).map_err(|error| TopError::Metrics(self.to_string(), error))?;
        Ok(Totals::of(at, &metrics, status.as_ref()))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Socket(_, interface) => f.write_str(interface),
            Source::Url(url, _) => url.fmt(f),
        }
    }
}
