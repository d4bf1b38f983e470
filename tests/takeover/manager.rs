//! A service manager that keeps descriptors, as systemd does (`sd_pid_notify_with_fds(3)`).

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::support::binary::BINARY;
use crate::support::folder::Folder;
use crate::support::process::{Process, command_in};
use crate::support::wait_until;
use laneway::cli::demo::lab::Side;
use laneway::sys::rights;
use nix::errno::Errno;
use nix::sys::stat::fstat;

/// What it was told.
#[derive(Default)]
pub(crate) struct Told {
    /// What it keeps.
    pub(crate) kept: BTreeMap<String, OwnedFd>,
    /// Further descriptors, by which a process tries whether there is room.
    trials: Vec<OwnedFd>,
    /// What it keeps room for; `None` for any number.
    room: Option<usize>,
    /// Whether it leaves barriers without an answer, and what it was sent with them.
    is_mute: bool,
    barriers: Vec<OwnedFd>,
    /// The number of processes that were ready.
    pub(crate) ready: usize,
    /// What is wrong with what it was told.
    wrong: Vec<String>,
}

impl Told {
    fn take(&mut self, message: &str, descriptors: Vec<OwnedFd>) {
        let name = message.split('\n').find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or_default();
        let mut wrong = |why: &str| self.wrong.push(format!("{why}: {message}"));
        if message.starts_with("FDSTORE=1\n") {
            let Ok([descriptor]) = <[OwnedFd; 1]>::try_from(descriptors) else {
                return wrong("not one descriptor");
            };
            if !message.contains("\nFDPOLL=0") {
                wrong("it is polled");
            }
            if self.room.is_some_and(|room| self.kept.len() + self.trials.len() >= room) {
                return;
            }
            if name == "trial" {
                self.trials.push(descriptor);
                return;
            }
            // What is kept already is not kept twice.
            let file = |fd: &OwnedFd| fstat(fd.as_fd()).map(|stat| (stat.st_dev, stat.st_ino));
            if self.kept.get(name).is_some_and(|kept| file(kept) != file(&descriptor)) {
                wrong("another one of this name");
            }
            self.kept.insert(name.to_owned(), descriptor);
        } else if message.starts_with("FDSTOREREMOVE=1\n") {
            if name == "trial" {
                self.trials.clear();
            } else if self.kept.remove(name).is_none() {
                wrong("nothing of this name");
            }
        } else if message.starts_with("READY=1\n") {
            self.ready += 1;
        } else if self.is_mute {
            self.barriers.extend(descriptors);
        }
        // The sender of BARRIER=1 waits until its descriptor is closed, which it is here otherwise.
    }
}

/// A service manager, and the service that it runs.
pub(crate) struct Manager {
    path: String,
    told: Arc<Mutex<Told>>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Manager {
    /// Starts a manager whose socket is in `folder`.
    pub(crate) fn new(folder: &Folder) -> Manager {
        let path = folder.join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a limit");
        let (told, stopping) = (Arc::<Mutex<Told>>::default(), Arc::new(AtomicBool::new(false)));
        let (notes, stop) = (Arc::clone(&told), Arc::clone(&stopping));
        let thread = thread::spawn(move || {
            while !stop.load(SeqCst) {
                let mut message = [0; 1024];
                match rights::receive(&socket, &mut message) {
                    Ok((length, descriptors)) => {
                        let message = String::from_utf8_lossy(&message[..length]);
                        notes.lock().expect("notes").take(&message, descriptors);
                    }
                    Err(Errno::EAGAIN) => {}
                    Err(errno) => panic!("{errno}"),
                }
            }
        });
        Manager { path, told, stopping, thread: Some(thread) }
    }

    /// Returns what it was told so far.
    ///
    /// # Panics
    /// Something is wrong with that.
    pub(crate) fn told(&self) -> MutexGuard<'_, Told> {
        let told = self.told.lock().expect("notes");
        assert!(told.wrong.is_empty(), "{:?}", told.wrong);
        told
    }

    /// Has it keep this number of descriptors at most.
    pub(crate) fn limit(&self, room: usize) {
        self.told().room = Some(room);
    }

    /// Has it leave barriers without an answer, or answer them, from now on.
    pub(crate) fn be_mute(&self, is_mute: bool) {
        let mut told = self.told();
        told.is_mute = is_mute;
        told.barriers.clear();
    }

    /// Returns the names of what it keeps.
    pub(crate) fn kept(&self) -> Vec<String> {
        self.told().kept.keys().cloned().collect()
    }

    /// Starts the service with these arguments and variables, and passes everything on that is kept, in an order of its
    /// own. The service is told that `room` descriptors can be kept, as by systemd since 254, or is not told.
    #[allow(unsafe_code)]
    pub(crate) fn start(
        &self,
        side: &Side,
        arguments: &[&str],
        environment: &[(&str, &str)],
        room: Option<&str>,
    ) -> Process {
        let told = self.told();
        let mut command: Command = command_in(&side.namespace, "sh");
        command.args(["-c", r#"LISTEN_PID=$$ exec "$@""#, "sh", BINARY]).args(arguments);
        let names: Vec<_> = told.kept.keys().rev().cloned().collect();
        let descriptors: Vec<RawFd> = told.kept.values().rev().map(AsRawFd::as_raw_fd).collect();
        command
            .envs(environment.iter().copied())
            .env("NOTIFY_SOCKET", &self.path)
            .envs(room.map(|room| ("FDSTORE", room)))
            .envs([("LISTEN_FDS", names.len().to_string()), ("LISTEN_FDNAMES", names.join(":"))])
            .stdin(Stdio::null());
        let pass_on = move || {
            // Up first, since their numbers may be among those that they get.
            for (descriptor, number) in descriptors.iter().zip(500..) {
                // SAFETY: dup2 accesses no memory. No descriptor of this process has such a high number.
                Errno::result(unsafe { libc::dup2(*descriptor, number) })?;
            }
            for (number, _) in (0..).zip(&descriptors) {
                // SAFETY: as above. What had this number is closed: it belongs to the parent, and is not used here.
                Errno::result(unsafe { libc::dup2(500 + number, 3 + number) })?;
                // SAFETY: close accesses no memory, and the number was assigned above.
                Errno::result(unsafe { libc::close(500 + number) })?;
            }
            Ok(())
        };
        // SAFETY: the closure only calls dup2 and close, which are async-signal-safe, and reads memory.
        unsafe { command.pre_exec(pass_on) };
        Process::start_quietly(&mut command)
    }

    /// Calls `start`, and waits until the process that it starts is ready.
    ///
    /// # Panics
    /// It ends.
    pub(crate) fn until_ready(&self, start: impl FnOnce() -> Process) -> Process {
        let before = self.told().ready;
        let mut process = start();
        wait_until("the router", || {
            assert!(process.is_running(), "it ended: {}", process.said());
            self.told().ready > before
        });
        process
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.stopping.store(true, SeqCst);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
