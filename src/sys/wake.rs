//! Descriptors that an async runtime waits for.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers `fd` with the current runtime, to wait until it can be read.
///
/// # Errors
/// The descriptor cannot be waited for, or the runtime is out of descriptors.
///
/// # Panics
/// Outside an async runtime.
pub fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor must stay open, and must be the same one, for as long as it is
    // registered. An OwnedFd is never closed or exchanged before it is dropped, and it is moved into
    // what is returned, which undoes the registration first.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)
}
