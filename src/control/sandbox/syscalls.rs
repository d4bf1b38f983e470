//! The system calls that a running router makes. The kernel answers all others with `ENOSYS`, as if it did
//! not have them, because libraries know how to do without a call that a kernel lacks.
//!
//! No program can be started, no process forked, no file system mounted, no other process looked into. The
//! kernel keeps the answers that depend on a call's number alone (Linux 5.11), so the data path pays little:
//! some ten nanoseconds up to a hundred for each call, which moves up to 64 KiB.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use crate::sys::seccomp;

/// Why the filter is not in force.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// There is none for this processor.
    #[error("there is no system call filter for this processor: {0}")]
    Build(#[from] seccompiler::BackendError),
    /// The kernel does not take it.
    #[error("the kernel refuses the system call filter: {0}")]
    Install(#[from] io::Error),
}

/// What is allowed whatever the arguments are.
#[rustfmt::skip]
const ALLOWED: &[libc::c_long] = &[
    // The data path.
    libc::SYS_read, libc::SYS_readv, libc::SYS_write, libc::SYS_writev, libc::SYS_recvmmsg,
    libc::SYS_sendmsg, libc::SYS_ppoll, libc::SYS_futex, libc::SYS_clock_gettime,
    // Sockets: UDP anew on another port, netlink, HTTP, the control socket, name servers.
    libc::SYS_socket, libc::SYS_socketpair, libc::SYS_bind, libc::SYS_connect, libc::SYS_listen,
    libc::SYS_accept, libc::SYS_accept4, libc::SYS_getsockname, libc::SYS_getpeername,
    libc::SYS_getsockopt, libc::SYS_setsockopt, libc::SYS_sendto, libc::SYS_recvfrom,
    libc::SYS_recvmsg, libc::SYS_sendmmsg, libc::SYS_shutdown,
    // Waiting and time.
    libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2, libc::SYS_pipe2, libc::SYS_pselect6, libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep, libc::SYS_clock_getres, libc::SYS_gettimeofday,
    libc::SYS_restart_syscall, libc::SYS_sched_yield,
    // Files: the configuration and keys on SIGHUP, /proc and /sys for metrics, name service, backtraces;
    // the control socket's file at the end.
    libc::SYS_openat, libc::SYS_close, libc::SYS_close_range, libc::SYS_pread64, libc::SYS_lseek,
    libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx, libc::SYS_statfs, libc::SYS_fstatfs,
    libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_readlinkat, libc::SYS_getdents64,
    libc::SYS_getcwd, libc::SYS_unlinkat, libc::SYS_fcntl, libc::SYS_ioctl, libc::SYS_dup,
    libc::SYS_dup3,
    // Memory.
    libc::SYS_mmap, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_mprotect, libc::SYS_madvise,
    libc::SYS_brk, libc::SYS_membarrier, libc::SYS_getrandom,
    // Threads: name look-ups, changes of the interface. They are made by clone(2), see below.
    libc::SYS_exit, libc::SYS_exit_group, libc::SYS_set_robust_list, libc::SYS_rseq,
    libc::SYS_set_tid_address, libc::SYS_prctl, libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity, libc::SYS_gettid, libc::SYS_getpid, libc::SYS_getppid,
    libc::SYS_tgkill, libc::SYS_tkill, libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn, libc::SYS_sigaltstack,
    // What it may ask about itself and the system.
    libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getegid, libc::SYS_capget,
    libc::SYS_prlimit64, libc::SYS_getrusage, libc::SYS_uname, libc::SYS_sysinfo,
];

/// Older forms of the calls above that only this processor has.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const ALLOWED_HERE: &[libc::c_long] = &[
    libc::SYS_open, libc::SYS_stat, libc::SYS_lstat, libc::SYS_access, libc::SYS_readlink,
    libc::SYS_getdents, libc::SYS_unlink, libc::SYS_dup2, libc::SYS_pipe, libc::SYS_poll,
    libc::SYS_select, libc::SYS_epoll_create, libc::SYS_epoll_wait, libc::SYS_eventfd, libc::SYS_time,
    libc::SYS_getrlimit, libc::SYS_arch_prctl,
];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[libc::c_long] = &[];

/// Takes all other system calls from all threads, for ever.
///
/// # Errors
/// See [`FilterError`]; nothing has changed then.
pub fn restrict() -> Result<(), FilterError> {
    Ok(seccomp::apply(&filter()?)?)
}

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let allowed = ALLOWED.iter().chain(ALLOWED_HERE);
    // No rules: allowed whatever the arguments are.
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = allowed.map(|call| (*call, Vec::new())).collect();
    // Threads, not processes. Of clone3(2) a filter cannot see what it is asked for, so it is not there, and
    // the C library falls back on clone(2), whose first argument says.
    let threads = libc::CLONE_THREAD as u64;
    let makes_a_thread =
        SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(threads), threads)?;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![makes_a_thread])?]);
    let missing = SeccompAction::Errno(libc::ENOSYS as u32);
    SeccompFilter::new(rules, missing, SeccompAction::Allow, std::env::consts::ARCH.try_into()?)?.try_into()
}
