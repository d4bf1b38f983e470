//! What doorbells and inboxes are built on, in one place so that it can be exchanged.
//!
//! The model checker (`tests/model`) compiles `doorbell.rs` and `inbox.rs` a second time over a
//! stand-in for this module, whose atomics, fence, ring and event show it every order in which two
//! threads can see each other's writes. So what is checked is the code that runs.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

pub use std::sync::Arc;
pub use std::sync::atomic::{AtomicU8, Ordering, fence};

pub use crossbeam::queue::ArrayQueue;
use nix::sys::eventfd::{EfdFlags, EventFd};

/// What a sleeper polls: an eventfd.
#[derive(Debug)]
pub struct Event(EventFd);

impl Event {
    /// An event that has not happened.
    ///
    /// # Errors
    /// The process is out of file descriptors.
    pub fn new() -> io::Result<Self> {
        Ok(Self(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?))
    }

    /// Makes it readable.
    pub fn signal(&self) {
        // It can only fail when 2^64 - 2 signals wait unread, and then it is readable anyway.
        let _ = self.0.write(1);
    }

    /// Makes it unreadable, however often it was signalled.
    pub fn clear(&self) {
        let _ = self.0.read();
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
