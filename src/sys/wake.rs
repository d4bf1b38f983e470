//! Waits for file descriptors in an async runtime.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers `fd` with the current runtime for read readiness.
///
/// # Errors
/// The descriptor cannot be polled, or the system's limits are exceeded.
///
/// # Panics
/// If called outside an async runtime.
pub fn readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor must stay open and unchanged while it is registered. An OwnedFd stays open
    // until it is dropped, and it is moved into the AsyncFd, which deregisters it before dropping it.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(io::Error::from)
}
