//! The synchronization primitives of doorbells and rings, in one module so that they can be replaced.
//!
//! The model checker (`tests/model`) compiles `doorbell.rs`, `ring.rs` and `share/jobs.rs` a second time with its own
//! version of this module. Its atomics, fence, queue and event let it explore every order in which
//! threads can observe each other's writes, so it checks the same code that runs in production.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

pub use std::sync::Arc;
pub use std::sync::atomic::{AtomicU8, AtomicU64, Ordering, fence};

use crossbeam::atomic::AtomicCell;
pub use crossbeam::queue::ArrayQueue;
use nix::sys::eventfd::{EfdFlags, EventFd};

/// A place for one boxed value. For a box this is a single atomic word, so no operation takes a lock.
pub type Place<T> = AtomicCell<Option<T>>;

/// An eventfd that a sleeping thread polls.
#[derive(Debug)]
pub struct Event(EventFd);

impl Event {
    /// Creates an event that is not signaled.
    ///
    /// # Errors
    /// If the process is out of file descriptors.
    pub fn new() -> io::Result<Self> {
        Ok(Self(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?))
    }

    /// Makes the eventfd readable.
    pub fn signal(&self) {
        // Fails only at 2^64 - 2 unread signals, and then the eventfd is readable anyway.
        let _ = self.0.write(1);
    }

    /// Makes the eventfd unreadable, however often it was signaled.
    pub fn clear(&self) {
        let _ = self.0.read();
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
