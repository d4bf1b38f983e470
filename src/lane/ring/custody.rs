//! Conservation of batches: whether all batches of each pool are in it, on their way, or held by a worker.
//!
//! A lane whose batches get lost still passes packets, without shortcuts and with less room, and stops when none is
//! left. Whoever watches the router is told earlier ([`Custody::missing`]).
//!
//! While a worker works, batches are in its local variables, so it declares what it holds before it sleeps
//! ([`Holdings::rest`]), and batches are counted only while all workers concerned are asleep.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError};

use super::Ring;
use super::batch::{InboundBatch, OutboundBatch};

/// The batches that a worker holds while it sleeps.
#[derive(Debug, Default)]
pub struct Holdings {
    /// Times the worker fell asleep or woke up: odd while it sleeps.
    naps: AtomicU64,
    inbound: AtomicUsize,
    outbound: AtomicUsize,
}

impl Holdings {
    /// Declares that the worker is about to sleep and holds these numbers of batches, those in its pool included.
    pub fn rest(&self, inbound: usize, outbound: usize) {
        self.inbound.store(inbound, Ordering::Relaxed);
        self.outbound.store(outbound, Ordering::Relaxed);
        let naps = self.naps.load(Ordering::Relaxed);
        self.naps.store(naps + 1 + naps % 2, Ordering::Release);
    }

    /// Declares that the worker is awake.
    pub fn rise(&self) {
        let naps = self.naps.load(Ordering::Relaxed);
        self.naps.store(naps + naps % 2, Ordering::Relaxed);
        // Whoever sees the worker take a batch, sees that it is awake.
        fence(Ordering::Release);
    }

    /// Returns the number of the nap if the worker sleeps.
    fn nap(&self) -> Option<u64> {
        Some(self.naps.load(Ordering::Acquire)).filter(|naps| naps % 2 == 1)
    }
}

/// The holders of one lane's batches.
#[derive(Debug)]
pub struct LaneCustody {
    /// The inside worker.
    pub inside: Arc<Holdings>,
    /// The outside worker.
    pub outside: Arc<Holdings>,
    /// The inside worker's ring.
    pub inbound: Arc<Ring<InboundBatch>>,
    /// The outside worker's ring.
    pub outbound: Arc<Ring<OutboundBatch>>,
    /// The return ring of the outside worker's pool.
    pub inbound_returns: Arc<Ring<InboundBatch>>,
    /// The return ring of the inside worker's pool.
    pub outbound_returns: Arc<Ring<OutboundBatch>>,
}

/// The holders of all lanes' batches, in lane order.
#[derive(Debug, Default)]
pub struct Custody {
    lanes: Vec<LaneCustody>,
    /// The batches last found missing, inbound and outbound, by lane.
    missing: Mutex<Vec<[usize; 2]>>,
}

impl Custody {
    /// Creates the record of these lanes.
    pub fn new(lanes: Vec<LaneCustody>) -> Self {
        let missing = Mutex::new(vec![[0; 2]; lanes.len()]);
        Self { lanes, missing }
    }

    /// Counts the batches. Returns false if that was not possible for some, because workers were awake; what was known
    /// of these still stands.
    pub fn audit(&self) -> bool {
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut complete = true;
        for (lane, [inbound, outbound]) in missing.iter_mut().enumerate() {
            for (known, found) in [(inbound, self.count_inbound(lane)), (outbound, self.count_outbound(lane))]
            {
                complete &= found.is_some();
                *known = found.unwrap_or(*known);
            }
        }
        complete
    }

    /// Returns a line for each pool that the last audit found incomplete.
    pub fn missing(&self) -> Vec<String> {
        let missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        let line = |lane: usize, direction, missing: usize, of: usize| {
            (missing > 0).then(|| {
                format!("lane {lane} has lost {missing} of {of} {direction} batches; restart the router and report this")
            })
        };
        let lanes = self.lanes.iter().zip(missing.iter()).enumerate();
        lanes
            .flat_map(|(lane, (rings, [inbound, outbound]))| {
                [
                    line(lane, "inbound", *inbound, rings.inbound_returns.depth()),
                    line(lane, "outbound", *outbound, rings.outbound_returns.depth()),
                ]
            })
            .flatten()
            .collect()
    }

    /// Returns how many batches of `lane`'s inside worker nobody holds. They are held by it, its outside worker and the
    /// two rings between them.
    fn count_outbound(&self, lane: usize) -> Option<usize> {
        let lane = &self.lanes[lane];
        let workers = [&lane.inside, &lane.outside];
        asleep(workers, || {
            let held = workers.iter().map(|worker| worker.outbound.load(Ordering::Relaxed)).sum::<usize>();
            let found = held + lane.outbound.len() + lane.outbound_returns.len();
            Some(lane.outbound_returns.depth().saturating_sub(found))
        })
    }

    /// Returns how many batches of `lane`'s outside worker nobody holds. Those in a ring can be of any lane, so all rings
    /// must be empty.
    fn count_inbound(&self, lane: usize) -> Option<usize> {
        let owner = &self.lanes[lane];
        let workers = self.lanes.iter().map(|lane| &lane.inside).chain([&owner.outside]);
        asleep(workers, || {
            let idle = self.lanes.iter().all(|lane| lane.inbound.is_empty());
            let found = owner.outside.inbound.load(Ordering::Relaxed) + owner.inbound_returns.len();
            idle.then(|| owner.inbound_returns.depth().saturating_sub(found))
        })
    }
}

/// Returns the result of `count` if all `workers` are asleep from its begin to its end.
fn asleep<'w, T>(
    workers: impl IntoIterator<Item = &'w Arc<Holdings>, IntoIter: Clone>,
    count: impl FnOnce() -> Option<T>,
) -> Option<T> {
    let workers = workers.into_iter();
    // Numbers only grow, so equal sums mean equal numbers.
    let naps = || workers.clone().map(|worker| worker.nap()).sum::<Option<u64>>();
    let before = naps()?;
    let counted = count()?;
    fence(Ordering::Acquire);
    (naps() == Some(before)).then_some(counted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::ring::Pool;
    use crate::lane::ring::doorbell::Doorbell;

    #[test]
    fn a_batch_that_nobody_holds_is_missed_while_the_workers_sleep() {
        let bell = || Arc::new(Doorbell::new().unwrap());
        let mut inbound = Pool::new(3, bell(), || InboundBatch::new(0));
        let mut outbound = Pool::new(2, bell(), OutboundBatch::new);
        let rings = (Arc::new(Ring::new(3, bell())), Arc::new(Ring::new(2, bell())));
        let workers = [Arc::new(Holdings::default()), Arc::new(Holdings::default())];
        let custody = Custody::new(vec![LaneCustody {
            inside: Arc::clone(&workers[0]),
            outside: Arc::clone(&workers[1]),
            inbound: Arc::clone(&rings.0),
            outbound: Arc::clone(&rings.1),
            inbound_returns: Arc::clone(inbound.returns()),
            outbound_returns: Arc::clone(outbound.returns()),
        }]);
        let rest = |inbound: &Pool<_>, outbound: &Pool<_>| {
            workers[0].rest(0, Pool::<OutboundBatch>::kept(outbound));
            workers[1].rest(Pool::<InboundBatch>::kept(inbound), 0);
        };
        let rise = || workers.iter().for_each(|worker| worker.rise());
        assert!(!custody.audit(), "the workers are awake");
        rest(&inbound, &outbound);
        assert!(custody.audit() && custody.missing().is_empty());

        // In a ring, in a return ring, and with the outside worker.
        rise();
        rings.1.push(outbound.take().unwrap()).unwrap();
        let back = outbound.take().unwrap();
        outbound.returns().push(back).unwrap();
        rest(&inbound, &outbound);
        assert!(custody.audit() && custody.missing().is_empty());
        let current = rings.1.pop().unwrap();
        workers[1].rest(inbound.kept(), 1);
        assert!(custody.audit() && custody.missing().is_empty());

        // With nobody.
        rise();
        drop(current);
        let (_a, _b) = (inbound.take().unwrap(), inbound.take().unwrap());
        assert!(!custody.audit() && custody.missing().is_empty());
        rest(&inbound, &outbound);
        assert!(custody.audit());
        let missing = custody.missing();
        assert_eq!(missing.len(), 2, "{missing:?}");
        assert!(missing[0].starts_with("lane 0 has lost 2 of 3 inbound batches"), "{missing:?}");
        assert!(missing[1].starts_with("lane 0 has lost 1 of 2 outbound batches"), "{missing:?}");
        rise();
        assert!(!custody.audit());
        assert_eq!(custody.missing(), missing, "what is missing does not come back because a worker is busy");
    }
}
