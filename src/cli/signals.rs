//! The thread that takes the signals of a router process, and sees to it that the process ends.
//!
//! It is there before anything else is made, so no signal meets a process that would die of it and leave something
//! behind. Nothing can hold it up: it waits for nobody but the kernel, takes no lock and no memory, and
//! says nothing to a log that may be full. So it can end the process when another thread is stuck, whichever
//! that is ([`stopping`] has who waits for whom, and for how long). Nobody watches it in turn.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;

use crate::control::stopping;
use crate::control::uapi::SocketFile;
use crate::offload::Shutdown;
use crate::sys::signals;

/// The exit status of a router that was told to stop and of which a part did not end in time.
pub const EXIT_STUCK: u8 = 3;

/// What is said when not even the main thread ends.
const LAST_WORDS: &[u8] =
    b"laneway: it was told to stop and a part of it is stuck: ended by force; please report this\n";

/// What the thread shares with the others.
#[derive(Debug)]
pub struct Signals {
    /// Whether a signal has told the router to stop.
    told: AtomicBool,
    /// Readable when SIGHUP has come.
    hangup: EventFd,
    /// The control socket's file, once there is one.
    socket: OnceLock<Arc<SocketFile>>,
}

impl Signals {
    /// Takes signals from now on: SIGTERM and SIGINT signal `shutdown`, and once that is signalled, by whomever,
    /// the process ends within [`stopping::PROCESS`]. To be called before there are other threads.
    ///
    /// # Errors
    /// The system lacks a thread or a descriptor.
    pub fn watch(shutdown: &Arc<Shutdown>) -> io::Result<Arc<Signals>> {
        signals::hold()?;
        let queue = signals::queue()?;
        let hangup = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let shared = Arc::new(Signals { told: AtomicBool::new(false), hangup, socket: OnceLock::new() });
        let (own, shutdown) = (Arc::clone(&shared), Arc::clone(shutdown));
        thread::Builder::new().name("signals".into()).spawn(move || {
            own.take(&queue, &shutdown);
            thread::sleep(stopping::PROCESS);
            own.end_by_force();
        })?;
        Ok(shared)
    }

    /// Whether a signal has told the router to stop.
    pub fn told_to_stop(&self) -> bool {
        self.told.load(Ordering::Acquire)
    }

    /// A descriptor that can be read when SIGHUP has come.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub fn hangups(&self) -> io::Result<OwnedFd> {
        self.hangup.as_fd().try_clone_to_owned()
    }

    /// The control socket is here, and to be removed at the end.
    pub fn note_socket(&self, file: Arc<SocketFile>) {
        // There is one control socket in the life of a process.
        let _ = self.socket.set(file);
    }

    /// Removes the control socket's file, should it still be there.
    pub fn remove_socket(&self) {
        if let Some(file) = self.socket.get() {
            file.remove();
        }
    }

    /// Takes signals until the router is to stop.
    fn take(&self, queue: &SignalFd, shutdown: &Shutdown) {
        while !shutdown.is_signalled() {
            let events = [queue.as_fd(), shutdown.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            // Should it fail, what has come is still found below.
            let _ = poll(&mut { events }, PollTimeout::NONE);
            while let Ok(Some(signal)) = queue.read_signal() {
                if signal.ssi_signo == Signal::SIGHUP as u32 {
                    // A counter that is full is readable all the same.
                    let _ = self.hangup.write(1);
                } else {
                    self.told.store(true, Ordering::Release);
                    shutdown.signal();
                }
            }
        }
    }

    /// What is left to do when time is up. The kernel takes device, addresses and routes with the process.
    fn end_by_force(&self) -> ! {
        self.remove_socket();
        // Not by way of `Stderr`, whose lock may be what somebody is stuck with; and not if it would block.
        let stderr = io::stderr();
        let mut room = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
        if poll(&mut room, PollTimeout::ZERO) == Ok(1) {
            let _ = nix::unistd::write(&stderr, LAST_WORDS);
        }
        signals::leave_now(EXIT_STUCK)
    }
}
