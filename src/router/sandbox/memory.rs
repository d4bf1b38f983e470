//! Keeps other processes and core dumps out of the router's memory, which holds keys.

use std::io;

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};

/// Forbids core dumps of this process, and access to its memory by processes without `CAP_SYS_PTRACE`
/// (`PR_SET_DUMPABLE`, prctl(2)). The core size limit is set as well, because it is inherited and visible in
/// `/proc`.
///
/// # Errors
/// Fails if the kernel, or a filter around the process, refuses.
pub fn seclude() -> io::Result<()> {
    prctl::set_dumpable(false)?;
    Ok(setrlimit(Resource::RLIMIT_CORE, 0, 0)?)
}
