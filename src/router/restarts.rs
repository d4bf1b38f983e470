//! Restarts of workers after panics, bounded per minute.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use arrayvec::ArrayVec;

use crate::lane::WorkerError;
use crate::lane::inside::InsideWorker;
use crate::lane::outside::OutsideWorker;
use crate::offload::QueueError;
use crate::units::Nanos;

/// Restarts of a worker per [`SPAN`] after which a further panic stops the router. A panic that every packet of some
/// kind causes reaches it at once; rare ones never do.
pub const MAX_RESTARTS: usize = 8;

/// The span over which restarts are counted.
pub const SPAN: Duration = Duration::from_secs(60);

/// A worker as the supervisor runs it.
pub(super) trait RestartedWorker: Send + 'static {
    /// Runs the worker until the router stops.
    fn run(&mut self) -> Result<(), WorkerError>;
    /// Discards the packets in hand after a panic and counts them as lost.
    fn recover(&mut self);
    /// Counts a restart.
    fn count_restart(&mut self);
}

impl RestartedWorker for InsideWorker {
    fn run(&mut self) -> Result<(), WorkerError> {
        InsideWorker::run(self)
    }

    fn recover(&mut self) {
        InsideWorker::recover(self);
    }

    fn count_restart(&mut self) {
        self.metrics.restarts.add(1);
        self.metrics.publish();
    }
}

impl RestartedWorker for OutsideWorker {
    fn run(&mut self) -> Result<(), WorkerError> {
        OutsideWorker::run(self)
    }

    fn recover(&mut self) {
        OutsideWorker::recover(self);
    }

    fn count_restart(&mut self) {
        self.metrics.restarts.add(1);
        self.metrics.publish();
    }
}

/// Runs a worker and restarts it after a panic, up to [`MAX_RESTARTS`] times per [`SPAN`] of the clock `now`.
///
/// # Errors
/// Returns the worker's error, or that it panics too often.
pub(super) fn supervise(
    name: &str,
    worker: &mut impl RestartedWorker,
    mut now: impl FnMut() -> Nanos,
) -> Result<(), String> {
    let mut restarts: ArrayVec<Nanos, MAX_RESTARTS> = ArrayVec::new();
    loop {
        match catch_unwind(AssertUnwindSafe(|| worker.run())) {
            Ok(Ok(())) => return Ok(()),
            // Not a failure: `ip link del` is the usual way to stop a WireGuard interface.
            Ok(Err(WorkerError::Queue(QueueError::Closed))) => {
                tracing::info!("stopping: the TUN interface was deleted");
                return Ok(());
            }
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => {}
        }
        let now = now();
        restarts.retain(|restart| now.since(*restart) < SPAN);
        if catch_unwind(AssertUnwindSafe(|| worker.recover())).is_err() || restarts.is_full() {
            let span = SPAN.as_secs();
            return Err(format!(
                "panicked again after {} restarts in {span} s; please report this",
                restarts.len()
            ));
        }
        restarts.push(now);
        tracing::error!(
            "{name} panicked and is restarted; the packets in its hands are lost and counted as worker_restart. Please \
             report this"
        );
        worker.count_restart();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker that panics in its first `panics` runs, and during recovery if `lost`.
    #[derive(Default)]
    struct Failing {
        panics: usize,
        lost: bool,
        runs: usize,
        recoveries: usize,
        restarts: usize,
    }

    impl RestartedWorker for Failing {
        fn run(&mut self) -> Result<(), WorkerError> {
            self.runs += 1;
            assert!(self.runs > self.panics, "a panic, as the test intends");
            Ok(())
        }

        fn recover(&mut self) {
            self.recoveries += 1;
            assert!(!self.lost, "a panic, as the test intends");
        }

        fn count_restart(&mut self) {
            self.restarts += 1;
        }
    }

    /// Returns a clock that advances by `step` each time.
    fn clock(step: Duration) -> impl FnMut() -> Nanos {
        let mut now = Nanos(1);
        move || {
            now = now.after(step);
            now
        }
    }

    #[test]
    fn a_worker_that_panics_is_restarted() {
        let mut worker = Failing { panics: MAX_RESTARTS, ..Failing::default() };
        assert_eq!(supervise("test", &mut worker, clock(Duration::ZERO)), Ok(()));
        assert_eq!((worker.recoveries, worker.restarts), (MAX_RESTARTS, MAX_RESTARTS));
    }

    #[test]
    fn a_worker_that_keeps_panicking_is_given_up() {
        let mut worker = Failing { panics: usize::MAX, ..Failing::default() };
        assert!(supervise("test", &mut worker, clock(SPAN / 10)).is_err());
        assert_eq!((worker.runs, worker.restarts), (MAX_RESTARTS + 1, MAX_RESTARTS));
    }

    #[test]
    fn a_worker_that_panics_rarely_is_restarted_for_ever() {
        let mut worker = Failing { panics: 10 * MAX_RESTARTS, ..Failing::default() };
        assert_eq!(supervise("test", &mut worker, clock(SPAN / MAX_RESTARTS as u32)), Ok(()));
        assert_eq!(worker.restarts, 10 * MAX_RESTARTS);
    }

    #[test]
    fn a_worker_that_cannot_recover_is_given_up() {
        let mut worker = Failing { panics: 1, lost: true, ..Failing::default() };
        assert!(supervise("test", &mut worker, clock(SPAN)).is_err());
        assert_eq!(worker.runs, 1);
    }
}
