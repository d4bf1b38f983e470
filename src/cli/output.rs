//! Standard output of commands that go on until nobody reads it.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Waits for `interval`, or until nobody reads standard output any more. Returns whether nobody does.
pub(super) fn is_closed_within(interval: Duration) -> bool {
    is_closed(io::stdout(), interval)
}

fn is_closed(out: impl AsFd, interval: Duration) -> bool {
    let end = Instant::now() + interval;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        // A pipe without a reader has an error; a socket or terminal hangs up.
        let mut closed = [PollFd::new(out.as_fd(), PollFlags::empty())];
        // Rounded up, so that it does not return too early again and again.
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        match poll(&mut closed, timeout) {
            Ok(0) if !left.is_zero() => {}
            Ok(ready) => return ready > 0,
            Err(Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_is_closed_once_its_reader_is() {
        let (reader, writer) = io::pipe().unwrap();
        assert!(!is_closed(&writer, Duration::from_millis(5)));
        drop(reader);
        assert!(is_closed(&writer, Duration::from_secs(600)));
        let null = std::fs::File::options().write(true).open("/dev/null").unwrap();
        assert!(!is_closed(&null, Duration::from_millis(5)), "a file or device never is");
    }
}
