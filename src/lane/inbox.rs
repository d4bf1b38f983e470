//! Inboxes: the bounded lock-free rings through which whole batches change hands.
//!
//! Two kinds share this type. A worker's *inbox* brings it work; a *return ring* brings emptied
//! slabs back to the pool they came from. What full means is for the producer to say, see
//! [`crate::lane`].

use super::doorbell::{Awaited, Doorbell};
use super::sync::{Arc, ArrayQueue};

/// A bounded ring of boxed batches whose consumer sleeps at a doorbell.
#[derive(Debug)]
pub struct Inbox<T> {
    ring: ArrayQueue<Box<T>>,
    bell: Arc<Doorbell>,
    brings: Awaited,
}

impl<T> Inbox<T> {
    /// An inbox of `depth` batches for the owner of `bell`.
    pub fn new(depth: usize, bell: Arc<Doorbell>) -> Self {
        Self { ring: ArrayQueue::new(depth), bell, brings: Awaited::WORK }
    }

    /// A ring on which `depth` batches find back to the pool of the owner of `bell`.
    pub fn returning(depth: usize, bell: Arc<Doorbell>) -> Self {
        Self { ring: ArrayQueue::new(depth), bell, brings: Awaited::SLABS }
    }

    /// Puts a batch in and wakes the consumer if it sleeps.
    ///
    /// # Errors
    /// The ring is full: the batch comes back.
    #[inline]
    pub fn push(&self, batch: Box<T>) -> Result<(), Box<T>> {
        self.ring.push(batch)?;
        self.bell.ring(self.brings);
        Ok(())
    }

    /// The oldest batch.
    #[inline]
    pub fn pop(&self) -> Option<Box<T>> {
        self.ring.pop()
    }

    /// Whether a push now would have to wake the consumer.
    #[inline]
    pub fn would_wake(&self) -> bool {
        self.bell.is_armed(self.brings)
    }

    /// How many batches there is room for.
    pub fn depth(&self) -> usize {
        self.ring.capacity()
    }

    /// How many batches wait.
    pub fn len(&self) -> usize {
        self.ring.len()
    }

    /// Whether no batch waits.
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// Whether a push would fail now.
    pub fn is_full(&self) -> bool {
        self.ring.is_full()
    }
}

/// The batches a worker owns. They are made at the start; none is made later.
#[derive(Debug)]
pub struct Pool<T> {
    free: Vec<Box<T>>,
    home: Arc<Inbox<T>>,
}

impl<T> Pool<T> {
    /// A pool of `size` batches for the worker at `bell`.
    pub fn new(size: usize, bell: Arc<Doorbell>, mut make: impl FnMut() -> T) -> Self {
        Self {
            free: (0..size).map(|_| Box::new(make())).collect(),
            home: Arc::new(Inbox::returning(size, bell)),
        }
    }

    /// Where whoever is done with a batch puts it.
    pub fn home(&self) -> &Arc<Inbox<T>> {
        &self.home
    }

    /// A free batch, the most recently used first: its slab is the likeliest to be in the cache.
    #[inline]
    pub fn take(&mut self) -> Option<Box<T>> {
        while let Some(batch) = self.home.pop() {
            self.free.push(batch);
        }
        self.free.pop()
    }

    /// Puts back a batch that went nowhere.
    #[inline]
    pub fn put_back(&mut self, batch: Box<T>) {
        self.free.push(batch);
    }

    /// How many batches it has, free or not.
    pub fn size(&self) -> usize {
        self.home.ring.capacity()
    }

    /// How many batches are free.
    pub fn available(&self) -> usize {
        self.free.len() + self.home.len()
    }

    /// Whether all batches but one are at home: whatever was handed over before that one has been dealt
    /// with.
    pub fn is_home_but_one(&self) -> bool {
        self.available() + 1 == self.size()
    }

    /// Whether [`Pool::take`] would find nothing.
    pub fn is_empty(&self) -> bool {
        self.free.is_empty() && self.home.is_empty()
    }
}
