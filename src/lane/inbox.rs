//! Inboxes: the bounded lock-free rings through which whole batches change hands.
//!
//! Two kinds share this type. A worker's *inbox* brings it work; a *return ring* brings emptied
//! slabs back to the pool they came from. What full means is for the producer to say, see
//! [`crate::lane`].

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use super::doorbell::{Awaited, Doorbell};

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

    /// Whether [`Pool::take`] would find nothing.
    pub fn is_empty(&self) -> bool {
        self.free.is_empty() && self.home.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn a_full_inbox_gives_the_batch_back() {
        let inbox = Inbox::new(1, Arc::new(Doorbell::new().unwrap()));
        assert!(inbox.push(Box::new(1)).is_ok());
        assert_eq!(*inbox.push(Box::new(2)).unwrap_err(), 2);
        assert_eq!(inbox.pop().as_deref(), Some(&1));
        assert!(inbox.is_empty());
    }

    #[test]
    fn a_pool_lends_what_it_has_and_gets_it_back() {
        let mut pool = Pool::new(2, Arc::new(Doorbell::new().unwrap()), || 0_u32);
        let (a, b) = (pool.take().unwrap(), pool.take().unwrap());
        assert!(pool.take().is_none() && pool.is_empty());
        pool.home().push(a).unwrap();
        assert!(!pool.is_empty());
        assert!(pool.take().is_some());
        pool.put_back(b);
        assert!(pool.take().is_some());
    }

    #[test]
    fn batches_arrive_whole_and_in_order_through_a_ring_of_one() {
        const BATCHES: u32 = 20_000;
        let bell = Arc::new(Doorbell::new().unwrap());
        let inbox = Arc::new(Inbox::new(1, Arc::clone(&bell)));
        let producer = thread::spawn({
            let inbox = Arc::clone(&inbox);
            move || {
                for n in 0..BATCHES {
                    let mut batch = Box::new(n);
                    while let Err(back) = inbox.push(batch) {
                        batch = back;
                        thread::yield_now();
                    }
                }
            }
        });
        for expected in 0..BATCHES {
            let batch = loop {
                if let Some(batch) = inbox.pop() {
                    break batch;
                }
                bell.arm(Awaited::WORK);
                if inbox.is_empty() {
                    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
                    use std::os::fd::AsFd;
                    let mut fds = [PollFd::new(bell.as_fd(), PollFlags::POLLIN)];
                    // A lost wake-up would hang here; a minute is far beyond any stall.
                    let ready = poll(&mut fds, PollTimeout::from(60_000_u16)).unwrap();
                    assert_eq!(ready, 1, "a wake-up was lost");
                    bell.disarm(true);
                } else {
                    bell.disarm(false);
                }
            };
            assert_eq!(*batch, expected);
        }
        producer.join().unwrap();
    }
}
