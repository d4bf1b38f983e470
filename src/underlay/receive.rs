//! Receiving: up to [`DEPTH`] messages in one system call, each one datagram or a run of them that
//! the kernel has grouped (UDP GRO).
//!
//! The bytes come from the wire through the kernel into slabs of the outside worker, which opens
//! them next. Nothing about them is trusted here but what the kernel itself says.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;

use arrayvec::ArrayVec;
use nix::errno::Errno;

use super::control;
use super::endpoint::Endpoint;
use super::name;
use super::socket::UdpSocket;
use super::tally::ReceiveTally;
use crate::drops::DropReason;
use crate::sys::udp::{self, Slot};

/// The most messages that one receive takes from the kernel.
pub const DEPTH: usize = udp::DEPTH;

/// How often one receive goes on after an error that was waiting at the socket. There are no more
/// than one such per datagram sent, and poll asks again for what is left.
const ERRORS_PER_RECEIVE: usize = 4;

/// Receives from a lane's socket. Holds what the kernel tells about each message beside its payload,
/// allocated once.
pub struct Receiver {
    slots: Box<[Slot; DEPTH]>,
    messages: ArrayVec<Received, DEPTH>,
    tally: ReceiveTally,
}

/// One received message: a run of datagrams from one sender, each [`stride`](Self::stride) bytes
/// long but the last, which may be shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes in the buffer.
    pub len: usize,
    /// Bytes from the start of one datagram to the start of the next. Never zero, so that
    /// `buffer[..len].chunks(stride)` are the datagrams.
    pub stride: usize,
    /// Who sent it, and the local address it was sent to.
    pub from: Endpoint,
    /// The kernel had to cut it: the payload was longer than the buffer, or the rest than its space.
    pub truncated: bool,
}

impl Received {
    /// How many datagrams there are.
    pub fn segments(&self) -> usize {
        self.len.div_ceil(self.stride)
    }

    /// Why the message is good for nothing, if it is.
    pub fn drop_reason(&self) -> Option<DropReason> {
        if self.truncated {
            Some(DropReason::Oversized)
        } else if self.len == 0 {
            Some(DropReason::EmptyDatagram)
        } else {
            None
        }
    }
}

impl Default for Receiver {
    fn default() -> Self {
        Self::new()
    }
}

impl Receiver {
    /// A receiver that has received nothing.
    pub fn new() -> Self {
        Receiver {
            slots: Box::new([Slot::EMPTY; DEPTH]),
            messages: ArrayVec::new(),
            tally: ReceiveTally::default(),
        }
    }

    /// Receives what waits at `socket` into `buffers`, one message into each, in one system call and
    /// without blocking. Returns how many messages came: 0 when none waits. Buffers past the first
    /// [`DEPTH`] are not used. A buffer of 64 KiB holds any message.
    ///
    /// # Errors
    /// Only those that mean that the socket itself is no good, such as `EBADF`. Errors that earlier
    /// sends left at the socket, and a kernel short of memory, are counted and do not show.
    pub fn receive<'b>(
        &mut self,
        socket: &UdpSocket,
        buffers: impl IntoIterator<Item = &'b mut [u8]>,
    ) -> io::Result<usize> {
        // Collected here because a receive that met a waiting error uses the buffers again.
        let mut buffers: ArrayVec<&mut [u8], DEPTH> = buffers.into_iter().take(DEPTH).collect();
        self.messages.clear();
        for _ in 0..ERRORS_PER_RECEIVE {
            match udp::receive(socket.as_fd(), buffers.iter_mut().map(|b| &mut **b), &mut self.slots) {
                Ok(count) => {
                    self.note(count);
                    break;
                }
                Err(Errno::EAGAIN) => break,
                Err(errno) if passes(errno) => self.tally.errors.add(errno),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(self.messages.len())
    }

    /// The `index`-th message of the last receive.
    ///
    /// # Panics
    /// If the last receive had no such message.
    pub fn message(&self, index: usize) -> Received {
        self.messages[index]
    }

    /// What was done since the tally was last published; the caller clears what it takes.
    pub fn tally(&mut self) -> &mut ReceiveTally {
        &mut self.tally
    }

    /// Reads and counts the first `count` slots.
    fn note(&mut self, count: usize) {
        self.tally.batches += u64::from(count > 0);
        for slot in &self.slots[..count] {
            let message = read(slot);
            if message.drop_reason().is_none() {
                self.tally.messages.add(message.segments());
                self.tally.bytes += message.len as u64;
            }
            self.messages.push(message);
        }
    }
}

/// What the kernel tells in `slot`.
fn read(slot: &Slot) -> Received {
    let ancillary = control::decode(slot.control());
    let address = name::decode(slot.name());
    Received {
        len: slot.len(),
        stride: stride(slot.len(), ancillary.gro_size),
        from: Endpoint {
            address: address.unwrap_or(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0)),
            source: ancillary.source,
        },
        truncated: slot.truncated() || address.is_none(),
    }
}

/// The stride of a message of `len` bytes for which GRO gave `gro_size`. Without a size, or with one
/// that makes no sense, the message is one datagram.
fn stride(len: usize, gro_size: Option<i32>) -> usize {
    match gro_size.map(usize::try_from) {
        Some(Ok(size)) if 0 < size && size < len => size,
        _ => len.max(1),
    }
}

/// Whether the socket goes on after `errno`: it tells of one destination (an ICMP error that came
/// back), of an interface that went down, or of a want of memory.
fn passes(errno: Errno) -> bool {
    use Errno::{
        ECONNREFUSED, ECONNRESET, EHOSTDOWN, EHOSTUNREACH, EMSGSIZE, ENETDOWN, ENETUNREACH, ENOBUFS, ENOMEM,
        ENONET, ENOPROTOOPT, EPERM, EPROTO,
    };
    matches!(
        errno,
        ECONNREFUSED
            | ECONNRESET
            | EHOSTDOWN
            | EHOSTUNREACH
            | EMSGSIZE
            | ENETDOWN
            | ENETUNREACH
            | ENOBUFS
            | ENOMEM
            | ENONET
            | ENOPROTOOPT
            | EPERM
            | EPROTO
    )
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::sys::socket::{setsockopt, sockopt};

    use super::*;
    use crate::underlay::{Sender, SocketOptions, bind};

    #[test]
    fn a_gro_size_that_makes_no_sense_is_one_datagram() {
        for size in [None, Some(0), Some(-1), Some(i32::MIN), Some(100), Some(101), Some(i32::MAX)] {
            assert_eq!(stride(100, size), 100, "{size:?}");
        }
        assert_eq!(stride(100, Some(99)), 99);
        assert_eq!(stride(100, Some(1)), 1);
    }

    #[test]
    fn an_empty_message_holds_no_datagrams_and_can_still_be_cut_up() {
        let stride = stride(0, Some(7));
        assert_eq!([0_u8; 0].chunks(stride).count(), 0);
    }

    #[test]
    fn an_error_that_an_earlier_send_left_is_counted_and_the_datagram_behind_it_is_received() {
        let socket = bind(0, 1, SocketOptions::default()).unwrap().remove(0);
        // A socket that is not connected keeps no such errors unless it is asked to.
        setsockopt(&socket, sockopt::Ipv4RecvErr, &true).unwrap();
        let peer = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        Sender::new(&socket).send_run(&socket, b"hello", 5, &Endpoint::new(nobody)).unwrap();
        assert_eq!(
            poll(&mut [PollFd::new(socket.as_fd(), PollFlags::empty())], PollTimeout::from(10_000_u16)),
            Ok(1),
            "the error comes"
        );
        peer.send_to(b"hello", ("127.0.0.1", socket.port())).unwrap();

        // The socket stays ready for its error, so poll cannot tell when the datagram is there.
        let mut receiver = Receiver::new();
        let came = (0..10_000).any(|_| {
            std::thread::sleep(std::time::Duration::from_millis(1));
            receiver.receive(&socket, [&mut [0; 100][..]]).unwrap() == 1
        });
        assert!(came);
        assert_eq!(receiver.message(0).from.address, peer.local_addr().unwrap());
        assert_eq!(receiver.tally().errors.of(Errno::ECONNREFUSED), 1);
    }
}
