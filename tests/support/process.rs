//! Programs inside a namespace of the lab.
//!
//! A program is started through `nsenter` on a path to the namespace's descriptor in this process, so the
//! namespace needs no name. `nsenter` and `setpriv` replace themselves, so the process that we started is the
//! program itself; the kernel kills it when the test ends in a way that runs no destructor.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use laneway::netns::Namespace;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::wait_until;

/// The programs of others that tests run, and the Debian packages that have them.
const PACKAGES: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("ping", "iputils-ping"),
    ("prometheus", "prometheus"),
    ("setpriv", "util-linux"),
    ("wg", "wireguard-tools"),
    ("wg-quick", "wireguard-tools"),
    ("wireguard-go", "wireguard-go"),
];

/// A command that will run `program` inside `namespace`.
///
/// # Panics
/// When a program is not installed; the message says how to get it.
pub fn command_in(namespace: &Namespace, program: impl AsRef<OsStr>) -> Command {
    for needed in [OsStr::new("setpriv"), OsStr::new("nsenter"), program.as_ref()] {
        require_tool(needed);
    }
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
    attempt(namespace, words, input).unwrap_or_else(|said| panic!("{words:?}: {said}"))
}

/// The same for a command that may fail.
///
/// # Errors
/// It failed: what it said.
///
/// # Panics
/// When it cannot be started.
pub fn attempt(namespace: &Namespace, words: &[&str], input: &str) -> Result<String, String> {
    let (program, arguments) = words.split_first().expect("a program");
    let mut child = command_in(namespace, program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{words:?}: {error}"));
    // A command that fails may leave its input unread; its exit status says what counts.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    let done = child.wait_with_output().expect("wait for a child");
    if !done.status.success() {
        return Err(format!("{} and {}", done.status, String::from_utf8_lossy(&done.stderr)));
    }
    Ok(String::from_utf8(done.stdout).expect("text"))
}

/// # Panics
/// When `program`, if it is a bare name, is nowhere in the search path.
fn require_tool(program: &OsStr) {
    let name = program.to_string_lossy();
    let path = std::env::var_os("PATH").unwrap_or_default();
    if !name.contains('/') && !std::env::split_paths(&path).any(|folder| folder.join(program).exists()) {
        let package = PACKAGES.iter().find(|(tool, _)| *tool == name).map_or(&*name, |(_, package)| package);
        panic!("this test runs the program {name}, which is not installed: apt-get install {package}");
    }
}

/// A program that runs until it is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// Where its standard error goes, if it is kept.
    errors: Option<File>,
}

impl Process {
    /// Starts `command`.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(command: &mut Command) -> Process {
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Process { child, errors: None }
    }

    /// Starts `command`, and keeps what it says on standard error for [`said`](Self::said).
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_quietly(command: &mut Command) -> Process {
        let file = File::from(memfd_create("stderr", MFdFlags::MFD_CLOEXEC).expect("memory"));
        let errors = file.try_clone().expect("a descriptor");
        let mut process = Process::start(command.stderr(file));
        process.errors = Some(errors);
        process
    }

    /// What it has said on standard error so far.
    pub fn said(&self) -> String {
        // The program writes through the same open file, so it is read by position, not by seeking.
        let path = self.errors.as_ref().map(|file| format!("/proc/self/fd/{}", file.as_raw_fd()));
        let text = path.map(|path| std::fs::read(Path::new(&path)).expect("read what a program said"));
        String::from_utf8_lossy(&text.unwrap_or_default()).into_owned()
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
        for _ in 0..500 {
            if !self.is_running() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
