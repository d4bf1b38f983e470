//! The doorbell: how one worker wakes another, and only if that one sleeps.
//!
//! A worker has one doorbell for all its rings. Before it sleeps it *arms* the bell with what it
//! waits for, looks at its rings once more, and only then polls. Whoever pushes looks at the bell
//! after the push. Both sides put a sequentially consistent fence between their write and their
//! look, so at least one of them sees the other: no wake-up is lost, and a busy consumer costs the
//! producer one relaxed load. `tests/model` checks that, and that neither fence can be left out.

use std::io;

use super::sync::{AtomicU8, Event, Ordering, fence};

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
    event: Event,
    awaited: AtomicU8,
}

impl Doorbell {
    /// A doorbell that nobody waits at.
    ///
    /// # Errors
    /// The process is out of file descriptors.
    pub fn new() -> io::Result<Self> {
        Ok(Self { event: Event::new()?, awaited: AtomicU8::new(0) })
    }

    /// Wakes the owner if it sleeps and waits for `what`. Call it after the push.
    #[inline]
    pub fn ring(&self, what: Awaited) {
        fence(Ordering::SeqCst);
        if self.is_armed(what) {
            self.wake();
        }
    }

    /// Whether the owner sleeps, or is about to, and waits for `what`. It may wake at any time.
    #[inline]
    pub fn is_armed(&self, what: Awaited) -> bool {
        self.awaited.load(Ordering::Relaxed) & what.0 != 0
    }

    #[cold]
    fn wake(&self) {
        // Only the first of several producers pays for the system call.
        if self.awaited.swap(0, Ordering::AcqRel) != 0 {
            self.event.signal();
        }
    }

    /// The owner is about to sleep until `what` happens. It must look at its rings after this and
    /// before it polls.
    pub fn arm(&self, what: Awaited) {
        self.awaited.store(what.0, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// What the owner polls while the bell is armed.
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// The owner is awake again. `rang`: poll found the eventfd readable, so it is emptied.
    pub fn disarm(&self, rang: bool) {
        self.awaited.store(0, Ordering::Relaxed);
        if rang {
            self.event.clear();
        }
    }
}
