//! Seccomp filter that allows only the system calls of a running router. All others fail with `ENOSYS`, as on
//! a kernel that lacks them, because libraries have fallbacks for that.
//!
//! The process can no longer execute programs, load code, fork, mount file systems or inspect other processes,
//! and opens only IP, UNIX and routing sockets. Since
//! Linux 5.11 the kernel caches decisions that depend only on the call's number, so the cost on the data path
//! is about 10 to 100 ns for each call, which moves up to 64 KiB.

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};

use crate::sys::{names, seccomp, tun};

/// Errors when installing the filter.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The filter cannot be built for this processor architecture.
    #[error("cannot build the system call filter for this processor: {0}")]
    Build(#[from] seccompiler::BackendError),
    /// The kernel refuses the filter.
    #[error("cannot install the system call filter: {0}")]
    Install(#[from] io::Error),
}

/// System calls allowed with any arguments.
#[rustfmt::skip]
const ALLOWED: &[libc::c_long] = &[
    // The data path.
    libc::SYS_read, libc::SYS_readv, libc::SYS_write, libc::SYS_writev, libc::SYS_recvmmsg,
    libc::SYS_sendmsg, libc::SYS_ppoll, libc::SYS_futex, libc::SYS_clock_gettime,
    // Sockets: UDP on a new port, netlink, HTTP, the UAPI socket, name servers.
    libc::SYS_bind, libc::SYS_connect, libc::SYS_listen,
    libc::SYS_accept, libc::SYS_accept4, libc::SYS_getsockname, libc::SYS_getpeername,
    libc::SYS_getsockopt, libc::SYS_setsockopt, libc::SYS_sendto, libc::SYS_recvfrom,
    libc::SYS_recvmsg, libc::SYS_sendmmsg, libc::SYS_shutdown,
    // Waiting and time.
    libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2, libc::SYS_pipe2, libc::SYS_pselect6, libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep, libc::SYS_clock_getres, libc::SYS_gettimeofday,
    libc::SYS_restart_syscall, libc::SYS_sched_yield,
    // Files: configuration and keys on SIGHUP, /proc and /sys for metrics, name service, backtraces, and
    // removal of the UAPI socket's file when the router stops.
    libc::SYS_openat, libc::SYS_close, libc::SYS_close_range, libc::SYS_pread64, libc::SYS_lseek,
    libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx, libc::SYS_statfs, libc::SYS_fstatfs,
    libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_readlinkat, libc::SYS_getdents64,
    libc::SYS_getcwd, libc::SYS_unlinkat, libc::SYS_fcntl, libc::SYS_dup,
    libc::SYS_dup3,
    // The state for a successor that takes over.
    libc::SYS_memfd_create, libc::SYS_pwrite64, libc::SYS_ftruncate,
    // Memory. mmap(2) and mprotect(2) are handled in `filter`.
    libc::SYS_munmap, libc::SYS_mremap, libc::SYS_madvise,
    libc::SYS_brk, libc::SYS_membarrier, libc::SYS_getrandom,
    // Threads: name lookups, changes of the interface. clone(2), which creates them, is handled in `filter`.
    libc::SYS_exit, libc::SYS_exit_group, libc::SYS_set_robust_list, libc::SYS_rseq,
    libc::SYS_set_tid_address, libc::SYS_prctl, libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity, libc::SYS_gettid, libc::SYS_getpid, libc::SYS_getppid,
    libc::SYS_tgkill, libc::SYS_tkill, libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn, libc::SYS_sigaltstack,
    // Queries about the process and the system.
    libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getegid, libc::SYS_capget,
    libc::SYS_prlimit64, libc::SYS_getrusage, libc::SYS_uname, libc::SYS_sysinfo,
];

/// Address families of sockets. Netlink sockets may only be for routing: others, such as those for packet
/// filters or for sockets of other processes, could use the capability that a router keeps.
const FAMILIES: [libc::c_int; 3] = [libc::AF_INET, libc::AF_INET6, libc::AF_UNIX];

/// Requests of ioctl(2): what the standard library and the C library use for sockets, terminals and scopes of
/// addresses. A TUN is set up before the filter is in force; what remains is whether it outlives the
/// process, and where it was moved to.
const REQUESTS: [libc::Ioctl; 9] = [
    libc::FIONBIO,
    libc::FIONREAD,
    libc::TCGETS,
    libc::TIOCGWINSZ,
    libc::SIOCGIFINDEX as libc::Ioctl,
    libc::SIOCGIFNAME as libc::Ioctl,
    libc::TUNSETPERSIST as libc::Ioctl,
    libc::TUNGETIFF as libc::Ioctl,
    tun::GET_NAMESPACE,
];

/// Older forms of these calls, which only x86-64 has.
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

/// Blocks all other system calls for all threads of the process, for good.
///
/// # Errors
/// See [`FilterError`]. No call is blocked then.
pub fn restrict() -> Result<(), FilterError> {
    names::load_modules();
    Ok(seccomp::apply(&filter()?)?)
}

fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    let allowed = ALLOWED.iter().chain(ALLOWED_HERE);
    // A call without rules is allowed with any arguments.
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = allowed.map(|call| (*call, Vec::new())).collect();
    // Allow new threads, but not new processes. A filter cannot read the flags of clone3(2), which are in
    // memory, so clone3(2) fails and the C library falls back to clone(2), whose first argument holds the
    // flags.
    let threads = libc::CLONE_THREAD as u64;
    let makes_a_thread =
        SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(threads), threads)?;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![makes_a_thread])?]);
    let is = |argument, value: u64| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
    };
    let mut sockets = Vec::new();
    for family in FAMILIES {
        sockets.push(SeccompRule::new(vec![is(0, family.cast_unsigned().into())?])?);
    }
    let route = vec![is(0, libc::AF_NETLINK as u64)?, is(2, libc::NETLINK_ROUTE as u64)?];
    sockets.push(SeccompRule::new(route)?);
    rules.insert(libc::SYS_socket, sockets);
    rules.insert(libc::SYS_socketpair, vec![SeccompRule::new(vec![is(0, libc::AF_UNIX as u64)?])?]);
    let requests =
        REQUESTS.into_iter().map(|request| SeccompRule::new(vec![is(1, u64::from(request as u32))?]));
    rules.insert(libc::SYS_ioctl, requests.collect::<Result<_, _>>()?);
    // No new code.
    let executable = libc::PROT_EXEC as u64;
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let operator = SeccompCmpOp::MaskedEq(executable);
        let data = SeccompCondition::new(2, SeccompCmpArgLen::Dword, operator, 0)?;
        rules.insert(call, vec![SeccompRule::new(vec![data])?]);
    }
    let missing = SeccompAction::Errno(libc::ENOSYS as u32);
    SeccompFilter::new(rules, missing, SeccompAction::Allow, std::env::consts::ARCH.try_into()?)?.try_into()
}
