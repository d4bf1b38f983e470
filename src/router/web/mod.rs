//! HTTPS and logins for the HTTP server, from a file as Prometheus exporters have it (the exporter toolkit's
//! `docs/web-configuration.md`).
//!
//! The file and the certificates are read again when they change, so certificates can be renewed while the router runs.
//! If what they contain then is invalid, the settings before stay in force.

mod file;
mod logins;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustls::ServerConfig;

pub(super) use logins::Logins;

/// Shortest time between two looks for changed files.
const LOOK: Duration = Duration::from_secs(1);

/// Errors in the file or the files that it names.
#[derive(Debug, thiserror::Error)]
pub enum WebError {
    /// A file cannot be read.
    #[error("LANEWAY_METRICS_CONFIG: {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system error.
        source: io::Error,
    },
    /// A file has an invalid value.
    #[error("LANEWAY_METRICS_CONFIG: {}: {why}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The mistake, and what is expected.
        why: String,
    },
}

impl WebError {
    fn invalid(path: &Path, why: impl Into<String>) -> Self {
        WebError::Invalid { path: path.to_owned(), why: why.into() }
    }
}

/// How the HTTP server is protected.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// TLS, if it is on.
    pub(super) tls: Option<Arc<ServerConfig>>,
    /// Whether a request needs a client certificate. Those that are sent have been verified.
    pub(super) needs_certificate: bool,
    /// Who may log in, if a request needs a login.
    pub(super) logins: Option<Arc<Logins>>,
}

/// The settings from a file, followed as it changes.
#[derive(Debug)]
pub struct Web {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    current: Arc<Settings>,
    /// Each file that was read and when it was changed last.
    files: BTreeMap<PathBuf, Option<Stamp>>,
    looked: Instant,
}

/// Tells one version of a file from the next.
type Stamp = (SystemTime, u64);

impl Web {
    /// Reads the file at `path` and the files that it names.
    ///
    /// # Errors
    /// See [`WebError`].
    pub fn read(path: &Path) -> Result<Self, WebError> {
        let mut files = Files::default();
        let current = Arc::new(file::settings(path, &mut files)?);
        let state = State { current, files: files.0, looked: Instant::now() };
        Ok(Web { path: path.to_owned(), state: Mutex::new(state) })
    }

    /// Returns the files that were read.
    pub fn files(&self) -> Vec<PathBuf> {
        self.state().files.keys().cloned().collect()
    }

    /// Returns the current settings.
    pub(super) fn current(&self) -> Arc<Settings> {
        let mut state = self.state();
        if state.looked.elapsed() >= LOOK {
            state.looked = Instant::now();
            if state.files.iter().any(|(path, stamp)| Files::stamp(path) != *stamp) {
                self.read_again(&mut state);
            }
        }
        Arc::clone(&state.current)
    }

    fn read_again(&self, state: &mut State) {
        let mut files = Files::default();
        match file::settings(&self.path, &mut files) {
            Ok(settings) => {
                tracing::info!("certificates and logins of the metrics read again");
                state.current = Arc::new(settings);
                state.files = files.0;
            }
            Err(error) => {
                tracing::error!("{error}; the settings before stay in force");
                // Keeps watching the files of the settings in force, and reports each mistake once.
                for path in state.files.keys() {
                    files.0.entry(path.clone()).or_insert_with(|| Files::stamp(path));
                }
                state.files = files.0;
            }
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads files and notes which.
#[derive(Default)]
struct Files(BTreeMap<PathBuf, Option<Stamp>>);

impl Files {
    fn read(&mut self, path: &Path) -> Result<Vec<u8>, WebError> {
        // The stamp comes first: a file that changes meanwhile is read again.
        self.0.insert(path.to_owned(), Self::stamp(path));
        fs::read(path).map_err(|source| WebError::Read { path: path.to_owned(), source })
    }

    fn stamp(path: &Path) -> Option<Stamp> {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.modified().ok()?, metadata.len()))
    }
}
