//! How many datagrams the kernel has dropped at a lane's socket, for whoever asks at any moment.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Mutex, PoisonError};

use super::socket::UdpSocket;
use crate::sys::udp;

/// Counts the drops of one lane's socket (`SO_MEMINFO`), also across its replacement by another.
///
/// The kernel counts per socket, so this holds the socket open beside the worker that owns it; it only
/// ever reads the count. The lock is taken by a scrape and by a change of the socket, never for a
/// packet.
#[derive(Debug)]
pub struct DropWatch(Mutex<Watched>);

#[derive(Debug)]
struct Watched {
    socket: OwnedFd,
    /// The drops of this socket and of all before it.
    total: u64,
    /// What the kernel's 32-bit counter was when it was last read.
    seen: u32,
}

impl DropWatch {
    /// Watches `socket` from its beginning.
    ///
    /// # Errors
    /// The process is out of file descriptors.
    pub fn new(socket: &UdpSocket) -> io::Result<Self> {
        let socket = socket.as_fd().try_clone_to_owned()?;
        Ok(DropWatch(Mutex::new(Watched { socket, total: 0, seen: 0 })))
    }

    /// The lane has another socket from now on; the old one can close.
    pub fn follow(&self, socket: &UdpSocket) {
        let mut watched = self.lock();
        watched.look();
        match socket.as_fd().try_clone_to_owned() {
            Ok(socket) => (watched.socket, watched.seen) = (socket, 0),
            Err(error) => tracing::warn!("the new UDP socket's drops are not counted: {error}"),
        }
    }

    /// The drops so far.
    pub fn total(&self) -> u64 {
        let mut watched = self.lock();
        watched.look();
        watched.total
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Watched> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watched {
    fn look(&mut self) {
        // Kernels that cannot say (before 4.12) leave the count where it is.
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

    /// A socket with little room, filled until it drops.
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
