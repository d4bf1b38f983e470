//! The signals that end a process or make it read its configuration again, before and while somebody takes
//! them in order.

use std::io;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The signals that ask a process to end.
pub const ENDS: [Signal; 2] = [Signal::SIGTERM, Signal::SIGINT];

/// The process has made nothing yet: from now on one of [`ENDS`] ends it at once, and well. SIGHUP waits.
/// The first process of a container needs this, for the kernel keeps signals from it that it does not handle.
///
/// # Errors
/// The kernel refuses.
pub fn end_at_once() -> io::Result<()> {
    SigSet::from(Signal::SIGHUP).thread_block()?;
    let action = SigAction::new(SigHandler::Handler(leave), SaFlags::empty(), SigSet::empty());
    for signal in ENDS {
        // SAFETY: what a handler may call is `async-signal-safe`; this one calls _exit(2) and nothing else.
        unsafe { sigaction(signal, &action) }?;
    }
    Ok(())
}

/// The process is about to make something: from now on signals wait until a descriptor of [`queue`] is read. To be
/// called while it has one thread; the others inherit it.
///
/// # Errors
/// The kernel refuses.
pub fn hold() -> io::Result<()> {
    Ok(all().thread_block()?)
}

/// What signals can be read from that [`hold`] holds back. Reading does not block.
///
/// # Errors
/// The process is out of descriptors.
pub fn queue() -> io::Result<SignalFd> {
    Ok(SignalFd::with_flags(&all(), SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// Ends the process on the spot: nothing is dropped, flushed or waited for.
pub fn leave_now(status: u8) -> ! {
    // SAFETY: it has no preconditions, and does not return.
    unsafe { libc::_exit(status.into()) }
}

extern "C" fn leave(_signal: libc::c_int) {
    leave_now(0)
}

fn all() -> SigSet {
    ENDS.into_iter().chain([Signal::SIGHUP]).collect()
}
