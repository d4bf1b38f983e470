//! Ctrl-C handling: the first signal stops the demo cleanly, the second ends the process at once. The kernel
//! removes the namespaces in both cases.

use std::io;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

/// Exit status of a command ended by SIGINT, by shell convention: 128 + 2.
pub const EXIT_STATUS: u8 = 130;

/// Request to stop the demo. The default value receives no signals.
#[derive(Debug, Default)]
pub struct Interrupt {
    shared: Arc<InterruptState>,
}

#[derive(Debug, Default)]
struct InterruptState {
    raised: AtomicBool,
    lock: Mutex<()>,
    change: Condvar,
}

impl Interrupt {
    /// Blocks SIGINT, SIGTERM and SIGHUP and starts a thread that receives them. Must be called before any other
    /// thread is started, so that all threads inherit the blocked signals.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn listen() -> io::Result<Interrupt> {
        let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
        signals.thread_block()?;
        let shared = Arc::new(InterruptState::default());
        let raise = Arc::clone(&shared);
        thread::Builder::new().name("signals".into()).spawn(move || {
            while let Ok(_signal) = signals.wait() {
                if raise.raised.load(Relaxed) {
                    process::exit(EXIT_STATUS.into());
                }
                raise.raise();
            }
        })?;
        Ok(Interrupt { shared })
    }

    /// Asks the demo to stop, as a signal would.
    pub fn raise(&self) {
        self.shared.raise();
    }

    /// Returns the flag, for threads that poll it.
    pub fn flag(&self) -> &AtomicBool {
        &self.shared.raised
    }

    /// Returns whether the demo was asked to stop.
    pub fn is_raised(&self) -> bool {
        self.shared.raised.load(Relaxed)
    }

    /// Blocks for `span`, or until the demo is asked to stop.
    pub fn wait(&self, span: Duration) {
        let guard = self.shared.lock.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.shared.change.wait_timeout_while(guard, span, |()| !self.is_raised()));
    }
}

impl InterruptState {
    fn raise(&self) {
        let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        self.raised.store(true, Relaxed);
        drop(guard);
        self.change.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends_with_the_first_signal() {
        let interrupt = Interrupt::default();
        let raise = Arc::clone(&interrupt.shared);
        let signal = thread::spawn(move || raise.raise());
        interrupt.wait(Duration::MAX);
        assert!(interrupt.is_raised() && interrupt.flag().load(Relaxed));
        signal.join().unwrap();
    }
}
