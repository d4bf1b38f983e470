//! Configuration errors. Every message names the location and what is allowed there.

use std::io;
use std::path::PathBuf;

use ipnet::IpNet;

/// Errors in a configuration. At start, the process exits with status 2 before it creates anything.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("{}: cannot read the file: {source}{}", path.display(), named_by.map_or(String::new(), |n| format!(" (named by {n})")))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The environment variable that names the file, if any.
        named_by: Option<&'static str>,
        /// The system error.
        source: io::Error,
    },
    /// A file that is a pipe was to be read again.
    #[error("{}: cannot be read again: it is a pipe, and its content has been read; for reloads, use a file", .0.display())]
    Pipe(PathBuf),
    /// The path of the control socket is too long.
    #[error("{}: the path of the control socket is too long: with this interface's name, {most} bytes at most; set \
             LANEWAY_UAPI_DIR to a shorter path", directory.display())]
    SocketPath {
        /// The directory.
        directory: PathBuf,
        /// Its maximum length in bytes.
        most: usize,
    },
    /// A line of the configuration file is invalid.
    #[error("{}:{line}: {key}: {problem}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line number, from 1.
        line: usize,
        /// The key or section, with its value where that is what is wrong.
        key: String,
        /// What is wrong and what is allowed. Never contains a secret.
        problem: String,
    },
    /// An environment variable has an invalid value.
    #[error("{name}={value}: expected {allowed}")]
    Variable {
        /// Its name.
        name: String,
        /// Its value.
        value: String,
        /// What is allowed.
        allowed: String,
    },
    /// An environment variable starts with `LANEWAY_` but does not exist.
    #[error("{name}: unknown variable; did you mean {near}?")]
    UnknownVariable {
        /// Its name.
        name: String,
        /// Similar names that do exist.
        near: String,
    },
    /// A key file does not hold a key.
    #[error("{}: {problem} (named by {named_by})", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// The environment variable that names the file.
        named_by: &'static str,
        /// What is wrong. Never contains the file's contents.
        problem: String,
    },
    /// `laneway run` was given neither a file nor a key.
    #[error(
        "nothing to run: name a file with --config or LANEWAY_CONFIG, or a key with LANEWAY_PRIVATE_KEY_FILE; \
         `laneway IFNAME` creates an interface for others to configure"
    )]
    Nothing,
    /// The MTU is too small for IPv6, which passes through the interface.
    #[error(
        "MTU {mtu} is too small for IPv6, which requires 1280 bytes (RFC 8200, section 5): raise MTU or LANEWAY_MTU, \
         or remove {net} and all other IPv6 addresses and allowed IPs"
    )]
    MtuForIpv6 {
        /// The MTU in bytes.
        mtu: u16,
        /// An IPv6 address or allowed IP.
        net: IpNet,
    },
    /// An interface name that Linux or `wg-quick` would reject.
    #[error(
        "{name:?} cannot be an interface name: expected 1 to 15 letters, digits, or any of _=+.- ({named_by})"
    )]
    InterfaceName {
        /// The name.
        name: String,
        /// Where the name comes from.
        named_by: &'static str,
    },
}
