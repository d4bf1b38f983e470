//! `laneway genkey`, `genpsk` and `pubkey`: what the commands of `wg` (wg(8)) of these names do.

use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::fd::AsFd;

use nix::sys::stat::{SFlag, fstat};
use zeroize::Zeroizing;

use crate::wireguard::keys::{KeyError, OsEntropy, PresharedKey, PrivateKey};

/// More than a key and the white space around it, in bytes.
const MAX_INPUT: u64 = 4096;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The system has no randomness.
    #[error("no random bytes to make a key of: {0}")]
    Entropy(#[from] getrandom::Error),
    /// Standard input or output failed.
    #[error("cannot {what}: {source}")]
    Stream {
        /// What was attempted.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Standard input has something else.
    #[error("standard input: {0}")]
    Key(#[from] KeyError),
}

/// Prints a new private key.
///
/// # Errors
/// No randomness, or nowhere to print to.
pub fn genkey() -> Result<(), KeysError> {
    print_secret(&PrivateKey::generate(&mut OsEntropy::new()?).to_base64())
}

/// Prints a new preshared key.
///
/// # Errors
/// No randomness, or nowhere to print to.
pub fn genpsk() -> Result<(), KeysError> {
    print_secret(&PresharedKey::generate(&mut OsEntropy::new()?).to_base64())
}

/// Reads a private key from standard input and prints the public key that belongs to it.
///
/// # Errors
/// There is no key, or nowhere to print to.
pub fn pubkey() -> Result<(), KeysError> {
    // The buffer never grows, so no copy of the key stays behind.
    let mut text = Zeroizing::new(String::with_capacity(MAX_INPUT as usize));
    let read = io::stdin().lock().take(MAX_INPUT).read_to_string(&mut text);
    read.map_err(|source| KeysError::Stream { what: "read a key from standard input", source })?;
    let key: PrivateKey = text.trim().parse()?;
    print(&key.public_key().to_string())
}

fn print_secret(key: &str) -> Result<(), KeysError> {
    let stdout = io::stdout();
    if !stdout.is_terminal() && everybody_may_read(&stdout) {
        eprintln!("laneway: everybody may read the file that the key goes to; umask 077 keeps others out");
    }
    print(key)
}

fn print(key: &str) -> Result<(), KeysError> {
    let mut stdout = io::stdout().lock();
    let printed = writeln!(stdout, "{key}").and_then(|()| stdout.flush());
    printed.map_err(|source| KeysError::Stream { what: "print the key", source })
}

/// Whether `fd` is a file that others than its owner and group may open.
fn everybody_may_read(fd: impl AsFd) -> bool {
    fstat(fd).is_ok_and(|file| {
        SFlag::from_bits_truncate(file.st_mode) & SFlag::S_IFMT == SFlag::S_IFREG && file.st_mode & 0o007 != 0
    })
}
