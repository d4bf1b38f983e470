//! The signal that stops all workers.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// A shutdown signal that can be polled.
///
/// It is an eventfd that is written once and never read. As poll is level-triggered, the signal wakes
/// every thread that polls it, now or later. To stop: signal, join the threads, close the queues, then
/// drop this.
#[derive(Debug)]
pub struct Shutdown {
    event: EventFd,
    signalled: AtomicBool,
}

impl Shutdown {
    /// Creates a signal that is not yet set.
    ///
    /// # Errors
    /// Fails if the process or the host has no file descriptors left.
    pub fn new() -> io::Result<Shutdown> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Shutdown { event, signalled: AtomicBool::new(false) })
    }

    /// Tells all workers to stop. Further calls have no effect.
    pub fn signal(&self) {
        if !self.signalled.swap(true, Ordering::AcqRel) {
            // The counter is zero, so adding one cannot overflow it: the write does not fail.
            let _ = self.event.write(1);
        }
    }

    /// Returns whether [`Shutdown::signal`] was called.
    #[inline]
    pub fn is_signalled(&self) -> bool {
        self.signalled.load(Ordering::Acquire)
    }
}

impl AsFd for Shutdown {
    /// Returns the descriptor, which stays readable once signalled. Poll it, but do not read from it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::sync::{Arc, Barrier};

    #[test]
    fn one_signal_wakes_all_who_poll_and_all_who_will() {
        let shutdown = Arc::new(Shutdown::new().unwrap());
        let barrier = Arc::new(Barrier::new(5));
        let pollers: Vec<_> = (0..4)
            .map(|_| {
                let (shutdown, barrier) = (Arc::clone(&shutdown), Arc::clone(&barrier));
                std::thread::spawn(move || {
                    barrier.wait();
                    poll(&mut [PollFd::new(shutdown.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)
                })
            })
            .collect();
        barrier.wait();
        assert!(!shutdown.is_signalled());
        shutdown.signal();
        shutdown.signal();
        for poller in pollers {
            assert_eq!(poller.join().unwrap(), Ok(1));
        }
        let late = poll(&mut [PollFd::new(shutdown.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO);
        assert_eq!(late, Ok(1));
        assert!(shutdown.is_signalled());
    }
}
