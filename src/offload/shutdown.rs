//! The one signal that stops every worker.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// An eventfd that is signalled once and never drained: level-triggered, so it wakes whoever polls
/// it, now or later. Signal, join the threads, close the queues, then drop this.
#[derive(Debug)]
pub struct Shutdown {
    event: EventFd,
    signalled: AtomicBool,
}

impl Shutdown {
    /// Not signalled yet.
    ///
    /// # Errors
    /// The process is out of file descriptors.
    pub fn new() -> io::Result<Shutdown> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Shutdown { event, signalled: AtomicBool::new(false) })
    }

    /// Tells everybody to stop. Calling it again does nothing.
    pub fn signal(&self) {
        if !self.signalled.swap(true, Ordering::AcqRel) {
            // A counter of zero has room for one, so this cannot fail.
            let _ = self.event.write(1);
        }
    }

    /// Whether [`Shutdown::signal`] was called.
    #[inline]
    pub fn is_signalled(&self) -> bool {
        self.signalled.load(Ordering::Acquire)
    }
}

impl AsFd for Shutdown {
    /// Readable for ever once it is signalled. Poll it, do not read it.
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
