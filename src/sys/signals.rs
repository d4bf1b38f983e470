//! Handling of termination signals and SIGHUP, before and after a thread reads them from a queue.
//!
//! A SIGINT or SIGHUP that the process inherits as ignored stays ignored: `nohup` and shells that start background
//! jobs want it so. Blocking such a signal would already make it pending, since the kernel discards an ignored signal
//! only while it is not blocked.

use std::io;

use std::{mem, ptr};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// Signals that ask a process to end.
pub const ENDS: [Signal; 2] = [Signal::SIGTERM, Signal::SIGINT];

/// Asks a process to end for a restart of its service (`RestartKillSignal=` in the unit).
pub const RESTART: Signal = Signal::SIGUSR1;

/// Makes [`RESTART`] and the signals in [`ENDS`] end the process at once with status 0, and blocks SIGHUP. For use before
/// the process has created anything. PID 1 of a container needs this, because the kernel does not deliver signals to it
/// that it does not handle.
///
/// # Errors
/// A system call failed.
pub fn end_at_once() -> io::Result<()> {
    if !is_ignored(Signal::SIGHUP) {
        SigSet::from(Signal::SIGHUP).thread_block()?;
    }
    let action = SigAction::new(SigHandler::Handler(leave), SaFlags::empty(), SigSet::empty());
    for signal in ENDS.into_iter().chain([RESTART]).filter(|signal| takes(*signal)) {
        // SAFETY: a handler may only call async-signal-safe functions; `leave` calls only _exit(2).
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

/// Blocks SIGTERM, and [`RESTART`], SIGINT and SIGHUP unless they are ignored, so that they stay pending until read from a
/// [`queue`]. Call this before the process creates anything, and while it has a single thread: threads started later
/// inherit it.
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

/// Blocks SIGTERM, and returns a non-blocking descriptor from which it is read. For commands that must put the terminal
/// in order before they end; other signals keep their effect. Call this before other threads are started.
///
/// # Errors
/// A system call failed.
pub fn terminations() -> io::Result<SignalFd> {
    let signals = SigSet::from(Signal::SIGTERM);
    signals.thread_block()?;
    Ok(SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
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
    ENDS.into_iter().chain([RESTART, Signal::SIGHUP]).filter(|signal| takes(*signal)).collect()
}

/// Returns whether the router handles `signal`. Service managers rely on SIGTERM, so it is handled in any case.
fn takes(signal: Signal) -> bool {
    signal == Signal::SIGTERM || !is_ignored(signal)
}

fn is_ignored(signal: Signal) -> bool {
    // SAFETY: all fields of `sigaction` are integers, pointers or optional function pointers, for which zeros are
    // valid.
    let mut current: libc::sigaction = unsafe { mem::zeroed() };
    // SAFETY: a null pointer leaves the disposition as it is; `current` is valid for writes.
    let queried = unsafe { libc::sigaction(signal as i32, ptr::null(), &raw mut current) };
    queried == 0 && current.sa_sigaction == libc::SIG_IGN
}
