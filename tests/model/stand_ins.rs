//! Stand-ins for the ring, the eventfd and the fence, over the model checker's atomics.

// The real `Event::new` can fail, so this one returns a result too.
#![allow(unreachable_pub, clippy::unnecessary_wraps)]

use std::cell::Cell;
use std::fmt;
use std::io;

use loom::sync::atomic::{self, AtomicUsize, Ordering};
use loom::sync::{Condvar, Mutex};
use loom::thread::{self, JoinHandle};

/// A side of a doorbell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Pushes and rings.
    Producer,
    /// Arms and sleeps.
    Consumer,
}

const PRODUCER: &str = "producer";

thread_local! {
    // All threads of a model are coroutines of the test's thread, so they share this.
    static LEFT_OUT: Cell<Option<Side>> = const { Cell::new(None) };
}

/// Leaves out a fence of the doorbell for the rest of this test.
pub fn leave_out_fence_of(side: Side) {
    LEFT_OUT.set(Some(side));
}

/// Spawns a model thread whose fences count as a producer's.
pub fn spawn_producer<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    thread::Builder::new().name(PRODUCER.into()).spawn(work).expect("a model's thread")
}

/// Executes the fence, unless the test leaves it out.
pub fn fence(order: Ordering) {
    let side = if thread::current().name() == Some(PRODUCER) { Side::Producer } else { Side::Consumer };
    if LEFT_OUT.get() != Some(side) {
        atomic::fence(order);
    }
}

/// The state of a doorbell. loom orders two writes to one location only if one thread knows of the other's write,
/// and does not model that nothing comes between a swap's read and write. A producer's swap that read the value
/// before a store could then undo that store. A store that is itself a swap has a place in the order of writes. It
/// is relaxed, so it orders nothing else.
#[derive(Debug)]
pub struct AtomicU8(atomic::AtomicU8);

impl AtomicU8 {
    pub fn new(value: u8) -> Self {
        Self(atomic::AtomicU8::new(value))
    }

    pub fn load(&self, order: Ordering) -> u8 {
        self.0.load(order)
    }

    pub fn store(&self, value: u8, order: Ordering) {
        self.0.swap(value, order);
    }

    pub fn swap(&self, value: u8, order: Ordering) -> u8 {
        self.0.swap(value, order)
    }
}

/// An eventfd: stays signalled until it is cleared.
#[derive(Debug)]
pub struct Event {
    signalled: Mutex<bool>,
    changed: Condvar,
}

impl Event {
    pub fn new() -> io::Result<Self> {
        Ok(Self { signalled: Mutex::new(false), changed: Condvar::new() })
    }

    pub fn signal(&self) {
        *self.signalled.lock().unwrap() = true;
        self.changed.notify_one();
    }

    pub fn clear(&self) {
        *self.signalled.lock().unwrap() = false;
    }

    pub fn is_signalled(&self) -> bool {
        *self.signalled.lock().unwrap()
    }

    /// Waits without a timeout.
    pub fn wait(&self) {
        let mut signalled = self.signalled.lock().unwrap();
        while !*signalled {
            signalled = self.changed.wait(signalled).unwrap();
        }
    }
}

/// A bounded ring with a turn counter per slot, like crossbeam's (after D. Vyukov's bounded queue). The lock
/// around a value is never contended: only the thread whose turn it is accesses the slot. It therefore adds no
/// ordering beyond that of the turns, and a ring that looks empty or full takes no lock at all: otherwise it would
/// hide a missing fence.
pub struct ArrayQueue<T> {
    head: AtomicUsize,
    tail: AtomicUsize,
    slots: Box<[Slot<T>]>,
}

/// `turn` is even while the slot waits for a push and odd while it holds a value, and grows by two each lap.
struct Slot<T> {
    turn: AtomicUsize,
    value: Mutex<Option<T>>,
}

impl<T> ArrayQueue<T> {
    pub fn new(capacity: usize) -> Self {
        let slot = |_| Slot { turn: AtomicUsize::new(0), value: Mutex::new(None) };
        Self {
            head: AtomicUsize::new(0),
            tail: AtomicUsize::new(0),
            slots: (0..capacity).map(slot).collect(),
        }
    }

    pub fn push(&self, value: T) -> Result<(), T> {
        loop {
            let tail = self.tail.load(Ordering::Relaxed);
            let (slot, waiting) = self.place(tail);
            let turn = slot.turn.load(Ordering::Acquire);
            if turn == waiting {
                if claim(&self.tail, tail) {
                    let before = slot.value.try_lock().expect("the pusher is alone").replace(value);
                    assert!(before.is_none(), "a slot was filled twice");
                    slot.turn.store(waiting + 1, Ordering::Release);
                    return Ok(());
                }
            } else if turn + 1 == waiting {
                atomic::fence(Ordering::SeqCst);
                if self.head.load(Ordering::Relaxed) + self.capacity() == tail {
                    return Err(value);
                }
            }
            thread::yield_now();
        }
    }

    pub fn pop(&self) -> Option<T> {
        loop {
            let head = self.head.load(Ordering::Relaxed);
            let (slot, waiting) = self.place(head);
            let turn = slot.turn.load(Ordering::Acquire);
            if turn == waiting + 1 {
                if claim(&self.head, head) {
                    let value = slot.value.try_lock().expect("the popper is alone").take();
                    slot.turn.store(waiting + 2, Ordering::Release);
                    return Some(value.expect("a slot whose turn it is holds a value"));
                }
            } else if turn == waiting {
                atomic::fence(Ordering::SeqCst);
                if self.tail.load(Ordering::Relaxed) == head {
                    return None;
                }
            }
            thread::yield_now();
        }
    }

    pub fn len(&self) -> usize {
        self.tail.load(Ordering::SeqCst).saturating_sub(self.head.load(Ordering::SeqCst))
    }

    pub fn is_empty(&self) -> bool {
        let head = self.head.load(Ordering::SeqCst);
        self.tail.load(Ordering::SeqCst) == head
    }

    pub fn is_full(&self) -> bool {
        let tail = self.tail.load(Ordering::SeqCst);
        self.head.load(Ordering::SeqCst) + self.capacity() == tail
    }

    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Returns the slot of a position, and its turn when it waits for the push at that position.
    fn place(&self, position: usize) -> (&Slot<T>, usize) {
        (&self.slots[position % self.capacity()], 2 * (position / self.capacity()))
    }
}

/// A place for one value. The lock orders what the swap of the real one orders: each operation after the
/// one before it.
pub struct Place<T>(Mutex<Option<T>>);

impl<T> Place<T> {
    pub fn new(value: Option<T>) -> Self {
        Self(Mutex::new(value))
    }

    pub fn store(&self, value: Option<T>) {
        *self.0.lock().unwrap() = value;
    }

    pub fn take(&self) -> Option<T> {
        self.0.lock().unwrap().take()
    }
}

/// Advances an end of the ring by one, unless another thread did.
fn claim(end: &AtomicUsize, at: usize) -> bool {
    end.compare_exchange(at, at + 1, Ordering::SeqCst, Ordering::Relaxed).is_ok()
}

impl<T> fmt::Debug for ArrayQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArrayQueue").finish_non_exhaustive()
    }
}
