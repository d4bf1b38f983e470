//! Pools: the batches of a worker, and the ring on which they are returned.

use super::doorbell::Doorbell;
use super::ring::Ring;
use super::sync::Arc;

/// The batches a worker owns. All are allocated at construction.
#[derive(Debug)]
pub struct Pool<T> {
    free: Vec<Box<T>>,
    returns: Arc<Ring<T>>,
}

impl<T> Pool<T> {
    /// Creates a pool of `size` batches for the owner of `bell`.
    pub fn new(size: usize, bell: Arc<Doorbell>, mut make: impl FnMut() -> T) -> Self {
        Self {
            free: (0..size).map(|_| Box::new(make())).collect(),
            returns: Arc::new(Ring::returning(size, bell)),
        }
    }

    /// Calls `adopt` with every batch and the return ring, before the first batch leaves the pool.
    #[must_use]
    pub fn adopting(mut self, mut adopt: impl FnMut(&mut T, &Arc<Ring<T>>)) -> Self {
        self.free.iter_mut().for_each(|batch| adopt(batch, &self.returns));
        self
    }

    /// The return ring, on which others return batches to this pool.
    pub fn returns(&self) -> &Arc<Ring<T>> {
        &self.returns
    }

    /// Takes a free batch, the most recently used first: its slab is the most likely to be cached.
    #[inline]
    pub fn take(&mut self) -> Option<Box<T>> {
        while let Some(batch) = self.returns.pop() {
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
        self.returns.depth()
    }

    /// Returns the number of free batches, without those on the return ring.
    pub fn kept(&self) -> usize {
        self.free.len()
    }

    /// Returns the number of free batches.
    pub fn available(&self) -> usize {
        self.free.len() + self.returns.len()
    }

    /// Returns whether all batches but one are free. If so, every batch handed over before that one
    /// has been processed.
    pub fn all_returned_but_one(&self) -> bool {
        self.available() + 1 == self.size()
    }

    /// Returns whether [`Pool::take`] would return `None`.
    pub fn is_empty(&self) -> bool {
        self.free.is_empty() && self.returns.is_empty()
    }
}
