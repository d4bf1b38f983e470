//! Blocks an actor until a descriptor is ready, its doorbell rings, a timeout passes, or the router
//! stops.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::heartbeat::Heartbeat;
use crate::lane::ring::doorbell::{Awaited, Doorbell};
use crate::shutdown::Shutdown;

/// Maximum number of descriptors that an actor waits for, besides its doorbell and the shutdown.
const MAX_DEVICES: usize = 2;

/// The router was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

/// What a thread needs to block: doorbell, heartbeat, shared shutdown.
#[derive(Clone, Debug)]
pub struct Sleeper {
    bell: Arc<Doorbell>,
    heartbeat: Arc<Heartbeat>,
    shutdown: Arc<Shutdown>,
}

impl Sleeper {
    /// Creates the sleeper of the thread that owns `bell`.
    pub fn new(bell: Arc<Doorbell>, shutdown: Arc<Shutdown>) -> Self {
        let heartbeat = Arc::new(Heartbeat::new(Arc::clone(&bell)));
        Self { bell, heartbeat, shutdown }
    }

    /// The heartbeat, with which others check that this actor is alive.
    pub fn heartbeat(&self) -> &Arc<Heartbeat> {
        &self.heartbeat
    }

    /// Signals that the actor's loop is running. Call this once per turn; [`sleep`](Self::sleep) does
    /// it too.
    #[inline]
    pub fn beat(&self) {
        self.heartbeat.beat();
    }

    /// Returns whether the router was told to stop.
    pub fn stopped(&self) -> bool {
        self.shutdown.is_signalled()
    }

    /// Tells all actors to stop, because this one ends.
    pub fn stop_all(&self) {
        self.shutdown.signal();
    }

    /// Sleeps until one of `devices` has one of its events, the doorbell rings for `awaited`, `limit`
    /// has passed, or the router stops. May also return early.
    ///
    /// `idle` is called once the doorbell is armed. If it returns false, there is work after all and
    /// this returns without sleeping.
    ///
    /// # Errors
    /// If the router was told to stop.
    ///
    /// # Panics
    /// If there are more than two devices, or if poll fails because a descriptor is invalid.
    pub fn sleep<'a>(
        &self,
        awaited: Awaited,
        devices: impl IntoIterator<Item = (BorrowedFd<'a>, PollFlags)>,
        limit: Option<Duration>,
        idle: impl FnOnce() -> bool,
    ) -> Result<(), Stopped> {
        self.heartbeat.beat();
        self.bell.arm(awaited);
        // A heartbeat probe sent before the doorbell was armed did not ring it.
        if self.heartbeat.is_asked() || !idle() {
            self.bell.disarm(false);
            return Ok(());
        }
        let mut fds: ArrayVec<PollFd<'_>, { 2 + MAX_DEVICES }> = ArrayVec::new();
        fds.push(PollFd::new(self.bell.event().as_fd(), PollFlags::POLLIN));
        fds.push(PollFd::new(self.shutdown.as_fd(), PollFlags::POLLIN));
        fds.extend(devices.into_iter().map(|(fd, events)| PollFd::new(fd, events)));
        // Rounded up: if poll returned early, the caller would poll repeatedly until its timer is due.
        let timeout = limit.map_or(PollTimeout::NONE, |limit| {
            let millis = limit.as_nanos().div_ceil(1_000_000);
            PollTimeout::try_from(millis.min(i32::MAX as u128) as i32).unwrap_or(PollTimeout::MAX)
        });
        let outcome = poll(&mut fds, timeout);
        let ready = |index: usize| fds.get(index).and_then(PollFd::revents).unwrap_or(PollFlags::empty());
        self.bell.disarm(outcome.is_ok() && !ready(0).is_empty());
        match outcome {
            Ok(_) if !ready(1).is_empty() => Err(Stopped),
            Ok(_) | Err(Errno::EINTR | Errno::EAGAIN | Errno::ENOMEM) => Ok(()),
            Err(errno) => panic!("poll failed on descriptors this actor owns: {errno}"),
        }
    }
}

/// Busy polling: decides whether an idle worker polls again or sleeps.
///
/// Off by default: on shared cores, spinning takes CPU time from the threads that would produce the work.
#[derive(Debug)]
pub struct Spin {
    span: Duration,
    idle_since: Option<Instant>,
}

impl Spin {
    /// Spins for `span` after the last work. Zero disables spinning.
    pub fn new(span: Duration) -> Self {
        Self { span, idle_since: None }
    }

    /// Records that there was work, which restarts the span.
    pub fn worked(&mut self) {
        self.idle_since = None;
    }

    /// Called when there was no work. Returns whether to poll again instead of sleeping.
    pub fn goes_on(&mut self) -> bool {
        if self.span.is_zero() {
            return false;
        }
        std::hint::spin_loop();
        let since = *self.idle_since.get_or_insert_with(Instant::now);
        since.elapsed() < self.span
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_span_a_worker_sleeps_at_once() {
        assert!(!Spin::new(Duration::ZERO).goes_on());
    }

    #[test]
    fn a_spin_goes_on_until_its_span_is_over_and_begins_anew_with_work() {
        let mut spin = Spin::new(Duration::from_secs(3600));
        assert!(spin.goes_on() && spin.goes_on());
        let mut short = Spin::new(Duration::from_nanos(1));
        short.goes_on();
        std::thread::sleep(Duration::from_millis(1));
        assert!(!short.goes_on());
        short.worked();
        assert!(short.idle_since.is_none());
    }
}
