//! What stands in for the ring, the eventfd and the fence, over the model checker's atomics.

// `Event::new` cannot fail here, but what it stands in for can.
#![allow(unreachable_pub, clippy::unnecessary_wraps)]

use std::cell::Cell;
use std::fmt;
use std::io;

use loom::sync::atomic::{self, AtomicUsize, Ordering};
use loom::sync::{Condvar, Mutex};
use loom::thread::{self, JoinHandle};

/// Who stands at a doorbell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Pushes and rings.
    Producer,
    /// Arms and sleeps.
    Consumer,
}

const PRODUCER: &str = "producer";

thread_local! {
    // All threads of a model are coroutines of the test's own thread, so they share this.
    static LEFT_OUT: Cell<Option<Side>> = const { Cell::new(None) };
}

/// Breaks the doorbell for the rest of this test.
pub fn leave_out_fence_of(side: Side) {
    LEFT_OUT.set(Some(side));
}

/// A model's thread whose fences are a producer's.
pub fn spawn_producer<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    thread::Builder::new().name(PRODUCER.into()).spawn(work).expect("a model's thread")
}

/// The fence, unless the test leaves it out.
pub fn fence(order: Ordering) {
    let side = if thread::current().name() == Some(PRODUCER) { Side::Producer } else { Side::Consumer };
    if LEFT_OUT.get() != Some(side) {
        atomic::fence(order);
    }
}

/// What a doorbell's owner waits for. The checker orders two writes to one place only if one thread
/// knows of the other's, and forgets that nothing comes between what a swap reads and what it writes;
/// so it would let a producer's swap, which read the value from before a store, undo that store. A store
/// that is a swap itself has its one place among the writes. It orders nothing else: it is relaxed.
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

/// An eventfd: signals until it is cleared.
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

    /// Polls without a time limit.
    pub fn wait(&self) {
        let mut signalled = self.signalled.lock().unwrap();
        while !*signalled {
            signalled = self.changed.wait(signalled).unwrap();
        }
    }
}

/// A bounded ring with a turn a slot, as crossbeam's is one (after D. Vyukov's bounded queue).
/// The lock around a value is never waited for: whose turn it is, is alone at the slot. So it orders
/// nothing that the turns do not order, and a ring that looks empty or full takes no lock at all:
/// were it to, it would hide a missing fence.
pub struct ArrayQueue<T> {
    head: AtomicUsize,
    tail: AtomicUsize,
    slots: Box<[Slot<T>]>,
}

/// `turn` is even while it waits for a push and odd while it holds one, and grows by two each lap.
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

    /// The slot of a position, and its turn when it waits for that position's push.
    fn place(&self, position: usize) -> (&Slot<T>, usize) {
        (&self.slots[position % self.capacity()], 2 * (position / self.capacity()))
    }
}

/// Moves an end of the ring one on, unless somebody else did.
fn claim(end: &AtomicUsize, at: usize) -> bool {
    end.compare_exchange(at, at + 1, Ordering::SeqCst, Ordering::Relaxed).is_ok()
}

impl<T> fmt::Debug for ArrayQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArrayQueue").finish_non_exhaustive()
    }
}
