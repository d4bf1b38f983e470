//! What can be wrong with a configuration. Every message names the place and says what is allowed.

use std::io;
use std::path::PathBuf;

use crate::wireguard::aead::Unavailable;

/// Why a configuration is not acted on. The process ends with status 2 before it creates anything.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file that is named cannot be read.
    #[error("{}: cannot read it: {source}{}", path.display(), named_by.map_or(String::new(), |n| format!(" (named by {n})")))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The variable that names it, if one does.
        named_by: Option<&'static str>,
        /// What the system said.
        source: io::Error,
    },
    /// A line of the configuration file.
    #[error("{}:{line}: {key}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key, or the section.
        key: String,
        /// What is wrong, and what is allowed. Never has a secret in it.
        problem: String,
    },
    /// An environment variable has a value that means nothing.
    #[error("{name}={value}: expected {allowed}")]
    Variable {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// An environment variable that looks like ours but is not.
    #[error("{name}: there is no such variable; did you mean {near}?")]
    UnknownVariable {
        /// Its name.
        name: String,
        /// Names that look like it.
        near: String,
    },
    /// Intel's library is to seal and open, and cannot.
    #[error("LANEWAY_AEAD=ipsec-mb: {0}")]
    Aead(#[from] Unavailable),
    /// A key file does not hold a key.
    #[error("{}: {problem} (named by {named_by})", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// The variable that names it.
        named_by: &'static str,
        /// What is wrong. Never has the file's content in it.
        problem: String,
    },
    /// An interface name that Linux or `wg-quick` would refuse.
    #[error(
        "{name:?} cannot be an interface's name: expected 1 to 15 letters, digits, or any of _=+.- ({named_by})"
    )]
    InterfaceName {
        /// The name.
        name: String,
        /// Where it comes from.
        named_by: &'static str,
    },
}
