//! The interface that a command is about: the one that is named, or the only one.

use std::io;
use std::path::{Path, PathBuf};

use crate::config::RouterConfig;
use crate::uapi::client;

/// Errors when there is not exactly one interface to choose.
#[derive(Debug, thiserror::Error)]
pub enum ChosenError {
    /// The directory of control sockets cannot be read.
    #[error("{}: cannot list interfaces: {source}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The system error.
        source: io::Error,
    },
    /// No interface is served.
    #[error("no interface is served on this host")]
    NoInterface {
        /// The directory.
        directory: PathBuf,
    },
    /// Several interfaces are served, and none was named.
    #[error("name one of these interfaces: {}", .0.join(", "))]
    Several(Vec<String>),
}

/// Returns the directory of control sockets, `directory` or the default one, and the interface `named`, or the only one
/// in it.
///
/// # Errors
/// See [`ChosenError`].
pub(super) fn interface(
    directory: Option<PathBuf>,
    named: Option<&str>,
) -> Result<(PathBuf, String), ChosenError> {
    let directory = self::directory(directory);
    let interface = match named {
        Some(interface) => interface.to_owned(),
        None => only_interface(&directory)?,
    };
    Ok((directory, interface))
}

/// Returns the directory of control sockets, `named` or the default one.
pub(super) fn directory(named: Option<PathBuf>) -> PathBuf {
    named.unwrap_or_else(|| RouterConfig::named("").uapi_dir)
}

fn only_interface(directory: &Path) -> Result<String, ChosenError> {
    let mut interfaces = client::interfaces(directory)
        .map_err(|source| ChosenError::Directory { path: directory.to_owned(), source })?;
    match interfaces.pop() {
        Some(only) if interfaces.is_empty() => Ok(only),
        Some(last) => Err(ChosenError::Several(interfaces.into_iter().chain([last]).collect())),
        None => Err(ChosenError::NoInterface { directory: directory.to_owned() }),
    }
}
