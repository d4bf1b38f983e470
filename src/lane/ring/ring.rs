//! Bounded lock-free rings of batches between threads, and the pools that batches come from.
//!
//! Most rings bring work to a worker; a *return ring* brings emptied batches back to their pool. Each
//! producer decides what to do when a ring is full; see [`crate::lane`].

use super::doorbell::{Awaited, Doorbell};
use super::sync::{Arc, ArrayQueue};

/// A bounded ring of boxed batches. A push rings its consumer's doorbell.
#[derive(Debug)]
pub struct Ring<T> {
    batches: ArrayQueue<Box<T>>,
    bell: Arc<Doorbell>,
    brings: Awaited,
}

impl<T> Ring<T> {
    /// Creates a work ring of `depth` batches for the owner of `bell`.
    pub fn new(depth: usize, bell: Arc<Doorbell>) -> Self {
        Self { batches: ArrayQueue::new(depth), bell, brings: Awaited::WORK }
    }

    /// Creates a return ring of `depth` batches for the pool of the owner of `bell`.
    pub fn returning(depth: usize, bell: Arc<Doorbell>) -> Self {
        Self { batches: ArrayQueue::new(depth), bell, brings: Awaited::BATCHES }
    }

    /// Pushes a batch and wakes the consumer if it sleeps.
    ///
    /// # Errors
    /// Gives the batch back if the ring is full.
    #[inline]
    pub fn push(&self, batch: Box<T>) -> Result<(), Box<T>> {
        self.batches.push(batch)?;
        self.bell.ring(self.brings);
        Ok(())
    }

    /// Removes and returns the oldest batch.
    #[inline]
    pub fn pop(&self) -> Option<Box<T>> {
        self.batches.pop()
    }

    /// Returns whether a push would have to wake the consumer now.
    #[inline]
    pub fn would_wake(&self) -> bool {
        self.bell.is_armed(self.brings)
    }

    /// The capacity in batches.
    pub fn depth(&self) -> usize {
        self.batches.capacity()
    }

    /// Returns the number of waiting batches.
    pub fn len(&self) -> usize {
        self.batches.len()
    }

    /// Returns whether no batch waits.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Returns whether a push would fail now.
    pub fn is_full(&self) -> bool {
        self.batches.is_full()
    }
}
