//! A `laneway IFNAME` in the background, where nobody holds its process.

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

/// A router that was left behind by a command that has ended.
#[derive(Debug)]
pub struct Background {
    /// Its TUN device.
    pub device: String,
    pid: Pid,
}

/// Runs `laneway` with these arguments until the command ends. What it leaves in the background becomes a
/// child of the test's, so that [`Background`] can wait for it.
pub fn run(side: &Side, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    adopt_orphans();
    command(side, arguments, environment).output().expect("start laneway")
}

/// From now on, processes whose parents end become children of this one.
pub fn adopt_orphans() {
    prctl::set_child_subreaper(true).expect("Linux has had subreapers since 3.4");
}

impl Background {
    /// The process that serves the control socket of `device`, which must be there already.
    ///
    /// # Panics
    /// When nobody serves it.
    pub fn find(device: &str) -> Background {
        let socket = UnixStream::connect(control_socket(device)).expect("the control socket is there");
        let server = getsockopt(&socket, PeerCredentials).expect("the kernel knows who listens");
        Background { device: device.to_owned(), pid: Pid::from_raw(server.pid()) }
    }

    /// Its process id.
    pub fn id(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When it is gone.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid, signal).unwrap_or_else(|error| panic!("{signal} to {}: {error}", self.pid));
    }

    /// Waits for its end and returns the exit status, `None` if a signal ended it.
    ///
    /// # Panics
    /// When it is still running after the deadline, or is no child of this process.
    pub fn wait(&self) -> Option<i32> {
        let mut status = None;
        wait_until("the end of a process in the background", || {
            status = match waitpid(self.pid, Some(WaitPidFlag::WNOHANG)).expect("it is our child") {
                WaitStatus::Exited(_, code) => Some(Some(code)),
                WaitStatus::Signaled(..) => Some(None),
                _ => None,
            };
            status.is_some()
        });
        status.flatten()
    }

    /// The file that its descriptor `number` is open on.
    pub fn descriptor(&self, number: u8) -> String {
        let link = fs::read_link(format!("/proc/{}/fd/{number}", self.pid)).expect("an open descriptor");
        link.to_string_lossy().into_owned()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // One that has ended has been waited for, or has been forgotten by a test that fails anyway.
        if waitpid(self.pid, Some(WaitPidFlag::WNOHANG)) == Ok(WaitStatus::StillAlive) {
            let _ = kill(self.pid, Signal::SIGTERM);
            let _ = waitpid(self.pid, None);
        }
    }
}
