//! Orderly shutdown of the workers: stop reading, empty the rings.
//!
//! On shutdown, inside workers stop reading their TUN queues and outside workers stop receiving. A
//! worker closes once everything it had accepted is in a ring, and keeps emptying its own ring until
//! every worker that fills it has closed. What cannot leave within [`LIMIT`] is dropped and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::clock;

/// How long a worker keeps emptying its ring after a stop. A lane's rings normally empty in a few
/// milliseconds; a full socket buffer or a very busy machine takes longer.
pub const LIMIT: Duration = Duration::from_secs(1);

/// How long a worker pauses when it can only wait for others. It cannot sleep at its doorbell: the
/// shutdown signal ends every such sleep immediately.
pub(crate) const PAUSE: Duration = Duration::from_micros(200);

/// Which workers of one kind have closed, by lane.
#[derive(Debug)]
struct Closed(Box<[AtomicBool]>);

/// One worker's side of the shutdown protocol.
#[derive(Clone, Debug)]
pub struct Quiesce {
    lane: usize,
    own: Arc<Closed>,
    /// The workers that fill this one's ring.
    sources: Arc<Closed>,
}

/// The outcome of one attempt to empty the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// At least one batch was sent or written.
    Some,
    /// A batch waits but cannot be sent now.
    Blocked,
    /// The ring was empty.
    Nothing,
}

impl Quiesce {
    /// Creates the handles of each lane's (inside, outside) workers.
    pub fn of_lanes(lanes: usize) -> Vec<(Quiesce, Quiesce)> {
        let open = || Arc::new(Closed((0..lanes).map(|_| AtomicBool::new(false)).collect()));
        let (inside, outside) = (open(), open());
        let part = |lane, own: &Arc<Closed>, sources: &Arc<Closed>| Quiesce {
            lane,
            own: Arc::clone(own),
            sources: Arc::clone(sources),
        };
        (0..lanes).map(|lane| (part(lane, &inside, &outside), part(lane, &outside, &inside))).collect()
    }

    /// Declares that this worker accepts no more input and has handed on everything it had accepted.
    pub fn close(&self) {
        self.own.0[self.lane].store(true, Ordering::Release);
    }

    /// Calls `step` until it returns `None`, which means that nothing is left, or half of [`LIMIT`] has
    /// passed. Otherwise it returns whether it did anything; if not, this pauses before the next call.
    pub fn wait(&self, mut step: impl FnMut() -> Option<bool>) {
        let start = clock::now();
        while let Some(worked) = step() {
            if clock::now().since(start) > LIMIT / 2 {
                return;
            }
            if !worked {
                thread::sleep(PAUSE);
            }
        }
    }

    /// Calls `serve` until the ring is empty and all its sources have closed, or [`LIMIT`] has passed.
    pub fn finish(&self, mut serve: impl FnMut() -> Served) {
        let start = clock::now();
        loop {
            // Loaded before `serve`, which then sees everything pushed before the sources closed.
            let last = self.sources.0.iter().all(|closed| closed.load(Ordering::Acquire));
            match serve() {
                Served::Nothing if last => return,
                _ if clock::now().since(start) > LIMIT => return,
                Served::Some => {}
                Served::Blocked | Served::Nothing => thread::sleep(PAUSE),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn what_is_handed_on_before_the_end_is_served() {
        for _ in 0..50 {
            let (ring, served) = (Arc::new(AtomicU32::new(0)), AtomicU32::new(0));
            let mut lanes = Quiesce::of_lanes(3);
            let (first, _) = lanes.remove(0);
            let sources: Vec<_> = lanes.into_iter().map(|(_, outside)| outside).collect();
            // The source of lane 0 has closed already.
            first.sources.0[0].store(true, Ordering::Relaxed);
            thread::scope(|scope| {
                for source in &sources {
                    let ring = Arc::clone(&ring);
                    scope.spawn(move || {
                        for _ in 0..1000 {
                            ring.fetch_add(1, Ordering::Relaxed);
                        }
                        source.close();
                    });
                }
                first.finish(|| match ring.swap(0, Ordering::Relaxed) {
                    0 => Served::Nothing,
                    some => {
                        served.fetch_add(some, Ordering::Relaxed);
                        Served::Some
                    }
                });
            });
            assert_eq!(served.into_inner(), 2000);
        }
    }

    #[test]
    fn nobody_waits_for_ever() {
        let (inside, outside) = Quiesce::of_lanes(1).remove(0);
        inside.finish(|| Served::Nothing);
        inside.close();
        outside.finish(|| Served::Blocked);
        assert!(inside.own.0[0].load(Ordering::Relaxed) && !outside.own.0[0].load(Ordering::Relaxed));
    }
}
