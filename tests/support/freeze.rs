//! Stops single threads of other processes, as if they were stuck.

use std::fs;

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::process::Process;
use super::wait_until;

/// A thread that is stopped until drop. A tracer can stop a single thread, which no signal can.
pub struct Stopped(Pid);

impl Stopped {
    /// Stops the thread of this name.
    ///
    /// # Panics
    /// If there is no such thread, or it cannot be traced.
    pub fn new(process: &Process, name: &str) -> Stopped {
        let thread = thread(process, name);
        ptrace::seize(thread, ptrace::Options::empty()).unwrap();
        ptrace::interrupt(thread).unwrap();
        waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
        Stopped(thread)
    }

    /// Waits until the process exits with the thread still stopped: a process does not exit before the tracers of
    /// its threads have collected their exit status. Not for the main thread, whose exit status is the process's.
    ///
    /// # Panics
    /// If it does not exit before the deadline.
    pub fn wait_for_end(self) {
        wait_until("a stopped thread to exit", || {
            match waitpid(self.0, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)).unwrap() {
                WaitStatus::StillAlive | WaitStatus::PtraceEvent(..) => false,
                WaitStatus::Exited(..) | WaitStatus::Signaled(..) => true,
                other => panic!("{other:?}"),
            }
        });
        self.forget();
    }

    /// Forgets a thread that has exited.
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

/// Returns the thread id of a thread of the process.
fn thread(process: &Process, name: &str) -> Pid {
    let tasks = fs::read_dir(format!("/proc/{}/task", process.id())).unwrap();
    // Other threads may exit meanwhile.
    let is_it = |task: &fs::DirEntry| {
        fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
    };
    let task = tasks.map(Result::unwrap).find(is_it).unwrap_or_else(|| panic!("no thread is called {name}"));
    Pid::from_raw(task.file_name().to_str().unwrap().parse().unwrap())
}
