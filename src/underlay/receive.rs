//! Receiving: up to [`DEPTH`] messages per system call.
//!
//! A message fills one buffer. It is one datagram, or several of one sender that the kernel grouped
//! (UDP GRO). The buffers are slabs of the outside worker, which then opens the datagrams. Their bytes
//! are untrusted; only the kernel's metadata is used here.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;

use arrayvec::ArrayVec;
use nix::errno::Errno;

use super::endpoint::Endpoint;
use super::socket::UdpSocket;
use super::tally::ReceiveTally;
use super::{control, name};
use crate::drops::DropReason;
use crate::sys::udp::{self, Slot};

/// Maximum messages per receive.
pub const DEPTH: usize = udp::DEPTH;

/// Attempts per receive if the socket has pending errors. A datagram sent causes at most one such error,
/// and poll reports the socket as ready again while errors remain.
const ERRORS_PER_RECEIVE: usize = 4;

/// Receives from the socket of a lane. Holds the metadata of the messages in memory allocated once.
pub struct Receiver {
    slots: Box<[Slot; DEPTH]>,
    messages: ArrayVec<Received, DEPTH>,
    tally: ReceiveTally,
}

/// Metadata of one received message: one or more datagrams from one sender, each
/// [`stride`](Self::stride) bytes long but the last, which may be shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes written to the buffer.
    pub len: usize,
    /// Bytes of each datagram but the last. Never zero, so `buffer[..len].chunks(stride)` yields the
    /// datagrams.
    pub stride: usize,
    /// The sender's address and the local address that it sent to.
    pub from: Endpoint,
    /// The traffic class of the IP headers. The kernel groups only datagrams of one class
    /// (`gro_receive_network_flush` in `include/net/gro.h`; kernels without the fix of 6.10 report that of
    /// the first).
    pub class: u8,
    /// Whether the payload was longer than the buffer, the control messages were truncated, or the
    /// sender's address could not be decoded.
    pub truncated: bool,
}

impl Received {
    /// Returns the number of datagrams.
    pub fn segments(&self) -> usize {
        self.len.div_ceil(self.stride)
    }

    /// Returns the reason to drop the message, or `None` if it is usable.
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
    /// Creates a receiver without messages.
    pub fn new() -> Self {
        Receiver {
            slots: Box::new([Slot::EMPTY; DEPTH]),
            messages: ArrayVec::new(),
            tally: ReceiveTally::default(),
        }
    }

    /// Receives waiting messages into `buffers`, one per buffer, in one system call and without blocking.
    /// Returns the number of messages received, 0 if none is waiting. Uses at most [`DEPTH`] buffers. A
    /// buffer of 64 KiB holds any message.
    ///
    /// # Errors
    /// Fails only if the socket itself is unusable, such as with `EBADF`. Errors that earlier sends left
    /// at the socket, and a lack of kernel memory, are counted but not returned.
    pub fn receive<'b>(
        &mut self,
        socket: &UdpSocket,
        buffers: impl IntoIterator<Item = &'b mut [u8]>,
    ) -> io::Result<usize> {
        // Collected because the receive is repeated with the same buffers after a pending error.
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

    /// Returns message `index` of the last receive.
    ///
    /// # Panics
    /// If the last receive returned `index` messages or fewer.
    pub fn message(&self, index: usize) -> Received {
        self.messages[index]
    }

    /// Returns the counts since they were last published. The caller resets what it publishes.
    pub fn tally(&mut self) -> &mut ReceiveTally {
        &mut self.tally
    }

    /// Decodes and counts the messages in the first `count` slots.
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

/// Decodes the metadata of the message in `slot`.
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
        class: ancillary.class,
        truncated: slot.truncated() || address.is_none(),
    }
}

/// Returns the stride of a message of `len` bytes with this `gro_size`. Treats the message as one
/// datagram if the size is absent or invalid.
pub(crate) fn stride(len: usize, gro_size: Option<i32>) -> usize {
    match gro_size.map(usize::try_from) {
        Some(Ok(size)) if 0 < size && size < len => size,
        _ => len.max(1),
    }
}

/// Returns whether the socket remains usable after `errno`: an ICMP error about one destination, an
/// interface that went down, or a lack of memory.
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
        // An unconnected socket reports such errors only if IP_RECVERR is set.
        setsockopt(&socket, sockopt::Ipv4RecvErr, &true).unwrap();
        let peer = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let nobody = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        Sender::new(&socket).send_run(&socket, b"hello", 5, &Endpoint::new(nobody), 0).unwrap();
        assert_eq!(
            poll(&mut [PollFd::new(socket.as_fd(), PollFlags::empty())], PollTimeout::from(10_000_u16)),
            Ok(1),
            "the error is pending"
        );
        peer.send_to(b"hello", ("127.0.0.1", socket.port())).unwrap();

        // The pending error keeps the socket ready, so poll cannot tell when the datagram has arrived.
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
