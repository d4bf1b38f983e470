//! The doorbell: wakes a thread, but only if it sleeps.
//!
//! A worker has one doorbell for all its rings. Before it sleeps, it *arms* the doorbell with what it
//! waits for, checks its rings once more, and then polls. A producer checks the doorbell after its
//! push. Both sides have a sequentially consistent fence between their write and their check, so at
//! least one of them sees the other: no wake-up is lost, and a busy consumer costs the producer a
//! fence and one relaxed load. `tests/model` verifies this, and that neither fence can be omitted.

use std::io;

use super::sync::{AtomicU8, Event, Ordering, fence};

/// What a sleeping worker waits for, as a bit set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Awaited(u8);

impl Awaited {
    /// Work: a batch in a ring or a message in a channel.
    pub const WORK: Awaited = Awaited(1);
    /// A batch on the return ring. Awaited only by a worker whose pool is empty; otherwise every
    /// returned batch would wake its owner for nothing.
    pub const BATCHES: Awaited = Awaited(2);
    /// Either of them.
    pub const ANY: Awaited = Awaited(3);
    /// A change of peers or allowed IPs, by which staged packets have to be routed again. Only a worker
    /// that has some waits for it.
    pub const ROUTES: Awaited = Awaited(4);

    /// Returns the union of both.
    #[must_use]
    pub const fn with(self, other: Awaited) -> Awaited {
        Awaited(self.0 | other.0)
    }
}

/// An eventfd that is written only while its owner sleeps.
#[derive(Debug)]
pub struct Doorbell {
    event: Event,
    awaited: AtomicU8,
}

impl Doorbell {
    /// Creates an unarmed doorbell.
    ///
    /// # Errors
    /// If the process is out of file descriptors.
    pub fn new() -> io::Result<Self> {
        Ok(Self { event: Event::new()?, awaited: AtomicU8::new(0) })
    }

    /// Wakes the owner if it sleeps and waits for `what`. Call this after the push.
    #[inline]
    pub fn ring(&self, what: Awaited) {
        fence(Ordering::SeqCst);
        if self.is_armed(what) {
            self.wake();
        }
    }

    /// Returns whether the owner sleeps, or is about to, and waits for `what`. The answer may be stale
    /// at once.
    #[inline]
    pub fn is_armed(&self, what: Awaited) -> bool {
        self.awaited.load(Ordering::Relaxed) & what.0 != 0
    }

    #[cold]
    fn wake(&self) {
        // Only the first of several producers makes the system call.
        if self.awaited.swap(0, Ordering::AcqRel) != 0 {
            self.event.signal();
        }
    }

    /// Announces that the owner is about to sleep until `what` arrives. The owner must check its rings
    /// after this call and before it polls.
    pub fn arm(&self, what: Awaited) {
        self.awaited.store(what.0, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The eventfd to poll while the doorbell is armed.
    pub fn event(&self) -> &Event {
        &self.event
    }

    /// Announces that the owner is awake. `rang` says whether poll found the eventfd readable; if so,
    /// this clears it.
    pub fn disarm(&self, rang: bool) {
        self.awaited.store(0, Ordering::Relaxed);
        if rang {
            self.event.clear();
        }
    }
}
