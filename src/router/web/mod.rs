//! HTTPS and logins for the HTTP server, from a file as Prometheus exporters have it (the exporter toolkit's
//! `docs/web-configuration.md`).
//!
//! The file and the certificates are read again when they change, so certificates can be renewed while the router runs.
//! If what they contain then is invalid, or would turn off TLS, logins or the need of a client certificate, the settings
//! before stay in force.

mod file;
mod logins;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use zeroize::Zeroizing;

use crate::config::reading;
use crate::config::warnings::Warning;

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
pub(super) struct WebSettings {
    /// TLS, if it is on.
    pub(super) tls: Option<Arc<ServerConfig>>,
    /// Whether a request needs a client certificate. Those that are sent have been verified.
    pub(super) needs_certificate: bool,
    /// Who may log in, if a request needs a login.
    pub(super) logins: Option<Arc<Logins>>,
}

impl WebSettings {
    /// Returns which protection `next` lacks.
    fn lost_by(&self, next: &WebSettings) -> Option<&'static str> {
        if self.tls.is_some() && next.tls.is_none() {
            Some("TLS")
        } else if self.needs_certificate && !next.needs_certificate {
            Some("the need of a client certificate")
        } else {
            (self.logins.is_some() && next.logins.is_none()).then_some("logins")
        }
    }

    /// Takes the logins of `before` if they are the same, with those that are recognized again.
    fn keep_logins_of(&mut self, before: &WebSettings) {
        if let (Some(now), Some(before)) = (&mut self.logins, &before.logins)
            && now.is_same(before)
        {
            *now = Arc::clone(before);
        }
    }
}

/// The settings from a file, followed as it changes.
#[derive(Debug)]
pub struct Web {
    path: PathBuf,
    state: Mutex<WebState>,
}

#[derive(Debug)]
struct WebState {
    current: Arc<WebSettings>,
    /// Each file that was read and when it was changed last.
    files: BTreeMap<PathBuf, Option<FileStamp>>,
    looked: Instant,
}

/// Tells one version of a file from the next: device, inode, length, times of modification and of change. The last is
/// not kept by tools that copy a file with its times.
type FileStamp = (u64, u64, u64, [i64; 4]);

impl Web {
    /// Reads the file at `path` and the files that it names.
    ///
    /// # Errors
    /// See [`WebError`].
    pub fn read(path: &Path) -> Result<Self, WebError> {
        let mut files = Files::default();
        let current = Arc::new(file::settings(path, &mut files)?);
        let state = WebState { current, files: files.0, looked: Instant::now() };
        Ok(Web { path: path.to_owned(), state: Mutex::new(state) })
    }

    /// Returns a warning if passwords would cross a network in clear on their way to `address`.
    pub fn warning(&self, address: Option<SocketAddr>) -> Option<Warning> {
        let settings = Arc::clone(&self.state().current);
        let exposed = address.filter(|address| !address.ip().to_canonical().is_loopback())?;
        (settings.logins.is_some() && settings.tls.is_none()).then(|| Warning {
            path: self.path.clone(),
            line: None,
            text: format!(
                "basic_auth_users without tls_server_config: passwords to {exposed} are not encrypted"
            ),
        })
    }

    /// Returns whether there is HTTPS.
    fn has_tls(&self) -> bool {
        self.state().current.tls.is_some()
    }

    /// Returns what a request needs: a login, a client certificate, or nothing.
    pub fn needs(&self) -> Option<&'static str> {
        let settings = Arc::clone(&self.state().current);
        match (settings.logins.is_some(), settings.needs_certificate) {
            (true, true) => Some("a login and a client certificate"),
            (true, false) => Some("a login"),
            (false, true) => Some("a client certificate"),
            (false, false) => None,
        }
    }

    /// Returns the URL of the metrics at `address`.
    pub fn url(web: Option<&Web>, address: SocketAddr) -> String {
        let scheme = if web.is_some_and(Web::has_tls) { "https" } else { "http" };
        format!("{scheme}://{address}/metrics")
    }

    /// Returns the URL of the metrics at `address` and what a request needs.
    pub fn describe(web: Option<&Web>, address: SocketAddr) -> String {
        let needs = web.and_then(Web::needs).map_or_else(String::new, |needs| format!(", with {needs}"));
        Self::url(web, address) + &needs
    }

    /// Returns the files that were read.
    pub fn files(&self) -> Vec<PathBuf> {
        self.state().files.keys().cloned().collect()
    }

    /// Returns the current settings.
    pub(super) fn current(&self) -> Arc<WebSettings> {
        let mut state = self.state();
        if state.looked.elapsed() >= LOOK {
            state.looked = Instant::now();
            if state.files.iter().any(|(path, stamp)| Files::stamp(path) != *stamp) {
                self.read_again(&mut state);
            }
        }
        Arc::clone(&state.current)
    }

    fn read_again(&self, state: &mut WebState) {
        let mut files = Files::default();
        match file::settings(&self.path, &mut files) {
            Ok(mut settings) => {
                if let Some(lost) = state.current.lost_by(&settings) {
                    tracing::warn!(
                        "LANEWAY_METRICS_CONFIG: {}: {lost} would be turned off; the settings before stay in \
                         force until a restart",
                        self.path.display()
                    );
                } else {
                    tracing::info!("certificates and logins of the metrics read again");
                    settings.keep_logins_of(&state.current);
                    state.current = Arc::new(settings);
                    state.files = files.0;
                    return;
                }
            }
            Err(error) => tracing::error!("{error}; the settings before stay in force"),
        }
        // Keeps watching the files of the settings in force, and reports each mistake once.
        for path in state.files.keys() {
            files.0.entry(path.clone()).or_insert_with(|| Files::stamp(path));
        }
        state.files = files.0;
    }

    fn state(&self) -> std::sync::MutexGuard<'_, WebState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads files and notes which.
#[derive(Default)]
struct Files(BTreeMap<PathBuf, Option<FileStamp>>);

impl Files {
    fn read(&mut self, path: &Path) -> Result<Zeroizing<Vec<u8>>, WebError> {
        // The stamp comes first: a file that changes meanwhile is read again.
        self.0.insert(path.to_owned(), Self::stamp(path));
        reading::read(path).map_err(|source| WebError::Read { path: path.to_owned(), source })
    }

    fn stamp(path: &Path) -> Option<FileStamp> {
        let file = fs::metadata(path).ok()?;
        let times = [file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec()];
        Some((file.dev(), file.ino(), file.len(), times))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Folder;

    /// Hashes of nothing in particular, at cost 10.
    const USERS: &str =
        "basic_auth_users:\n  alice: $2y$10$mDwo.lAisC94iLAyP81MCesa29IzH37oigHC/42V2pdJlUprsJPze\n";
    const MORE: &str = "  bob: $2y$10$mDwo.lAisC94iLAyP81MCesa29IzH37oigHC/42V2pdJlUprsJPze\n";

    #[test]
    fn protection_is_not_lost_when_the_file_is_read_again() {
        let folder = Folder::new("web-again");
        let path = folder.0.join("web.yml");
        let write = |text: &str| fs::write(&path, text).unwrap();
        for empty in ["", "# nothing\n", "{}", "basic_auth_users:\n", "basic_auth_users: {}\n"] {
            write(empty);
            assert!(Web::read(&path).is_err(), "{empty:?}");
        }
        write(USERS);
        let web = Web::read(&path).unwrap();
        let first = web.state().current.logins.clone().unwrap();
        let again = |text: &str| {
            write(text);
            let mut state = web.state();
            web.read_again(&mut state);
            state.current.logins.clone().unwrap()
        };
        for text in ["", "{}", "basic_auth_users:\n", "basic_auth_users: {}\n", &USERS[..40]] {
            assert!(Arc::ptr_eq(&first, &again(text)), "{text:?}");
        }
        assert!(Arc::ptr_eq(&first, &again(USERS)), "known logins are forgotten");
        assert!(!Arc::ptr_eq(&first, &again(&format!("{USERS}{MORE}"))), "a new user is not admitted");
    }

    #[test]
    fn what_a_change_would_turn_off_is_named() {
        let certificate = WebSettings { needs_certificate: true, ..WebSettings::default() };
        let none = WebSettings::default();
        assert!(certificate.lost_by(&none).is_some_and(|lost| lost.contains("certificate")));
        assert_eq!(none.lost_by(&certificate), None);
        assert_eq!(certificate.lost_by(&certificate), None);
    }

    #[test]
    fn passwords_in_clear_are_warned_of() {
        let folder = Folder::new("web-clear");
        let path = folder.0.join("web.yml");
        fs::write(&path, USERS).unwrap();
        let web = Web::read(&path).unwrap();
        let warns = |address: &str| web.warning(Some(address.parse().unwrap())).is_some();
        assert!(warns("0.0.0.0:9586") && warns("[::]:9586") && warns("192.0.2.1:9586"));
        assert!(!warns("127.0.0.1:9586") && !warns("[::1]:9586") && web.warning(None).is_none());
    }

    #[test]
    fn a_replaced_file_of_the_same_time_and_length_is_changed() {
        let folder = Folder::new("web-stamp");
        let (path, new) = (folder.0.join("a"), folder.0.join("b"));
        fs::write(&path, "1").unwrap();
        fs::write(&new, "2").unwrap();
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        fs::File::options().write(true).open(&new).unwrap().set_modified(time).unwrap();
        let before = Files::stamp(&path);
        fs::rename(&new, &path).unwrap();
        assert_ne!(before, Files::stamp(&path));
    }
}
