//! Anonymous network namespaces, held by file descriptor. Nothing is created under `/run/netns`, and the kernel
//! removes a namespace with its devices when the last holder is gone, however the process ended. Only individual
//! threads enter a namespace; the process stays in its own.
//!
//! Nothing here is unsafe. The module is in `sys` because the namespace is a property of the operating system
//! thread, not of a value; this module confines such changes to new threads.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::panic;
use std::path::Path;
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{getgid, getuid};

/// Path to the network namespace of the thread that opens it (`proc(5)`).
const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";

/// Capability numbers (`linux/capability.h`).
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;

/// A handle to a network namespace. The kernel removes the namespace when the last handle is dropped and no thread
/// is inside.
#[derive(Debug)]
pub struct Namespace {
    handle: OwnedFd,
}

impl Namespace {
    /// Creates a namespace with only a loopback device, which is down.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_ADMIN` in the thread's user namespace (see [`become_root_of_user_namespace`]),
    /// `ENOSPC` if `user.max_net_namespaces` is exceeded.
    pub fn create() -> io::Result<Namespace> {
        thread::scope(|scope| {
            let maker = thread::Builder::new().name("netns".into()).spawn_scoped(scope, || {
                unshare(CloneFlags::CLONE_NEWNET)?;
                Namespace::current()
            })?;
            maker.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
        })
    }

    /// Returns the namespace of the calling thread.
    ///
    /// # Errors
    /// `/proc` is not mounted, or the process is out of descriptors.
    pub fn current() -> io::Result<Namespace> {
        Namespace::open(Path::new(OWN_NAMESPACE))
    }

    /// Opens a namespace by path, such as `/run/netns/NAME` or `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// The path cannot be opened. Whether it is a network namespace is only checked on first use.
    pub fn open(path: &Path) -> io::Result<Namespace> {
        Ok(Namespace { handle: File::open(path)?.into() })
    }

    /// Moves the calling thread into this namespace. Threads and processes it starts afterwards inherit the
    /// namespace.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_ADMIN`, `EINVAL` if this is not a network namespace.
    pub fn enter(&self) -> io::Result<()> {
        Ok(setns(self, CloneFlags::CLONE_NEWNET)?)
    }

    /// Runs `work` in the namespace on a new thread and returns its result. A panic in `work` resumes in the
    /// caller. Sockets and devices opened by `work` stay in this namespace wherever they are used later.
    ///
    /// # Errors
    /// The thread cannot be started or cannot enter the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let visitor = thread::Builder::new().name("in-netns".into()).spawn_scoped(scope, || {
                self.enter()?;
                Ok(work())
            })?;
            visitor.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
        })
    }

    /// Starts a thread named `name` in the namespace. Its result is an error if it could not enter.
    ///
    /// # Errors
    /// The thread cannot be started, or the handle cannot be duplicated for it.
    pub fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<JoinHandle<io::Result<T>>> {
        let inside = self.try_clone()?;
        thread::Builder::new().name(name.into()).spawn(move || {
            inside.enter()?;
            Ok(work())
        })
    }

    /// Duplicates the handle.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub fn try_clone(&self) -> io::Result<Namespace> {
        Ok(Namespace { handle: self.handle.try_clone()? })
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

impl AsRawFd for Namespace {
    fn as_raw_fd(&self) -> RawFd {
        self.handle.as_raw_fd()
    }
}

/// Returns whether this thread may create network namespaces and devices in them: whether `CAP_SYS_ADMIN` and
/// `CAP_NET_ADMIN` are both in its effective set.
///
/// # Errors
/// `/proc` is not mounted.
pub fn may_administer() -> io::Result<bool> {
    let status = fs::read_to_string("/proc/thread-self/status")?;
    Ok(effective_capabilities(&status)
        .is_some_and(|set| set >> CAP_NET_ADMIN & 1 == 1 && set >> CAP_SYS_ADMIN & 1 == 1))
}

/// Moves the process into a new user namespace as root, so that it may create network namespaces. It stays in its
/// current network namespace and keeps its identity for file access.
///
/// Must be called while the process has a single thread: otherwise the kernel refuses (`user_namespaces(7)`).
///
/// # Errors
/// `EPERM` or `ENOSPC` if the system does not permit users to do this, `EINVAL` with more than one thread.
pub fn become_root_of_user_namespace() -> io::Result<()> {
    let (user, group) = (getuid(), getgid());
    unshare(CloneFlags::CLONE_NEWUSER)?;
    // An unprivileged process may map its group only after setgroups(2) is denied.
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))
}

/// Parses the `CapEff` line of a `/proc/PID/status`.
fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn the_effective_set_is_read_from_proc() {
        let status = "Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t0000000000201000\n";
        assert_eq!(effective_capabilities(status), Some(1 << CAP_SYS_ADMIN | 1 << CAP_NET_ADMIN));
        assert_eq!(effective_capabilities("Name:\tx\n"), None);
        assert!(may_administer().is_ok());
    }

    /// Requires root; `LANEWAY_SKIP_NETNS=1` skips it, as for every test that needs namespaces.
    #[test]
    fn work_runs_inside_and_the_caller_stays_outside() {
        if std::env::var_os("LANEWAY_SKIP_NETNS").is_some_and(|skip| skip == "1") {
            return;
        }
        let outside = inode(&Namespace::current().unwrap());
        let namespace = Namespace::create().expect("run as root, or set LANEWAY_SKIP_NETNS=1");
        assert_ne!(inode(&namespace), outside);

        let inside = namespace.run(|| inode(&Namespace::current().unwrap())).unwrap();
        assert_eq!(inside, inode(&namespace));
        assert_eq!(inode(&Namespace::current().unwrap()), outside);

        let thread = namespace.spawn("visitor", || inode(&Namespace::current().unwrap())).unwrap();
        assert_eq!(thread.join().unwrap().unwrap(), inside);

        // Loopback is down in a new namespace: a listener binds but is unreachable.
        let refused = namespace.run(|| {
            let listener = TcpListener::bind("0.0.0.0:0").unwrap();
            std::net::TcpStream::connect(("127.0.0.1", listener.local_addr().unwrap().port())).is_err()
        });
        assert!(refused.unwrap());
    }

    fn inode(namespace: &Namespace) -> u64 {
        nix::sys::stat::fstat(namespace).unwrap().st_ino
    }
}
