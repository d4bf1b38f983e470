//! Programs inside a namespace of the lab.
//!
//! `nsenter` enters the namespace through its descriptor in this process, so the namespace needs no name. `env`,
//! `setpriv` and `nsenter` each exec the next program, so the child's process id is that of the program itself.
//! `setpriv` has the kernel kill the program if the test ends without running destructors. `env` resets the signals
//! that a shell's `&` or `nohup` ignores (SIGINT, SIGQUIT, SIGHUP): an exec keeps an ignored signal ignored.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use laneway::netns::Namespace;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::wait_until;

/// The external programs that tests run, with their Debian packages.
const PACKAGES: &[(&str, &str)] = &[
    ("curl", "curl"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("nstat", "iproute2"),
    ("nsenter", "util-linux"),
    ("ping", "iputils-ping"),
    ("prlimit", "util-linux"),
    ("prometheus", "prometheus"),
    ("setpriv", "util-linux"),
    ("unshare", "util-linux"),
    ("wg", "wireguard-tools"),
    ("wg-quick", "wireguard-tools"),
    ("wireguard-go", "wireguard-go"),
];

/// Returns a command that runs `program` inside `namespace`.
///
/// # Panics
/// If a program is not installed; the message names the package.
pub fn command_in(namespace: &Namespace, program: impl AsRef<OsStr>) -> Command {
    for needed in [OsStr::new("setpriv"), OsStr::new("nsenter"), program.as_ref()] {
        require_tool(needed);
    }
    let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
    let mut command = Command::new("env");
    command.args(["--default-signal=INT,QUIT,HUP", "setpriv", "--pdeathsig", "KILL", "nsenter"]);
    command.arg(format!("--net={path}")).arg("--").arg(program);
    command
}

/// Runs a command inside `namespace` with `input` on its standard input, and returns its output.
///
/// # Panics
/// If it cannot be started or fails; the message contains its stderr.
pub fn output(namespace: &Namespace, words: &[&str], input: &str) -> String {
    attempt(namespace, words, input).unwrap_or_else(|said| panic!("{words:?}: {said}"))
}

/// Like [`output`], for a command that may fail.
///
/// # Errors
/// Its exit status and stderr if it fails.
///
/// # Panics
/// If it cannot be started.
pub fn attempt(namespace: &Namespace, words: &[&str], input: &str) -> Result<String, String> {
    let (program, arguments) = words.split_first().expect("a program");
    let mut child = command_in(namespace, program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{words:?}: {error}"));
    // A command that fails may leave its input unread; only its exit status counts.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    let done = child.wait_with_output().expect("wait for a child");
    if !done.status.success() {
        return Err(format!("{} and {}", done.status, String::from_utf8_lossy(&done.stderr)));
    }
    Ok(String::from_utf8(done.stdout).expect("text"))
}

/// # Panics
/// If `program` is a bare name that is not in `PATH`.
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
    /// The file that captures its standard error, if any.
    errors: Option<File>,
}

impl Process {
    /// Starts `command`.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(command: &mut Command) -> Process {
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Process { child, errors: None }
    }

    /// Starts `command`, and captures its standard error for [`said`](Self::said).
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_quietly(command: &mut Command) -> Process {
        let file = File::from(memfd_create("stderr", MFdFlags::MFD_CLOEXEC).expect("memory"));
        let errors = file.try_clone().expect("a descriptor");
        let mut process = Process::start(command.stderr(file));
        process.errors = Some(errors);
        process
    }

    /// Returns what it has written to standard error so far.
    pub fn said(&self) -> String {
        // The program shares the file offset, so this opens the file again rather than seek.
        let path = self.errors.as_ref().map(|file| format!("/proc/self/fd/{}", file.as_raw_fd()));
        let text = path.map(|path| std::fs::read(Path::new(&path)).expect("read captured stderr"));
        String::from_utf8_lossy(&text.unwrap_or_default()).into_owned()
    }

    /// Returns the pipe from its standard output, once, if it was started with one.
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Returns its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns its resident memory in KiB, now or (`VmHWM`) at its peak, by the field's name in `/proc/PID/status`.
    ///
    /// # Panics
    /// If it has ended.
    pub fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("it runs");
        let line = status.lines().find(|line| line.starts_with(field)).expect("a field of the kernel");
        line.split_whitespace().nth(1).and_then(|size| size.parse().ok()).expect("a size in kB")
    }

    /// Returns whether it is still running.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("query a child's status").is_none()
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// If its exit status has already been collected.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, signal).unwrap_or_else(|error| panic!("{signal} to {pid}: {error}"));
    }

    /// Waits for its exit and returns the status, or `None` if a signal terminated it.
    ///
    /// # Panics
    /// If it is still running after the deadline.
    pub fn wait(&mut self) -> Option<i32> {
        self.status().code()
    }

    /// Waits for its exit and returns the status.
    ///
    /// # Panics
    /// If it is still running after the deadline.
    pub fn status(&mut self) -> ExitStatus {
        wait_until("a process to exit", || !self.is_running());
        self.child.wait().expect("wait for a child")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.is_running() {
            return;
        }
        // SIGTERM first, so that programs remove their sockets.
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
