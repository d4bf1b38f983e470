//! Installs a seccomp filter (seccomp(2)).

use std::io;

use nix::errno::Errno;
use seccompiler::BpfProgramRef;

/// Applies `filter` to all threads of the process and to threads and processes started later. It cannot be removed.
/// Also sets `no_new_privs`: executing a program can no longer grant privileges.
///
/// Before Linux 5.16, installing a filter also disabled speculative store bypass, which costs every thread a few
/// percent. This requests to keep it enabled, since the process runs no untrusted code.
///
/// # Errors
/// `EINVAL` or `ENOSYS` if the kernel does not support filters, or an error that names a thread which already has
/// a filter of its own.
pub fn apply(filter: BpfProgramRef<'_>) -> io::Result<()> {
    nix::sys::prctl::set_no_new_privs()?;
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(io::Error::other)?,
        filter: filter.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    let all = libc::SECCOMP_FILTER_FLAG_TSYNC;
    let install = |flags: libc::c_ulong| {
        // SAFETY: the kernel reads `len` instructions from `filter`, a slice of that length borrowed for the
        // call. seccompiler's `sock_filter` has the layout of the C struct (`repr(C)`, the same four fields).
        // The kernel validates the program and writes nothing.
        let result = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
        };
        Errno::result(result)
    };
    match install(all | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW) {
        // Kernels before 4.17 do not support SPEC_ALLOW.
        Err(Errno::EINVAL) => install(all),
        outcome => outcome,
    }
    .map_err(io::Error::from)
    .and_then(|thread| match thread {
        0 => Ok(()),
        thread => Err(io::Error::other(format!("thread {thread} already has a different filter"))),
    })
}
