//! Going to the background, as a command does that is done when its service is ready.
//!
//! The process forks while it has one thread. The child goes on in a session of its own and says when
//! it is ready; the parent waits for that word and ends with it, or with the status of a child that
//! ended before. A signal that asks the parent to end is meant for both.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, fork, pipe, setsid};

use super::signals;

/// How long a child that was told to end may take, in milliseconds: longer than it allows itself.
const ENDS_WITHIN: u16 = 15_000;

/// Which of the two processes this is.
#[derive(Debug)]
pub enum Process {
    /// The one that the caller waits for.
    Parent(Parent),
    /// The one that stays.
    Child(Child),
}

/// The process that waits until the other one is ready.
#[derive(Debug)]
pub struct Parent {
    child: Pid,
    word: File,
}

/// The process in the background, while somebody waits for it.
#[derive(Debug)]
pub struct Child {
    word: File,
}

/// Becomes two processes. The child is the leader of a new session, so no terminal can end it. Signals are to be
/// held back ([`signals::hold`]): the parent passes them on, and the child is to take them itself.
///
/// # Errors
/// The process has other threads, which the child would lack, or the system has no room for another
/// process.
pub fn split() -> io::Result<Process> {
    if fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(io::Error::other("a process with several threads cannot go to the background"));
    }
    let (theirs, ours) = pipe()?;
    // SAFETY: a forked child of a process with other threads must not use what one of them may have
    // locked, the allocator first of all. There are none: the kernel has just listed this thread
    // alone, and only this thread could start another.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Process::Parent(Parent { child, word: theirs.into() })),
        ForkResult::Child => {
            setsid()?;
            Ok(Process::Child(Child { word: ours.into() }))
        }
    }
}

impl Parent {
    /// Waits until the child is ready, or has ended without being: the status to exit with, which is 0 only if it
    /// is ready. If a signal asks this process to end, the child is told to.
    ///
    /// # Errors
    /// The child was stopped before it was ready, or ended by a signal.
    pub fn wait(mut self) -> io::Result<u8> {
        self.await_word()?;
        // Either the word comes, or the pipe's other end is closed by the child's end.
        if self.word.read(&mut [0])? == 1 {
            return Ok(0);
        }
        loop {
            match waitpid(self.child, None) {
                Ok(WaitStatus::Exited(_, 0)) => {
                    return Err(io::Error::other("it was stopped before it was ready"));
                }
                Ok(WaitStatus::Exited(_, status)) => return Ok(status.cast_unsigned() as u8),
                Ok(WaitStatus::Signaled(_, signal, _)) => {
                    return Err(io::Error::other(format!("{signal} ended it before it was ready")));
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Waits until the pipe can be read, and passes signals on meanwhile.
    fn await_word(&self) -> io::Result<()> {
        let signals = signals::queue()?;
        let mut patience = PollTimeout::NONE;
        loop {
            let mut events =
                [self.word.as_fd(), signals.as_fd()].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            match poll(&mut events, patience) {
                Ok(0) => return Err(io::Error::other("it was told to stop, and does not end")),
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            if events[0].any() == Some(true) {
                return Ok(());
            }
            while let Some(signal) = signals.read_signal()? {
                // A terminal that hangs up is no concern of a process in the background.
                if signal.ssi_signo != Signal::SIGHUP as u32 {
                    patience = PollTimeout::from(ENDS_WITHIN);
                    kill(self.child, Signal::SIGTERM)?;
                }
            }
        }
    }
}

impl Child {
    /// Lets the parent end. Standard input and the working directory are given up, and unless
    /// `keep_output` standard output and error too: whoever waits for the end of these would wait for ever.
    ///
    /// # Errors
    /// `/dev/null` is missing.
    pub fn ready(mut self, keep_output: bool) -> io::Result<()> {
        let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
        dup2_stdin(&null)?;
        if !keep_output {
            dup2_stdout(&null)?;
            dup2_stderr(&null)?;
        }
        // Else the file system that it was started in could not be unmounted.
        chdir("/")?;
        // A parent that is gone misses nothing.
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
