//! How an actor sleeps: until its descriptor is ready, its doorbell rings, its time has come, or
//! the router stops.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use arrayvec::ArrayVec;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::doorbell::{Awaited, Doorbell};
use super::pulse::Pulse;
use crate::offload::Shutdown;

/// Descriptors that an actor waits for, at the most.
const MAX_DEVICES: usize = 2;

/// The router was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

/// An actor's bed: its doorbell, its pulse, and the shutdown that is shared by all.
#[derive(Clone, Debug)]
pub struct Sleeper {
    bell: Arc<Doorbell>,
    pulse: Arc<Pulse>,
    shutdown: Arc<Shutdown>,
}

impl Sleeper {
    /// For the owner of `bell`.
    pub fn new(bell: Arc<Doorbell>, shutdown: Arc<Shutdown>) -> Self {
        let pulse = Arc::new(Pulse::new(Arc::clone(&bell)));
        Self { bell, pulse, shutdown }
    }

    /// How others ask whether this actor is alive.
    pub fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }

    /// The actor's loop runs. To be called once a turn; to go to sleep says it too.
    #[inline]
    pub fn beat(&self) {
        self.pulse.beat();
    }

    /// Whether the router was told to stop.
    pub fn stopped(&self) -> bool {
        self.shutdown.is_signalled()
    }

    /// Tells everybody to stop: the owner of this ends.
    pub fn stop_all(&self) {
        self.shutdown.signal();
    }

    /// Sleeps until one of `devices` has one of its events, someone brings what is `awaited`, `limit` is
    /// over, or the router stops. `idle` is asked once the doorbell is armed: if it says that there
    /// is something to do after all, there is no sleep.
    ///
    /// # Errors
    /// The router was told to stop.
    ///
    /// # Panics
    /// If there are over two devices, or if the kernel refuses to poll: a descriptor is not what its
    /// owner thinks it is.
    pub fn sleep<'a>(
        &self,
        awaited: Awaited,
        devices: impl IntoIterator<Item = (BorrowedFd<'a>, PollFlags)>,
        limit: Option<Duration>,
        idle: impl FnOnce() -> bool,
    ) -> Result<(), Stopped> {
        self.pulse.beat();
        self.bell.arm(awaited);
        // A question that came before the bell was armed rang nobody.
        if self.pulse.is_asked() || !idle() {
            self.bell.disarm(false);
            return Ok(());
        }
        let mut fds: ArrayVec<PollFd<'_>, { 2 + MAX_DEVICES }> = ArrayVec::new();
        fds.push(PollFd::new(self.bell.event().as_fd(), PollFlags::POLLIN));
        fds.push(PollFd::new(self.shutdown.as_fd(), PollFlags::POLLIN));
        fds.extend(devices.into_iter().map(|(fd, events)| PollFd::new(fd, events)));
        // Rounded up: a timer that fires early would poll again and again until it is due.
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
            Err(errno) => panic!("poll on descriptors this actor owns: {errno}"),
        }
    }
}
