//! Bounded lock-free rings of batches between threads, and the pools that batches come from.
//!
//! Most rings bring work to a worker; a *return ring* brings emptied batches back to their pool. Each
//! producer decides what to do when a ring is full; see [`crate::lane`].

use super::doorbell::{Awaited, Doorbell};
use super::sync::{Arc, ArrayQueue};

/// A bounded ring of boxed batches. A push rings its consumer's doorbell.
#[derive(Debug)]
pub struct Inbox<T> {
    ring: ArrayQueue<Box<T>>,
    bell: Arc<Doorbell>,
    brings: Awaited,
}

impl<T> Inbox<T> {
    /// Creates a work ring of `depth` batches for the owner of `bell`.
    pub fn new(depth: usize, bell: Arc<Doorbell>) -> Self {
        Self { ring: ArrayQueue::new(depth), bell, brings: Awaited::WORK }
    }

    /// Creates a return ring of `depth` batches for the pool of the owner of `bell`.
    pub fn returning(depth: usize, bell: Arc<Doorbell>) -> Self {
        Self { ring: ArrayQueue::new(depth), bell, brings: Awaited::SLABS }
    }

    /// Pushes a batch and wakes the consumer if it sleeps.
    ///
    /// # Errors
    /// Gives the batch back if the ring is full.
    #[inline]
    pub fn push(&self, batch: Box<T>) -> Result<(), Box<T>> {
        self.ring.push(batch)?;
        self.bell.ring(self.brings);
        Ok(())
    }

    /// Removes and returns the oldest batch.
    #[inline]
    pub fn pop(&self) -> Option<Box<T>> {
        self.ring.pop()
    }

    /// Returns whether a push would have to wake the consumer now.
    #[inline]
    pub fn would_wake(&self) -> bool {
        self.bell.is_armed(self.brings)
    }

    /// The capacity in batches.
    pub fn depth(&self) -> usize {
        self.ring.capacity()
    }

    /// Returns the number of waiting batches.
    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// Returns whether no batch waits.
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// Returns whether a push would fail now.
    pub fn is_full(&self) -> bool {
        self.ring.is_full()
    }
}

/// The batches a worker owns. All are allocated at construction.
#[derive(Debug)]
pub struct Pool<T> {
    free: Vec<Box<T>>,
    home: Arc<Inbox<T>>,
}

impl<T> Pool<T> {
    /// Creates a pool of `size` batches for the owner of `bell`.
    pub fn new(size: usize, bell: Arc<Doorbell>, mut make: impl FnMut() -> T) -> Self {
        Self {
            free: (0..size).map(|_| Box::new(make())).collect(),
            home: Arc::new(Inbox::returning(size, bell)),
        }
    }

    /// The return ring, on which others return batches to this pool.
    pub fn home(&self) -> &Arc<Inbox<T>> {
        &self.home
    }

    /// Takes a free batch, the most recently used first: its slab is the most likely to be cached.
    #[inline]
    pub fn take(&mut self) -> Option<Box<T>> {
        while let Some(batch) = self.home.pop() {
            self.free.push(batch);
        }
        self.free.pop()
    }

    /// Puts back a batch that was not handed over.
    #[inline]
    pub fn put_back(&mut self, batch: Box<T>) {
        self.free.push(batch);
    }

    /// The number of batches the pool owns, free or not.
    pub fn size(&self) -> usize {
        self.home.ring.capacity()
    }

    /// Returns the number of free batches.
    pub fn available(&self) -> usize {
        self.free.len() + self.home.len()
    }

    /// Returns whether all batches but one are free. If so, every batch handed over before that one
    /// has been processed.
    pub fn is_home_but_one(&self) -> bool {
        self.available() + 1 == self.size()
    }

    /// Returns whether [`Pool::take`] would return `None`.
    pub fn is_empty(&self) -> bool {
        self.free.is_empty() && self.home.is_empty()
    }
}
