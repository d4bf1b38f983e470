//! The signal thread of a router process: receives signals and guarantees that the process ends.
//!
//! The thread starts before anything else is created, so that no signal can kill the process and leave resources
//! behind. It waits only for the kernel, takes no locks, allocates no memory and writes no log lines, so it can
//! end the process whichever other thread is stuck. [`stopping`] documents the order and limits of the waits.
//! Nothing monitors this thread.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::Signal;
use nix::sys::signalfd::SignalFd;

use crate::offload::Lifetime;
use crate::router::stopping;
use crate::shutdown::Shutdown;
use crate::sys::signals;
use crate::uapi::SocketFile;

/// Exit status of a router that was told to stop but has a thread that did not end in time.
pub const EXIT_STUCK: u8 = 3;

/// Written to standard error when not even the main thread ends.
const LAST_WORDS: &[u8] =
    b"laneway: a thread did not stop in time: process ended by force; please report this\n";

/// State the signal thread shares with the other threads.
#[derive(Debug)]
pub struct Signals {
    /// Whether a signal has told the router to stop.
    told: AtomicBool,
    /// Whether another process has taken the router over, with its interface and control socket.
    handed_over: Arc<AtomicBool>,
    /// Readable after a SIGHUP.
    hangup: EventFd,
    /// Readable after a signal to restart.
    restart: EventFd,
    /// Whether someone waits for a restart. If not, the signal for it means to stop.
    awaits_restart: AtomicBool,
    /// The control socket's file, once it exists.
    socket: OnceLock<Arc<SocketFile>>,
    /// The persistent interface, unless it is to be kept.
    interface: OnceLock<Lifetime>,
}

impl Signals {
    /// Starts the signal thread. SIGTERM and SIGINT signal `shutdown`, and so does [`signals::RESTART`] unless someone waits
    /// for it ([`restarts`](Self::restarts)); once it is signalled, by anyone, the process
    /// ends within [`stopping::PROCESS`]. Must be called before other threads are started.
    ///
    /// # Errors
    /// The thread cannot be started, or the process is out of descriptors.
    pub fn watch(shutdown: &Arc<Shutdown>) -> io::Result<Arc<Signals>> {
        signals::hold()?;
        let queue = signals::queue()?;
        let event = || EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let (hangup, restart) = (event()?, event()?);
        let shared = Arc::new(Signals {
            told: AtomicBool::new(false),
            handed_over: Arc::default(),
            hangup,
            restart,
            awaits_restart: AtomicBool::new(false),
            socket: OnceLock::new(),
            interface: OnceLock::new(),
        });
        let (own, shutdown) = (Arc::clone(&shared), Arc::clone(shutdown));
        thread::Builder::new().name("signals".into()).spawn(move || {
            own.take(&queue, &shutdown);
            thread::sleep(stopping::PROCESS);
            own.end_by_force();
        })?;
        Ok(shared)
    }

    /// Returns whether a signal has told the router to stop.
    pub fn told_to_stop(&self) -> bool {
        self.told.load(Ordering::Acquire)
    }

    /// Returns whether another process has taken the router over. Whoever hands it over sets this.
    pub fn handed_over(&self) -> &Arc<AtomicBool> {
        &self.handed_over
    }

    /// Returns a descriptor that becomes readable on SIGHUP.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub fn hangups(&self) -> io::Result<OwnedFd> {
        self.hangup.as_fd().try_clone_to_owned()
    }

    /// Returns a descriptor that becomes readable when the router is to end for a restart. The signal for it
    /// then no longer stops the process, but the router has to begin to end within [`stopping::LEAVING`].
    pub fn restarts(&self) -> BorrowedFd<'_> {
        self.awaits_restart.store(true, Ordering::Release);
        self.restart.as_fd()
    }

    /// Returns whether the router is to end for a restart, once for each signal.
    pub fn takes_restart(&self) -> bool {
        self.restart.read().is_ok()
    }

    /// Tells the router to stop, as a signal does.
    pub fn stop(&self, shutdown: &Shutdown) {
        self.told.store(true, Ordering::Release);
        shutdown.signal();
    }

    /// Registers the control socket's file for removal when the process ends.
    pub fn note_socket(&self, file: Arc<SocketFile>) {
        // A process creates at most one control socket.
        let _ = self.socket.set(file);
    }

    /// Registers a persistent interface that is to end with the process if the process is ended by force.
    pub fn note_interface(&self, lifetime: Lifetime) {
        // A process has one interface.
        let _ = self.interface.set(lifetime);
    }

    /// Removes the control socket's file if it still exists.
    pub fn remove_socket(&self) {
        if let Some(file) = self.socket.get() {
            file.remove();
        }
    }

    /// Handles signals until the router is told to stop.
    fn take(&self, queue: &SignalFd, shutdown: &Shutdown) {
        let mut leaves_by: Option<Instant> = None;
        while !shutdown.is_signalled() {
            let events = [queue.as_fd(), shutdown.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            let left = leaves_by.map(|end| end.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                self.stop(shutdown);
            }
            let timeout = left.map_or(PollTimeout::NONE, |left| left.try_into().unwrap_or(PollTimeout::MAX));
            // If poll fails, pending signals are still read below.
            let _ = poll(&mut { events }, timeout);
            while let Ok(Some(signal)) = queue.read_signal() {
                if signal.ssi_signo == Signal::SIGHUP as u32 {
                    // The write fails only if the counter is full, and it is readable then.
                    let _ = self.hangup.write(1);
                } else if signal.ssi_signo == signals::RESTART as u32
                    && self.awaits_restart.load(Ordering::Acquire)
                {
                    leaves_by.get_or_insert_with(|| Instant::now() + stopping::LEAVING);
                    let _ = self.restart.write(1);
                } else {
                    self.stop(shutdown);
                }
            }
        }
    }

    /// Ends the process when the time limit has passed. The kernel removes the device, addresses and routes with it.
    /// Rules and unreachable routes stay if the main thread has not removed them.
    fn end_by_force(&self) -> ! {
        self.remove_socket();
        if let Some(interface) = self.interface.get().filter(|_| !self.handed_over.load(Ordering::Acquire)) {
            // If the kernel refuses, the interface stays, without a way out.
            let _ = interface.end_with_process();
        }
        // Bypasses `Stderr`, whose lock a stuck thread may hold, and skips the message if the write would block.
        let stderr = io::stderr();
        let mut room = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
        if poll(&mut room, PollTimeout::ZERO) == Ok(1) {
            let _ = nix::unistd::write(&stderr, LAST_WORDS);
        }
        signals::leave_now(EXIT_STUCK)
    }
}
