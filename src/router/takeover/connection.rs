//! The connection between predecessor and successor: lines in both directions, and descriptors.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::sys::rights;

/// Maximum length of a line in bytes.
const MAX_LINE: usize = 64 * 1024;

/// Why a line did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// The other side has closed the connection.
    #[error("the other process has closed the connection")]
    Closed,
    /// The other side has said `no`.
    #[error("{0}")]
    Refused(String),
    /// The line did not arrive in time.
    #[error("the other process did not answer within {} s", .0.as_secs())]
    Late(Duration),
    /// The line is not one that was expected.
    #[error("the other process answered `{0}`, which this version does not understand")]
    Unknown(String),
    /// A system call failed.
    #[error("cannot talk to the other process: {0}")]
    Os(#[from] io::Error),
}

/// One side of the connection.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    received: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

impl Connection {
    /// Talks over `stream`.
    ///
    /// # Errors
    /// The stream cannot be made blocking.
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        Ok(Connection { stream, received: Vec::new(), descriptors: VecDeque::new() })
    }

    /// Sends a line.
    ///
    /// # Errors
    /// The other side has closed the connection, or does not read.
    pub fn say(&mut self, line: &str) -> Result<(), LineError> {
        self.say_with(line, &[])
    }

    /// Sends a line with descriptors.
    ///
    /// # Errors
    /// As [`say`](Self::say).
    pub fn say_with(&mut self, line: &str, descriptors: &[BorrowedFd<'_>]) -> Result<(), LineError> {
        self.stream.set_write_timeout(Some(super::ANSWERING))?;
        let text = format!("{line}\n");
        let mut chunks = descriptors.chunks(rights::MAX);
        let mut rest = text.as_bytes();
        // A byte for each message with descriptors.
        while chunks.len() > 1 {
            rest = &rest[self.send(&rest[..1], chunks.next().unwrap_or_default())?..];
        }
        let mut last = chunks.next().unwrap_or_default();
        while !rest.is_empty() {
            rest = &rest[self.send(rest, last)?..];
            last = &[];
        }
        Ok(())
    }

    fn send(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<usize, LineError> {
        rights::send(&self.stream, bytes, descriptors).map_err(|errno| match errno {
            nix::errno::Errno::EPIPE | nix::errno::Errno::ECONNRESET => LineError::Closed,
            errno => LineError::Os(errno.into()),
        })
    }

    /// Waits for the next line.
    ///
    /// # Errors
    /// See [`LineError`].
    pub fn hear(&mut self, limit: Duration) -> Result<String, LineError> {
        let end = Instant::now() + limit;
        loop {
            if let Some(length) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=length).take(length).collect();
                let line = String::from_utf8_lossy(&line).into_owned();
                return match line.strip_prefix("no ") {
                    Some(reason) => Err(LineError::Refused(reason.to_owned())),
                    None => Ok(line),
                };
            }
            if self.received.len() > MAX_LINE {
                return Err(LineError::Unknown("a line that is too long".into()));
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(LineError::Late(limit));
            }
            self.stream.set_read_timeout(Some(left))?;
            let mut bytes = [0; 4096];
            match rights::receive(&self.stream, &mut bytes) {
                Ok((0, _)) | Err(nix::errno::Errno::ECONNRESET) => return Err(LineError::Closed),
                Ok((length, descriptors)) => {
                    self.received.extend_from_slice(&bytes[..length]);
                    self.descriptors.extend(descriptors);
                }
                Err(nix::errno::Errno::EAGAIN) => {}
                Err(errno) => return Err(LineError::Os(errno.into())),
            }
        }
    }

    /// Waits for the line `expected`.
    ///
    /// # Errors
    /// See [`LineError`].
    pub fn expect(&mut self, expected: &str, limit: Duration) -> Result<(), LineError> {
        match self.hear(limit)? {
            line if line == expected => Ok(()),
            line => Err(LineError::Unknown(line)),
        }
    }

    /// Returns the next descriptor that came with the lines heard so far.
    pub fn descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptors.pop_front()
    }

    /// Returns the process at the other end.
    pub fn process(&self) -> Option<i32> {
        let credentials =
            nix::sys::socket::getsockopt(&self.stream.as_fd(), nix::sys::socket::sockopt::PeerCredentials);
        credentials.ok().map(|peer| peer.pid())
    }

    /// Returns whether the process at the other end runs as the same user.
    pub fn is_same_user(&self) -> bool {
        let credentials =
            nix::sys::socket::getsockopt(&self.stream.as_fd(), nix::sys::socket::sockopt::PeerCredentials);
        credentials.is_ok_and(|peer| peer.uid() == nix::unistd::geteuid().as_raw())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::thread;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn pair() -> (Connection, Connection) {
        let (a, b) = UnixStream::pair().unwrap();
        (Connection::new(a).unwrap(), Connection::new(b).unwrap())
    }

    #[test]
    fn more_descriptors_than_fit_one_message_arrive() {
        let (mut a, mut b) = pair();
        assert!(b.is_same_user());
        let file = std::fs::File::open("/dev/null").unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                a.say_with("{many}", &[file.as_fd(); rights::MAX + 7]).unwrap();
                a.say("next").unwrap();
            });
            assert_eq!(b.hear(LIMIT).unwrap(), "{many}");
            b.expect("next", LIMIT).unwrap();
        });
        assert_eq!(std::iter::from_fn(|| b.descriptor()).count(), rights::MAX + 7);
    }

    #[test]
    fn what_was_said_before_the_end_is_heard_and_then_the_end() {
        let (mut a, mut b) = pair();
        a.say("no room").unwrap();
        a.say("late").unwrap();
        drop(a);
        assert!(matches!(b.hear(LIMIT), Err(LineError::Refused(reason)) if reason == "room"));
        assert!(matches!(b.expect("early", LIMIT), Err(LineError::Unknown(_))));
        assert!(matches!(b.hear(LIMIT), Err(LineError::Closed)));
        assert!(matches!(b.say("anybody?"), Err(LineError::Closed)));
    }

    #[test]
    fn nobody_is_waited_for_for_ever() {
        let (_a, mut b) = pair();
        assert!(matches!(b.hear(Duration::from_millis(5)), Err(LineError::Late(_))));
    }
}
