//! Pauses all workers of a router, so that another process can continue from here: each stops reading, finishes what it
//! has read, and waits.
//!
//! Like an orderly shutdown ([`quiesce`](super::quiesce)), but nothing is dropped, and the workers can go on. Packets
//! wait in the kernel's queues meanwhile: those of the TUN queues and of the sockets.
//!
//! A worker *closes* once everything that it had read is in a ring. It is *quiet* once its own ring is empty too and
//! every worker that fills it has closed. Outside workers still carry out commands, which the peer actor gives until it
//! is frozen itself; hence rounds: a worker that is quiet in a round has done all that it was told before the round
//! began.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::lane::ring::doorbell::{Awaited, Doorbell};
use crate::lane::staging::StagedPacket;

/// How long a paused worker sleeps between two looks. It has nothing to wait for at its doorbell.
pub(crate) const LOOK: Duration = Duration::from_micros(50);

/// How often [`Pause::settle`] wakes workers that sleep, in looks: one may have gone to sleep after the last time.
const RING_EVERY: u32 = 20;

/// No pause is in force.
const NONE: u32 = 0;

/// Pauses the workers of one router.
#[derive(Debug)]
pub struct Pause {
    /// The round in force, or [`NONE`].
    round: AtomicU32,
    /// The first round of the pause in force.
    first: AtomicU32,
    inside: Box<[Member]>,
    outside: Box<[Member]>,
}

/// One worker, as seen by the others.
#[derive(Debug)]
struct Member {
    bell: Arc<Doorbell>,
    /// The first round of the last pause in which the worker has closed.
    closed: AtomicU32,
    /// The last round in which the worker was quiet.
    quiet: AtomicU32,
    staged: Mutex<Vec<StagedPacket>>,
}

/// One worker's side of a [`Pause`].
#[derive(Clone, Debug)]
pub struct Paused {
    pause: Arc<Pause>,
    lane: usize,
    is_inside: bool,
}

/// What one look of a paused worker has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Whether the worker did anything.
    pub worked: bool,
    /// Whether everything that the worker had read is in a ring.
    pub closed: bool,
    /// Whether the worker's ring is empty and nothing waits to leave.
    pub empty: bool,
}

impl Pause {
    /// Creates the pause of the workers with these doorbells, by lane: inside and outside.
    pub fn new(bells: impl IntoIterator<Item = (Arc<Doorbell>, Arc<Doorbell>)>) -> Arc<Self> {
        let member = |bell| Member {
            bell,
            closed: AtomicU32::new(NONE),
            quiet: AtomicU32::new(NONE),
            staged: Mutex::default(),
        };
        let (inside, outside): (Vec<_>, Vec<_>) =
            bells.into_iter().map(|(inside, outside)| (member(inside), member(outside))).unzip();
        Arc::new(Pause {
            round: AtomicU32::new(NONE),
            first: AtomicU32::new(NONE),
            inside: inside.into(),
            outside: outside.into(),
        })
    }

    /// Returns the sides of `lane`'s workers: inside and outside.
    pub fn of_lane(self: &Arc<Self>, lane: usize) -> (Paused, Paused) {
        let side = |is_inside| Paused { pause: Arc::clone(self), lane, is_inside };
        (side(true), side(false))
    }

    /// Begins a pause, or its next round, and waits until all workers are quiet in it. Calls `goes_on` at each look, and
    /// gives up if it returns false. Returns whether all are quiet; if not, the caller [ends](Self::end) the pause.
    pub fn settle(&self, last_round: &mut u32, mut goes_on: impl FnMut() -> bool) -> bool {
        let begins = self.round.load(Ordering::Acquire) == NONE;
        // Numbers are never used twice, so what workers have noted in an earlier pause says nothing.
        *last_round += 1;
        if begins {
            self.first.store(*last_round, Ordering::Release);
        }
        self.round.store(*last_round, Ordering::Release);
        for look in 0_u32.. {
            if self.all().all(|member| member.quiet.load(Ordering::Acquire) == *last_round) {
                return true;
            }
            if !goes_on() {
                return false;
            }
            if look.is_multiple_of(RING_EVERY) {
                self.all().for_each(|member| member.bell.ring(Awaited::ANY));
            }
            thread::sleep(LOOK);
        }
        false
    }

    /// Ends the pause: the workers go on.
    pub fn end(&self) {
        self.round.store(NONE, Ordering::Release);
    }

    /// Removes and returns the staged packets of quiet workers, by lane.
    pub fn take_staged(&self) -> Vec<Vec<StagedPacket>> {
        let take = |member: &Member| {
            std::mem::take(&mut *member.staged.lock().unwrap_or_else(PoisonError::into_inner))
        };
        self.inside.iter().map(take).collect()
    }

    fn all(&self) -> impl Iterator<Item = &Member> {
        self.inside.iter().chain(&self.outside)
    }
}

impl Paused {
    /// Returns whether the worker is to pause.
    #[inline]
    pub fn is_wanted(&self) -> bool {
        self.pause.round.load(Ordering::Relaxed) != NONE
    }

    /// Calls `look`, which finishes what has been read, until the pause ends or `look` returns `None`. The worker must
    /// not read meanwhile. `copy_staged` returns copies of what is staged; it is called when the worker is first quiet.
    pub fn hold(&self, mut look: impl FnMut() -> Option<Look>, copy_staged: impl Fn() -> Vec<StagedPacket>) {
        let Pause { round, first, inside, outside } = &*self.pause;
        let (own, sources) = if self.is_inside { (inside, outside) } else { (outside, inside) };
        let own = &own[self.lane];
        let mut deposited = NONE;
        loop {
            // Loaded before the look, which then sees everything pushed and ordered before.
            let round = round.load(Ordering::Acquire);
            let first = first.load(Ordering::Acquire);
            if round == NONE {
                return;
            }
            let last = sources.iter().all(|source| source.closed.load(Ordering::Acquire) == first);
            let Some(Look { worked, closed, empty }) = look() else { return };
            if closed {
                own.closed.store(first, Ordering::Release);
            }
            if closed && empty && last && !worked {
                if deposited != first {
                    deposited = first;
                    *own.staged.lock().unwrap_or_else(PoisonError::into_inner) = copy_staged();
                }
                own.quiet.store(round, Ordering::Release);
            }
            if !worked {
                thread::sleep(LOOK);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use crossbeam::queue::SegQueue;

    use super::*;

    #[test]
    fn what_was_read_before_a_pause_is_served_in_it_and_nothing_is_read() {
        const LANES: usize = 3;
        let bell = || Arc::new(Doorbell::new().unwrap());
        let pause = Pause::new((0..LANES).map(|_| (bell(), bell())));
        // Each worker reads numbers, keeps the last in hand, and passes it to a worker of the other kind.
        let rings: [Vec<SegQueue<u32>>; 2] = [0, 1].map(|_| (0..LANES).map(|_| SegQueue::new()).collect());
        let (read, served) = (AtomicU32::new(0), AtomicU32::new(0));
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            for lane in 0..LANES {
                let (inside, outside) = pause.of_lane(lane);
                for (kind, paused) in [inside, outside].into_iter().enumerate() {
                    let (rings, read, served, over) = (&rings, &read, &served, &over);
                    scope.spawn(move || {
                        let serve = || match rings[kind][lane].pop() {
                            Some(_) => served.fetch_add(1, Ordering::SeqCst) < u32::MAX,
                            None => false,
                        };
                        let mut next = lane;
                        while !over.load(Ordering::Relaxed) {
                            let mut in_hand = Some(read.fetch_add(1, Ordering::SeqCst));
                            if paused.is_wanted() {
                                paused.hold(
                                    || {
                                        let passed =
                                            in_hand.take().map(|number| rings[1 - kind][next].push(number));
                                        Some(Look {
                                            worked: serve() || passed.is_some(),
                                            closed: in_hand.is_none(),
                                            empty: rings[kind][lane].is_empty(),
                                        })
                                    },
                                    Vec::new,
                                );
                                continue;
                            }
                            rings[1 - kind][next].push(in_hand.take().unwrap());
                            next = (next + 1) % LANES;
                            serve();
                        }
                    });
                }
            }
            let mut round = 0;
            for _ in 0..50 {
                thread::sleep(Duration::from_micros(500));
                for _ in 0..2 {
                    assert!(pause.settle(&mut round, || true));
                    let [read, served] = [&read, &served].map(|count| count.load(Ordering::SeqCst));
                    assert_eq!(read, served);
                }
                pause.end();
            }
            over.store(true, Ordering::Relaxed);
        });
    }

    #[test]
    fn a_worker_that_does_not_become_quiet_is_not_waited_for_ever() {
        let pause = Pause::new([(Arc::new(Doorbell::new().unwrap()), Arc::new(Doorbell::new().unwrap()))]);
        let mut looks = 0;
        assert!(!pause.settle(&mut 0, || {
            looks += 1;
            looks < 10
        }));
        assert!(pause.of_lane(0).0.is_wanted());
        pause.end();
        assert!(!pause.of_lane(0).0.is_wanted());
    }
}
