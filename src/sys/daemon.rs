//! Forks a service into the background, with a parent that exits when the service is ready.
//!
//! The process forks while it has a single thread. The child continues in a new session and reports when it is
//! ready; the parent waits for that report and exits with status 0, or with the child's status if the child ended
//! before. The parent passes termination signals on to the child.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, fork, pipe2, setsid};

use super::signals;

/// Time limit in milliseconds for a child that was told to end; longer than the child's own limit.
const ENDS_WITHIN: u16 = 15_000;

/// Result of [`split`]: which of the two processes this is.
#[derive(Debug)]
pub enum Process {
    /// The foreground process, which the caller waits for.
    Parent(Parent),
    /// The background process.
    Child(Child),
}

/// The foreground process, waiting for the child to become ready.
#[derive(Debug)]
pub struct Parent {
    child: Pid,
    word: File,
}

/// The background process, until it reports that it is ready.
#[derive(Debug)]
pub struct Child {
    word: File,
}

/// Forks the process. The child leads a new session, so no terminal can end it. Signals must be blocked
/// ([`signals::hold`]): the parent passes them on, and the child handles its own.
///
/// # Errors
/// The process has other threads, which the child would lack, or the system cannot create a process.
pub fn split() -> io::Result<Process> {
    if fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("a process with several threads cannot go to the background"));
    }
    let (theirs, ours) = pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: after a fork with other threads running, the child must not use anything they may have locked,
    // such as the allocator. There are no other threads: the kernel has just listed only this one, and only
    // this one could start another.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Process::Parent(Parent { child, word: theirs.into() })),
        ForkResult::Child => {
            setsid()?;
            Ok(Process::Child(Child { word: ours.into() }))
        }
    }
}

impl Parent {
    /// Waits until the child is ready or has ended. Returns the status to exit with: 0 if the child is ready,
    /// otherwise the child's own. Termination signals are passed on to the child.
    ///
    /// # Errors
    /// The child was stopped before it was ready, was killed by a signal, or did not end when told to.
    pub fn wait(mut self) -> io::Result<u8> {
        self.await_word()?;
        // Reads the ready byte, or end of file if the child has ended.
        if self.word.read(&mut [0])? == 1 {
            return Ok(0);
        }
        loop {
            match waitpid(self.child, None) {
                Ok(WaitStatus::Exited(_, 0)) => {
                    return Err(io::Error::other("the background process was stopped before it was ready"));
                }
                Ok(WaitStatus::Exited(_, status)) => return Ok(status.cast_unsigned() as u8),
                Ok(WaitStatus::Signaled(_, signal, _)) => {
                    return Err(io::Error::other(format!(
                        "{signal} ended the background process before it was ready"
                    )));
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Waits until the pipe is readable, passing signals on to the child.
    fn await_word(&self) -> io::Result<()> {
        let signals = signals::queue()?;
        let mut patience = PollTimeout::NONE;
        loop {
            let mut events =
                [self.word.as_fd(), signals.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            match poll(&mut events, patience) {
                Ok(0) => {
                    return Err(io::Error::other(
                        "the background process was told to stop but did not end in time",
                    ));
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            if events[0].any() == Some(true) {
                return Ok(());
            }
            while let Some(signal) = signals.read_signal()? {
                // A terminal hangup does not concern a background process.
                if signal.ssi_signo != Signal::SIGHUP as u32 {
                    patience = PollTimeout::from(ENDS_WITHIN);
                    kill(self.child, Signal::SIGTERM)?;
                }
            }
        }
    }
}

impl Child {
    /// Reports readiness, which lets the parent exit. Replaces standard input with `/dev/null` and changes to the
    /// root directory. Unless `keep_output` is set, replaces standard output and error as well, so that a program
    /// reading them to the end does not block forever.
    ///
    /// # Errors
    /// `/dev/null` cannot be opened, or a system call failed.
    pub fn ready(mut self, keep_output: bool) -> io::Result<()> {
        let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        dup2_stdin(&null)?;
        if !keep_output {
            dup2_stdout(&null)?;
            dup2_stderr(&null)?;
        }
        // The current directory would keep its file system from being unmounted.
        chdir("/")?;
        // The parent may have exited, which is not an error.
        let _ = self.word.write_all(&[1]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;

    #[test]
    fn a_process_with_other_threads_is_not_forked() {
        let (end, wait) = mpsc::channel::<()>();
        let other = thread::spawn(move || wait.recv());
        let refusal = split().expect_err("there is another thread");
        assert!(refusal.to_string().contains("several threads"), "{refusal}");
        drop(end);
        assert!(other.join().unwrap().is_err());
    }
}
