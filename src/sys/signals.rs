//! Handling of termination signals and SIGHUP, before and after a thread reads them from a queue.

use std::io;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Signals that ask a process to end.
pub const ENDS: [Signal; 2] = [Signal::SIGTERM, Signal::SIGINT];

/// Makes the signals in [`ENDS`] end the process at once with status 0, and blocks SIGHUP. For use before the
/// process has created anything. PID 1 of a container needs this, because the kernel does not deliver signals to it
/// that it does not handle.
///
/// # Errors
/// A system call failed.
pub fn end_at_once() -> io::Result<()> {
    SigSet::from(Signal::SIGHUP).thread_block()?;
    let action = SigAction::new(SigHandler::Handler(leave), SaFlags::empty(), SigSet::empty());
    for signal in ENDS {
        // SAFETY: a handler may only call async-signal-safe functions; `leave` calls only _exit(2).
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

/// Blocks SIGTERM, SIGINT and SIGHUP, so that they stay pending until read from a [`queue`]. Call this before the
/// process creates anything, and while it has a single thread: threads started later inherit it.
///
/// # Errors
/// A system call failed.
pub fn hold() -> io::Result<()> {
    Ok(all().thread_block()?)
}

/// Returns a non-blocking descriptor from which the signals that [`hold`] blocks are read.
///
/// # Errors
/// The process is out of descriptors.
pub fn queue() -> io::Result<SignalFd> {
    Ok(SignalFd::with_flags(&all(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// Ends the process immediately: nothing is dropped, flushed or waited for.
pub fn leave_now(status: u8) -> ! {
    // SAFETY: _exit has no preconditions and does not return.
    unsafe { libc::_exit(status.into()) }
}

extern "C" fn leave(_signal: libc::c_int) {
    leave_now(0)
}

fn all() -> SigSet {
    ENDS.into_iter().chain([Signal::SIGHUP]).collect()
}
