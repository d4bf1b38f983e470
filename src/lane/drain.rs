//! How workers stop: what was taken goes out first.
//!
//! Told to stop, an inside worker reads no more from its TUN queue and an outside worker receives no
//! more. Each says so when everything it had in hand is in an inbox, and goes on emptying its own inbox
//! until all who could fill it have said so. What cannot leave within [`LIMIT`] is dropped and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::sys::clock;

/// How long a worker goes on after it was told to stop: what the inboxes of a lane hold is written in a
/// few milliseconds, unless a socket's buffer is full or the machine is very busy.
pub const LIMIT: Duration = Duration::from_secs(1);

/// How long a worker pauses when it can do nothing but wait for others. Its doorbell is of no use now:
/// the signal to stop ends every sleep at once.
pub(super) const PAUSE: Duration = Duration::from_micros(200);

/// Which of the workers of one kind take in nothing any more, lane by lane.
#[derive(Debug)]
struct Closed(Box<[AtomicBool]>);

/// One worker's part in stopping.
#[derive(Clone, Debug)]
pub struct Drain {
    lane: usize,
    own: Arc<Closed>,
    /// The workers that fill this one's inbox.
    sources: Arc<Closed>,
}

/// What a look at the inbox has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// Something went out.
    Some,
    /// Something waits and cannot go out now.
    Blocked,
    /// There was nothing.
    Nothing,
}

impl Drain {
    /// The parts of the inside and of the outside worker of each lane.
    pub fn of_lanes(lanes: usize) -> Vec<(Drain, Drain)> {
        let open = || Arc::new(Closed((0..lanes).map(|_| AtomicBool::new(false)).collect()));
        let (inside, outside) = (open(), open());
        let part = |lane, own: &Arc<Closed>, sources: &Arc<Closed>| Drain {
            lane,
            own: Arc::clone(own),
            sources: Arc::clone(sources),
        };
        (0..lanes).map(|lane| (part(lane, &inside, &outside), part(lane, &outside, &inside))).collect()
    }

    /// This worker takes in nothing any more, and has handed on all that it took.
    pub fn close(&self) {
        self.own.0[self.lane].store(true, Ordering::Release);
    }

    /// Lets `serve` empty the inbox until nothing comes any more, or time is up.
    pub fn finish(&self, mut serve: impl FnMut() -> Served) {
        let start = clock::now();
        loop {
            // Asked before the look: what was handed on before is then found by it.
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
            let (inbox, served) = (Arc::new(AtomicU32::new(0)), AtomicU32::new(0));
            let mut lanes = Drain::of_lanes(3);
            let (first, _) = lanes.remove(0);
            let sources: Vec<_> = lanes.into_iter().map(|(_, outside)| outside).collect();
            // The third lane's source, which is gone already.
            first.sources.0[0].store(true, Ordering::Relaxed);
            thread::scope(|scope| {
                for source in &sources {
                    let inbox = Arc::clone(&inbox);
                    scope.spawn(move || {
                        for _ in 0..1000 {
                            inbox.fetch_add(1, Ordering::Relaxed);
                        }
                        source.close();
                    });
                }
                first.finish(|| match inbox.swap(0, Ordering::Relaxed) {
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
        let (inside, outside) = Drain::of_lanes(1).remove(0);
        inside.finish(|| Served::Nothing);
        inside.close();
        outside.finish(|| Served::Blocked);
        assert!(inside.own.0[0].load(Ordering::Relaxed) && !outside.own.0[0].load(Ordering::Relaxed));
    }
}
