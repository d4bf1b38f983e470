//! `laneway genkey`, `genpsk` and `pubkey`: equivalents of the `wg` commands of the same names (wg(8)).

use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::fd::AsFd;

use nix::sys::stat::{SFlag, fstat};
use zeroize::Zeroizing;

use crate::wireguard::keys::{KeyError, OsEntropy, PresharedKey, PrivateKey};

/// Maximum input in bytes: more than a key and surrounding whitespace.
const MAX_INPUT: u64 = 4096;

/// Errors of the key commands.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The system's random number generator failed.
    #[error("cannot generate a key: no random bytes: {0}")]
    Entropy(#[from] getrandom::Error),
    /// Standard input or output failed.
    #[error("cannot {what}: {source}")]
    Stream {
        /// The operation that failed.
        what: &'static str,
        /// The system error.
        source: io::Error,
    },
    /// Standard input does not hold a key.
    #[error("standard input: {0}")]
    Key(#[from] KeyError),
}

/// Prints a new private key.
///
/// # Errors
/// The random number generator or standard output failed.
pub fn genkey() -> Result<(), KeysError> {
    print_secret(&PrivateKey::generate(&mut OsEntropy::new()?).to_base64())
}

/// Prints a new preshared key.
///
/// # Errors
/// The random number generator or standard output failed.
pub fn genpsk() -> Result<(), KeysError> {
    print_secret(&PresharedKey::generate(&mut OsEntropy::new()?).to_base64())
}

/// Reads a private key from standard input and prints its public key.
///
/// # Errors
/// Standard input does not hold a key, or standard output failed.
pub fn pubkey() -> Result<(), KeysError> {
    // The buffer never reallocates, which would leave a copy of the key in memory.
    let mut text = Zeroizing::new(String::with_capacity(MAX_INPUT as usize));
    let read = io::stdin().lock().take(MAX_INPUT).read_to_string(&mut text);
    read.map_err(|source| KeysError::Stream { what: "read a key from standard input", source })?;
    let key: PrivateKey = text.trim().parse()?;
    print(&key.public_key().to_string())
}

fn print_secret(key: &str) -> Result<(), KeysError> {
    let stdout = io::stdout();
    if !stdout.is_terminal() && everybody_may_read(&stdout) {
        eprintln!("laneway: the key is being written to a world-accessible file; use umask 077");
    }
    print(key)
}

fn print(key: &str) -> Result<(), KeysError> {
    let mut stdout = io::stdout().lock();
    let printed = writeln!(stdout, "{key}").and_then(|()| stdout.flush());
    printed.map_err(|source| KeysError::Stream { what: "print the key", source })
}

/// Returns whether `fd` is a regular file that users other than its owner and group may open.
fn everybody_may_read(fd: impl AsFd) -> bool {
    fstat(fd).is_ok_and(|file| {
        SFlag::from_bits_truncate(file.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG && file.st_mode & 0o007 != 0
    })
}
