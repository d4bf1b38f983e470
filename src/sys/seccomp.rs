//! Installing a seccomp filter (seccomp(2)).

use std::io;

use nix::errno::Errno;
use seccompiler::BpfProgramRef;

/// Puts all threads of the process under `filter`, and those that they will start. It stays for the life
/// of the process. Threads may gain no privilege any more by starting a program.
///
/// Before Linux 5.16 a filter also switched off speculative store bypass, which costs every thread some
/// percent; we ask for it to be left alone, for we run nobody else's code.
///
/// # Errors
/// The kernel's refusal: `EINVAL` or `ENOSYS` where it has no filters.
pub fn apply(filter: BpfProgramRef<'_>) -> io::Result<()> {
    nix::sys::prctl::set_no_new_privs()?;
    let program = libc::sock_fprog {
        len: u16::try_from(filter.len()).map_err(io::Error::other)?,
        filter: filter.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    let all = libc::SECCOMP_FILTER_FLAG_TSYNC;
    let install = |flags: libc::c_ulong| {
        // SAFETY: the kernel copies `len` instructions from `filter`, which is a slice of that length,
        // borrowed for the call; seccompiler's `sock_filter` is the C struct (`repr(C)`, the same four
        // fields). The kernel checks the program and writes nothing.
        let result = unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program)
        };
        Errno::result(result)
    };
    match install(all | libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW) {
        // Kernels before 4.17 do not know the second flag.
        Err(Errno::EINVAL) => install(all),
        outcome => outcome,
    }
    .map_err(io::Error::from)
    .and_then(|thread| match thread {
        0 => Ok(()),
        thread => Err(io::Error::other(format!("thread {thread} has a filter of its own"))),
    })
}
