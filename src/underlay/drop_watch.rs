//! Count of the datagrams that the kernel dropped at the socket of a lane, readable from any thread.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Mutex, PoisonError};

use super::socket::UdpSocket;
use crate::sys::udp;

/// Counts the kernel's drops at one lane's socket (`SO_MEMINFO`), continuing when the socket is replaced.
///
/// The kernel counts per socket, so this holds a duplicate of the socket's descriptor, only to read the
/// count. The lock is taken for metrics and when the socket is replaced, never on the data path.
#[derive(Debug)]
pub struct DropWatch(Mutex<WatchedSocket>);

#[derive(Debug)]
struct WatchedSocket {
    socket: OwnedFd,
    /// Drops of this socket and all previous ones.
    total: u64,
    /// Value of the kernel's 32-bit counter when it was last read.
    seen: u32,
}

impl DropWatch {
    /// Counts the drops of `socket` since it was opened.
    ///
    /// # Errors
    /// Fails if the process or the host has no file descriptors left.
    pub fn new(socket: &UdpSocket) -> io::Result<Self> {
        let socket = socket.as_fd().try_clone_to_owned()?;
        Ok(DropWatch(Mutex::new(WatchedSocket { socket, total: 0, seen: 0 })))
    }

    /// Continues with `socket`, which replaces the lane's previous socket, and closes the duplicate of the
    /// previous one. If the descriptor cannot be duplicated, logs so and keeps the previous socket.
    pub fn follow(&self, socket: &UdpSocket) {
        let mut watched = self.lock();
        watched.look();
        match socket.as_fd().try_clone_to_owned() {
            Ok(socket) => (watched.socket, watched.seen) = (socket, 0),
            Err(error) => tracing::warn!("cannot count drops of the new UDP socket: {error}"),
        }
    }

    /// Returns the number of drops so far, in datagrams.
    pub fn total(&self) -> u64 {
        let mut watched = self.lock();
        watched.look();
        watched.total
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, WatchedSocket> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WatchedSocket {
    fn look(&mut self) {
        // Kernels before 4.12 do not report drops; the count then stays unchanged.
        if let Ok(drops) = udp::drops(self.socket.as_fd()) {
            self.total += u64::from(drops.wrapping_sub(self.seen));
            self.seen = drops;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket as Plain;

    use super::*;
    use crate::underlay::{SocketOptions, bind};

    /// Returns a socket with a small receive buffer, after at least 10 drops.
    fn flooded() -> UdpSocket {
        let options = SocketOptions { buffer: 4096, ..SocketOptions::default() };
        let socket = bind(0, 1, options).unwrap().remove(0);
        let from = Plain::bind("127.0.0.1:0").unwrap();
        from.connect(("127.0.0.1", socket.port())).unwrap();
        while socket.drops().unwrap() < 10 {
            from.send(&[0; 1000]).unwrap();
        }
        socket
    }

    #[test]
    fn drops_are_counted_across_a_change_of_the_socket() {
        let (first, second) = (flooded(), flooded());
        let watch = DropWatch::new(&first).unwrap();
        assert_eq!(watch.total(), u64::from(first.drops().unwrap()));
        watch.follow(&second);
        drop(first);
        assert_eq!(watch.total(), watch.total());
        assert!(watch.total() >= 20, "{}", watch.total());
    }

    #[test]
    fn the_old_sockets_port_is_free_after_a_change() {
        let [first, second] = [0, 0].map(|port| bind(port, 1, SocketOptions::default()).unwrap().remove(0));
        let port = first.port();
        let watch = DropWatch::new(&first).unwrap();
        watch.follow(&second);
        drop(first);
        bind(port, 1, SocketOptions::default()).unwrap();
    }
}
