//! Notifies the service manager (systemd with `Type=notify`) that the router is up, reloads or stops
//! (`sd_notify(3)`).
//!
//! Each message is one datagram to the Unix socket that `NOTIFY_SOCKET` names. Without that variable, nothing
//! is sent.
//!
//! The manager also keeps descriptors for the next process (`FileDescriptorStoreMax=` in systemd.service(5)), and passes
//! them on when it starts one after a crash (`sd_listen_fds_with_names(3)`).

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::time::{ClockId, clock_gettime};

use crate::sys::{inherited, rights};

/// The environment variable that names the manager's socket.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// The environment variable with the number of descriptors that the manager keeps (`FileDescriptorStoreMax=`). systemd sets
/// it since 254.
const ROOM: &str = "FDSTORE";

/// The first descriptor that the manager passes on (`SD_LISTEN_FDS_START`).
const FIRST: i32 = 3;

/// The name of descriptors that only show whether the manager keeps them. Those of a process that was killed meanwhile are
/// left.
pub const TRIAL: &str = "trial";

/// How long the manager may take to carry out what it was told, in milliseconds.
const PATIENCE: u16 = 5000;

/// Returns the descriptors that the manager has kept for this process, with their names. A second call returns none.
///
/// # Errors
/// A descriptor is not open, or the variables contradict each other.
pub fn kept_descriptors() -> io::Result<Vec<(String, OwnedFd)>> {
    let number = |name| env::var(name).ok().and_then(|text| text.parse::<i32>().ok());
    if number("LISTEN_PID") != i32::try_from(std::process::id()).ok() {
        return Ok(Vec::new());
    }
    let count = number("LISTEN_FDS").unwrap_or(0);
    (FIRST..FIRST.saturating_add(count))
        .zip(kept_names())
        .map(|(fd, name)| Ok((name, inherited::adopt(fd)?)))
        .collect()
}

/// Returns the names of the descriptors that the manager has kept for this process.
pub fn kept_names() -> Vec<String> {
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    names.split(':').map(str::to_owned).collect()
}

/// The service manager that started this process, if any.
#[derive(Debug)]
pub struct ServiceManager {
    socket: Option<UnixDatagram>,
    /// Why there is no socket although the variable is set.
    failure: Option<String>,
}

impl ServiceManager {
    /// Connects to the socket that `NOTIFY_SOCKET` names, if it is set. Failure is left to
    /// [`log_failure`](Self::log_failure): the manager reports missing notifications itself.
    pub fn of_process() -> Self {
        let Some(name) = env::var_os(VARIABLE) else { return ServiceManager { socket: None, failure: None } };
        match connect(&name) {
            Ok(socket) => ServiceManager { socket: Some(socket), failure: None },
            Err(error) => ServiceManager {
                socket: None,
                failure: Some(format!("{VARIABLE}={}: {error}", name.display())),
            },
        }
    }

    /// Logs why the manager cannot be notified, if it cannot.
    pub fn log_failure(&self) {
        if let Some(failure) = &self.failure {
            tracing::warn!("cannot notify the service manager: {failure}");
        }
    }

    /// Returns whether there is one.
    pub fn is_there(&self) -> bool {
        self.socket.is_some()
    }

    /// Returns how many descriptors the manager says it keeps for this process; `None` if it does not say.
    pub fn room(&self) -> Option<usize> {
        if self.socket.is_none() {
            return Some(0);
        }
        env::var(ROOM).ok().and_then(|text| text.parse().ok())
    }

    /// Tries whether the manager keeps `count` descriptors more, for 5 s at most. One that keeps none, or whose store is
    /// full, closes what it is given.
    pub fn has_room_for(&self, count: usize) -> bool {
        let pipes: io::Result<Vec<_>> = (0..count).map(|_| io::pipe()).collect();
        let Ok(pipes) = pipes else { return false };
        if !pipes.iter().all(|(_, writer)| self.keep(TRIAL, writer.as_fd())) {
            return false;
        }
        let readers: Vec<_> = pipes.into_iter().map(|(reader, _)| reader).collect();
        let has_answered = self.await_manager();
        let is_kept = |reader: &io::PipeReader| {
            // Readable or hung up once all writers are closed.
            poll(&mut [PollFd::new(reader.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO) == Ok(0)
        };
        let kept = readers.iter().filter(|reader| is_kept(reader)).count();
        if kept > 0 {
            self.forget(TRIAL);
        }
        if !has_answered {
            tracing::warn!(
                "the service manager has not said within 5 s whether it keeps descriptors, so it is given none"
            );
        }
        has_answered && kept == count
    }

    /// Has the manager keep a duplicate of `descriptor` for the next process. Returns whether it was told.
    pub fn keep(&self, name: &str, descriptor: BorrowedFd<'_>) -> bool {
        let Some(socket) = &self.socket else { return false };
        // Without polling: a socket with an error, such as one from ICMP, would be forgotten.
        let message = format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0");
        let told = rights::send(socket, message.as_bytes(), &[descriptor]);
        if let Err(errno) = told {
            tracing::warn!("the service manager cannot keep {name}: {errno}");
        }
        told.is_ok()
    }

    /// Has the manager close the descriptors of this name.
    pub fn forget(&self, name: &str) {
        self.tell(&format!("FDSTOREREMOVE=1\nFDNAME={name}"));
    }

    /// Waits until the manager has carried out what it was told, 5 s at most (`sd_notify_barrier(3)`). Returns whether it
    /// has said so.
    pub fn await_manager(&self) -> bool {
        let Some(socket) = &self.socket else { return false };
        let Ok((reader, writer)) = io::pipe() else { return false };
        if rights::send(socket, b"BARRIER=1", &[writer.as_fd()]).is_err() {
            return false;
        }
        drop(writer);
        // The other end closes.
        poll(&mut [PollFd::new(reader.as_fd(), PollFlags::empty())], PATIENCE) == Ok(1)
    }

    /// Reports that the router is up, with a status text. Newlines in it become spaces.
    pub fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// Reports that a reload begins; [`ready`](Self::ready) ends it.
    ///
    /// # Panics
    /// Panics on a system without `CLOCK_MONOTONIC`.
    pub fn reloading(&self) {
        // With `Type=notify-reload`, the timestamp orders this message relative to the manager's own signal.
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("Linux always has CLOCK_MONOTONIC");
        let microseconds = now.tv_sec() * 1_000_000 + now.tv_nsec() / 1_000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
    }

    /// Reports that the router stops.
    pub fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    fn tell(&self, message: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = socket.send(message.as_bytes()) {
            tracing::warn!("cannot notify the service manager: {error}");
        }
    }
}

/// Connects to the manager's socket, a path or `@` and an abstract name. Done at startup, while the path is
/// still reachable.
fn connect(name: &OsString) -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    match name.as_bytes() {
        // A name in the abstract namespace (unix(7)).
        [b'@', name @ ..] => socket.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        [b'/', ..] => socket.connect(name)?,
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "expected a path, or @ and a name")),
    }
    Ok(socket)
}

/// Replaces newlines, because each line is a field of the message.
fn one_line(text: &str) -> String {
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a manager's socket under an abstract name and a `ServiceManager` connected to it.
    fn pair(purpose: &str) -> (UnixDatagram, ServiceManager) {
        let name = format!("laneway-service-{purpose}-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let ear = UnixDatagram::bind_addr(&address).expect("bind");
        let socket = connect(&OsString::from(format!("@{name}"))).expect("connect");
        (ear, ServiceManager { socket: Some(socket), failure: None })
    }

    fn heard(ear: &UnixDatagram) -> String {
        let mut message = [0; 256];
        let length = ear.recv(&mut message).expect("a message");
        String::from_utf8(message[..length].to_vec()).expect("text")
    }

    #[test]
    fn a_status_stays_on_its_line() {
        let (ear, manager) = pair("status");
        manager.ready("up\nSTOPPING=1");
        assert_eq!(heard(&ear), "READY=1\nSTATUS=up STOPPING=1");
    }

    #[test]
    fn a_reload_says_when_it_began() {
        let (ear, manager) = pair("reload");
        manager.reloading();
        let message = heard(&ear);
        let since = message.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(&message);
        assert!(since.parse::<u64>().expect(since) > 0);
    }

    #[test]
    fn a_name_that_is_neither_a_path_nor_abstract_is_refused() {
        let error = connect(&OsString::from("vsock:2:1234")).expect_err("vsock is not supported");
        assert!(error.to_string().contains("expected a path"), "{error}");
    }

    #[test]
    fn the_manager_is_waited_for_until_it_closes_the_descriptor() {
        let (ear, manager) = pair("barrier");
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| manager.await_manager());
            let mut message = [0; 64];
            let (length, descriptors) = rights::receive(&ear, &mut message).expect("a message");
            assert_eq!((&message[..length], descriptors.len()), (&b"BARRIER=1"[..], 1));
            drop(descriptors);
            assert!(waits.join().expect("it ends"));
        });
        assert!(!ServiceManager { socket: None, failure: None }.await_manager(), "there is none");
    }

    #[test]
    fn room_is_what_the_manager_does_not_close() {
        for (kept, room) in [(2, true), (1, false), (0, false)] {
            let (ear, manager) = pair(&format!("room-{kept}"));
            std::thread::scope(|scope| {
                let tries = scope.spawn(|| manager.has_room_for(2));
                let mut store = Vec::new();
                let mut told = Vec::new();
                while told.last().is_none_or(|last| last != "BARRIER=1") {
                    let mut message = [0; 64];
                    let (length, descriptors) = rights::receive(&ear, &mut message).expect("a message");
                    told.push(String::from_utf8_lossy(&message[..length]).into_owned());
                    if told.len() <= kept {
                        store.extend(descriptors);
                    }
                }
                assert_eq!(told.len(), 3, "{told:?}");
                assert_eq!(tries.join().expect("it ends"), room);
            });
            if kept > 0 {
                assert_eq!(heard(&ear), "FDSTOREREMOVE=1\nFDNAME=trial");
            }
        }
    }

    #[test]
    fn a_manager_that_is_gone_is_no_trouble() {
        let (ear, manager) = pair("gone");
        drop(ear);
        manager.stopping();
    }
}
