//! Programs inside a namespace of the lab.
//!
//! A program is started through `nsenter` on a path to the namespace's descriptor in this process, so the
//! namespace needs no name. `nsenter` and `setpriv` replace themselves, so the process that we started is the
//! program itself; the kernel kills it when the test ends in a way that runs no destructor.

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use laneway::sys::netns::Namespace;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::wait_until;

/// A command that will run `program` inside `namespace`.
pub fn command_in(namespace: &Namespace, program: impl AsRef<OsStr>) -> Command {
    let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "nsenter"]).arg(format!("--net={path}")).arg("--").arg(program);
    command
}

/// Runs a short command inside `namespace` with `input` on its standard input, and returns what it printed.
///
/// # Panics
/// When it cannot be started or fails; the message holds what it said.
pub fn output(namespace: &Namespace, words: &[&str], input: &str) -> String {
    let (program, arguments) = words.split_first().expect("a program");
    let mut child = command_in(namespace, program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{words:?}: {error} (are util-linux and {program} installed?)"));
    let written = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    let done = child.wait_with_output().expect("wait for a child");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{words:?} ended with {}: {said}", done.status);
    written.unwrap_or_else(|error| panic!("{words:?} did not read its input: {error}"));
    String::from_utf8(done.stdout).expect("text")
}

/// A program that runs until it is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts `command`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Process {
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Process { child }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("ask for a child").is_none()
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When it has been waited for already.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, signal).unwrap_or_else(|error| panic!("{signal} to {pid}: {error}"));
    }

    /// Waits for its end and returns the exit status, `None` if a signal ended it.
    ///
    /// # Panics
    /// When it is still running after the deadline.
    pub fn wait(&mut self) -> Option<i32> {
        wait_until("the end of a process", || !self.is_running());
        self.child.wait().expect("wait for a child").code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.is_running() {
            return;
        }
        // A polite end first: programs remove their sockets then.
        self.signal(Signal::SIGTERM);
        for _ in 0..50 {
            if !self.is_running() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
