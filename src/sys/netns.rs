//! Network namespaces without names: a namespace is a file descriptor, so nothing stands under
//! `/run/netns`, and the kernel takes it and all its devices away when the last holder is gone, however the
//! process ended. Threads enter; the process as a whole stays where it was started.
//!
//! Nothing here is unsafe. It is in `sys` because which namespace a thread is in is a property of the
//! operating system's thread, not of a value, and this module keeps that to fresh threads.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::panic;
use std::path::Path;
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{getgid, getuid};

/// The namespace of the thread that opens this path (`proc(5)`).
const OWN_NAMESPACE: &str = "/proc/thread-self/ns/net";

/// Bit numbers of `linux/capability.h`.
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;

/// A network namespace, held open. Dropping the last holder, with no thread or process inside, ends it.
#[derive(Debug)]
pub struct Namespace {
    handle: OwnedFd,
}

impl Namespace {
    /// A new, empty namespace: one loopback device, down.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_ADMIN` in the thread's user namespace
    /// (see [`become_root_of_user_namespace`]), `ENOSPC` above `user.max_net_namespaces`.
    pub fn create() -> io::Result<Namespace> {
        thread::scope(|scope| {
            let maker = thread::Builder::new().name("netns".into()).spawn_scoped(scope, || {
                unshare(CloneFlags::CLONE_NEWNET)?;
                Namespace::current()
            })?;
            maker.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
        })
    }

    /// The namespace the calling thread is in.
    ///
    /// # Errors
    /// When `/proc` is not mounted or out of descriptors.
    pub fn current() -> io::Result<Namespace> {
        Namespace::open(Path::new(OWN_NAMESPACE))
    }

    /// A namespace that has a name, such as `/run/netns/NAME` or `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// When the path cannot be opened. That it is a network namespace shows on first use.
    pub fn open(path: &Path) -> io::Result<Namespace> {
        Ok(Namespace { handle: File::open(path)?.into() })
    }

    /// Moves the calling thread into this namespace for the rest of its life. Threads and processes that it
    /// starts afterwards begin there too.
    ///
    /// # Errors
    /// `EPERM` without `CAP_SYS_ADMIN`, `EINVAL` if this is no network namespace.
    pub fn enter(&self) -> io::Result<()> {
        Ok(setns(self, CloneFlags::CLONE_NEWNET)?)
    }

    /// Runs `work` inside on a fresh thread and returns what it returned. A panic in `work` goes on in the
    /// caller. Sockets and devices opened by `work` stay in this namespace wherever they are used later.
    ///
    /// # Errors
    /// When the thread cannot be started or cannot enter.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let visitor = thread::Builder::new().name("in-netns".into()).spawn_scoped(scope, || {
                self.enter()?;
                Ok(work())
            })?;
            visitor.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
        })
    }

    /// Starts a thread called `name` that lives inside. Its result is an error if it could not enter.
    ///
    /// # Errors
    /// When the thread cannot be started or the handle cannot be duplicated for it.
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

    /// One more holder of the same namespace.
    ///
    /// # Errors
    /// When out of descriptors.
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

/// Whether this thread may make network namespaces and devices in them: `CAP_SYS_ADMIN` and `CAP_NET_ADMIN`
/// are both in its effective set.
///
/// # Errors
/// When `/proc` is not mounted.
pub fn may_administer() -> io::Result<bool> {
    let status = fs::read_to_string("/proc/thread-self/status")?;
    Ok(effective_capabilities(&status)
        .is_some_and(|set| set >> CAP_NET_ADMIN & 1 == 1 && set >> CAP_SYS_ADMIN & 1 == 1))
}

/// Makes an ordinary user the root of a new user namespace, in which network namespaces may be made.
/// The process stays in the network namespace it is in, and keeps its identity towards files.
///
/// To be called while the process has one thread: the kernel refuses it afterwards (`user_namespaces(7)`).
///
/// # Errors
/// `EPERM` or `ENOSPC` where the system does not let users do this, `EINVAL` with more than one thread.
pub fn become_root_of_user_namespace() -> io::Result<()> {
    let (user, group) = (getuid(), getgid());
    unshare(CloneFlags::CLONE_NEWUSER)?;
    // An unprivileged process may map its group only after it has given up setgroups(2).
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1"))
}

/// The `CapEff` line of a `/proc/PID/status`.
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

    /// Root only; honours `LANEWAY_SKIP_NETNS=1` as every test that needs namespaces does.
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

        // Loopback is down in a new namespace: a listener binds, and nobody can reach it.
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
