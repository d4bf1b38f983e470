//! A `laneway IFNAME` in the background, which is no child of the command that started it.

use std::fs;
use std::os::unix::net::UnixStream;
use std::process::Output;

use laneway::cli::demo::lab::Side;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::binary::command;
use super::wait_until;
use super::wg::control_socket;

/// A router in the background whose command has exited.
#[derive(Debug)]
pub struct Background {
    /// Its TUN device.
    pub device: String,
    pid: Pid,
}

/// Runs `laneway` with these arguments until the command exits. The router that it leaves in the background
/// becomes a child of the test process, so that [`Background`] can wait for it.
pub fn run(side: &Side, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    adopt_orphans();
    command(side, arguments, environment).output().expect("start laneway")
}

/// Makes this process the parent of orphaned descendants.
pub fn adopt_orphans() {
    prctl::set_child_subreaper(true).expect("Linux has had subreapers since 3.4");
}

impl Background {
    /// Returns the process that serves the existing control socket of `device`.
    ///
    /// # Panics
    /// If nothing serves the socket.
    pub fn find(device: &str) -> Background {
        Self::try_find(device).expect("a process serves the control socket")
    }

    /// Returns the process that serves the control socket of `device`, or `None` if nothing does.
    pub fn try_find(device: &str) -> Option<Background> {
        let socket = UnixStream::connect(control_socket(device)).ok()?;
        let server = getsockopt(&socket, PeerCredentials).expect("the kernel knows who listens");
        Some(Background { device: device.to_owned(), pid: Pid::from_raw(server.pid()) })
    }

    /// Returns its process id.
    pub fn id(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// If the process has exited.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid, signal).unwrap_or_else(|error| panic!("{signal} to {}: {error}", self.pid));
    }

    /// Waits for its exit and returns the status, or `None` if a signal terminated it.
    ///
    /// # Panics
    /// If it is still running after the deadline, or is not a child of this process.
    pub fn wait(&self) -> Option<i32> {
        let mut status = None;
        wait_until("a background process to exit", || {
            status = match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)).expect("a child of this process") {
                WaitStatus::Exited(_, code) => Some(Some(code)),
                WaitStatus::Signaled(..) => Some(None),
                _ => None,
            };
            status.is_some()
        });
        status.flatten()
    }

    /// Returns the path that its descriptor `number` refers to.
    pub fn descriptor(&self, number: u8) -> String {
        let link = fs::read_link(format!("/proc/{}/fd/{number}", self.pid)).expect("an open descriptor");
        link.to_string_lossy().into_owned()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // If it has exited, either `wait` reaped it or the test is failing anyway.
        if waitpid(self.pid, Some(WaitPidFlag::WNOHANG)) == Ok(WaitStatus::StillAlive) {
            let _ = kill(self.pid, Signal::SIGTERM);
            let _ = waitpid(self.pid, None);
        }
    }
}
