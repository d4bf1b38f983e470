//! The doorbell: how one worker wakes another, and only if that one sleeps.
//!
//! A worker has one doorbell for all its rings. Before it sleeps it *arms* the bell with what it
//! waits for, looks at its rings once more, and only then polls. Whoever pushes looks at the bell
//! after the push. Both sides put a sequentially consistent fence between their write and their
//! look, so at least one of them sees the other: no wake-up is lost, and a busy consumer costs the
//! producer one relaxed load.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU8, Ordering, fence};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// What a sleeping worker waits for, one bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Awaited(u8);

impl Awaited {
    /// Something in an inbox.
    pub const WORK: Awaited = Awaited(1);
    /// A slab that comes home. Only a worker that has none left waits for one; otherwise every
    /// batch written would wake its sender for nothing.
    pub const SLABS: Awaited = Awaited(2);
    /// Either of the two.
    pub const ANY: Awaited = Awaited(3);
}

/// An eventfd that is written only while its owner sleeps.
#[derive(Debug)]
pub struct Doorbell {
    event: EventFd,
    awaited: AtomicU8,
}

impl Doorbell {
    /// A doorbell that nobody waits at.
    ///
    /// # Errors
    /// The process is out of file descriptors.
    pub fn new() -> io::Result<Self> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { event, awaited: AtomicU8::new(0) })
    }

    /// Wakes the owner if it sleeps and waits for `what`. Call it after the push.
    #[inline]
    pub fn ring(&self, what: Awaited) {
        fence(Ordering::SeqCst);
        if self.awaited.load(Ordering::Relaxed) & what.0 != 0 {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        // Only the first of several producers pays for the system call.
        if self.awaited.swap(0, Ordering::AcqRel) != 0 {
            // It can only fail when 2^64 - 2 rings wait unread, and then the bell rings anyway.
            let _ = self.event.write(1);
        }
    }

    /// The owner is about to sleep until `what` happens. It must look at its rings after this and
    /// before it polls.
    pub fn arm(&self, what: Awaited) {
        self.awaited.store(what.0, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The owner is awake again. `rang`: poll found the eventfd readable, so it is emptied.
    pub fn disarm(&self, rang: bool) {
        self.awaited.store(0, Ordering::Relaxed);
        if rang {
            let _ = self.event.read();
        }
    }
}

impl AsFd for Doorbell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    fn rang(bell: &Doorbell) -> bool {
        let mut fds = [PollFd::new(bell.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
    }

    #[test]
    fn a_bell_nobody_waits_at_stays_silent() {
        let bell = Doorbell::new().unwrap();
        bell.ring(Awaited::WORK);
        assert!(!rang(&bell));
    }

    #[test]
    fn a_sleeper_is_woken_once_for_what_it_waits_for() {
        let bell = Doorbell::new().unwrap();
        bell.arm(Awaited::WORK);
        bell.ring(Awaited::SLABS);
        assert!(!rang(&bell), "slabs were not awaited");
        bell.ring(Awaited::WORK);
        bell.ring(Awaited::WORK);
        assert!(rang(&bell));
        bell.disarm(true);
        assert!(!rang(&bell), "one read empties the bell");
        bell.ring(Awaited::WORK);
        assert!(!rang(&bell), "the owner is awake");
    }
}
