//! Threads of other processes that stand still, as one does that waits for what never comes.

use std::fs;

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::process::Process;
use super::wait_until;

/// A thread of a process that stands still until this is dropped. A tracer can stop one thread, which no
/// signal can.
pub struct Stopped(Pid);

impl Stopped {
    /// Stops the thread of this name.
    ///
    /// # Panics
    /// When there is none, or it cannot be traced.
    pub fn new(process: &Process, name: &str) -> Stopped {
        let thread = thread(process, name);
        ptrace::seize(thread, ptrace::Options::empty()).unwrap();
        ptrace::interrupt(thread).unwrap();
        waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
        Stopped(thread)
    }

    /// Waits until the process ends with the thread still in it: a process is not over before whoever traces its
    /// threads has heard of their end. Not for the first thread, whose end is the process's.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn wait_for_end(self) {
        wait_until("the end of a thread that stands still", || {
            match waitpid(self.0, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)).unwrap() {
                WaitStatus::StillAlive | WaitStatus::PtraceEvent(..) => false,
                WaitStatus::Exited(..) | WaitStatus::Signaled(..) => true,
                other => panic!("{other:?}"),
            }
        });
        self.forget();
    }

    /// The thread is gone.
    pub fn forget(self) {
        std::mem::forget(self);
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let detached = ptrace::detach(self.0, None);
        assert!(detached.is_ok() || std::thread::panicking(), "{detached:?}");
    }
}

/// The kernel's number for a thread of the process.
fn thread(process: &Process, name: &str) -> Pid {
    let tasks = fs::read_dir(format!("/proc/{}/task", process.id())).unwrap();
    // Another thread may end meanwhile.
    let is_it = |task: &fs::DirEntry| {
        fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
    };
    let task = tasks.map(Result::unwrap).find(is_it).unwrap_or_else(|| panic!("no thread is called {name}"));
    Pid::from_raw(task.file_name().to_str().unwrap().parse().unwrap())
}
