//! Reading one TUN queue. Packets come from the workload through the kernel; they go, checked, to
//! the inside worker.
//!
//! A read never blocks: the worker sleeps on several descriptors at once and then drains.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::unistd;

use super::superpacket::Superpacket;
use super::virtio::VirtioHeader;
use crate::drops::DropReason;

/// Room for the longest read: a virtio header and an IPv6 packet whose payload is as long as a
/// payload can be. In bytes.
const READ_BUFFER: usize = VirtioHeader::LEN + 40 + 65_535;

/// The reading part of a queue, with its own buffer.
#[derive(Debug)]
pub struct QueueReader {
    fd: Arc<OwnedFd>,
    buffer: Box<[u8]>,
}

/// What one read brought.
#[derive(Debug)]
pub enum Read<'a> {
    /// A packet that is good. It is valid until the next read, which the borrow makes sure of.
    Packet(Superpacket<'a>),
    /// A packet to drop for this reason. There may be more behind it.
    Malformed(DropReason),
    /// Nothing is waiting.
    Empty,
}

/// Why a queue cannot be read any more.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The interface is gone.
    #[error("the TUN interface was deleted")]
    Closed,
    /// The kernel refuses to read.
    #[error("reading the TUN queue failed: {0}")]
    Os(#[source] io::Error),
}

/// What ended a drain: the value of a label by which operators tune.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DrainEnd {
    /// Nothing was left.
    Empty,
    /// As many packets as one drain may read.
    Cap,
    /// No room for one more.
    Headroom,
    /// A packet to drop.
    Malformed,
}

impl DrainEnd {
    /// Every end, in the order of their discriminants.
    pub const ALL: [DrainEnd; 4] = [Self::Empty, Self::Cap, Self::Headroom, Self::Malformed];

    /// The value of the `reason` label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Cap => "cap",
            Self::Headroom => "headroom",
            Self::Malformed => "malformed",
        }
    }
}

impl QueueReader {
    pub(super) fn new(fd: Arc<OwnedFd>) -> QueueReader {
        QueueReader { fd, buffer: vec![0; READ_BUFFER].into_boxed_slice() }
    }

    /// Reads one packet if there is one.
    ///
    /// # Errors
    /// [`QueueError`]: there will be no more packets.
    #[inline]
    pub fn read(&mut self) -> Result<Read<'_>, QueueError> {
        let len = loop {
            match unistd::read(&self.fd, &mut self.buffer) {
                Ok(len) => break len,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(Read::Empty),
                // EBADFD and EFAULT are how tun.c says that the interface is gone.
                Err(Errno::EBADF | Errno::EBADFD | Errno::EFAULT | Errno::ENODEV) => {
                    return Err(QueueError::Closed);
                }
                Err(errno) => return Err(QueueError::Os(errno.into())),
            }
        };
        let Some((header, packet)) = self.buffer[..len].split_first_chunk_mut() else {
            return Ok(Read::Malformed(DropReason::ShortRead));
        };
        Ok(match Superpacket::parse(VirtioHeader::decode(*header), packet) {
            Ok(packet) => Read::Packet(packet),
            Err(reason) => Read::Malformed(reason),
        })
    }
}

impl AsFd for QueueReader {
    /// The queue, to poll for packets.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::offload::{SuperpacketKind, VIRTIO_HEADER_LEN};
    use crate::units::MAX_PACKET;

    /// A reader, and the end where the kernel would be: a datagram socket keeps reads apart as a TUN
    /// queue does, and takes what no kernel hands over.
    fn pair() -> (QueueReader, UnixDatagram) {
        let (queue, kernel) = UnixDatagram::pair().unwrap();
        queue.set_nonblocking(true).unwrap();
        (QueueReader::new(Arc::new(queue.into())), kernel)
    }

    /// A TCP packet of so many bytes in all, to be cut into segments of 1,000.
    fn superpacket(len: usize) -> Vec<u8> {
        let builder =
            etherparse::PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64).tcp(1, 2, 3, 4).ack(5);
        let mut packet = Vec::new();
        builder.write(&mut packet, &vec![7; len - 40]).unwrap();
        let header = VirtioHeader {
            gso_type: VirtioHeader::GSO_TCPV4,
            gso_size: 1000,
            ..VirtioHeader::decode([0; VIRTIO_HEADER_LEN])
        };
        [&header.encode()[..], &packet].concat()
    }

    #[test]
    fn bad_packets_do_not_end_the_reader() {
        let (mut reader, kernel) = pair();
        let good = superpacket(4000);
        for bad in [&good[..3], &good[..VIRTIO_HEADER_LEN], &good[..100], &[0xff; 2000]] {
            kernel.send(bad).unwrap();
            kernel.send(&good).unwrap();
            assert!(matches!(reader.read(), Ok(Read::Malformed(_))), "{} bytes", bad.len());
            assert!(matches!(reader.read(), Ok(Read::Packet(packet)) if packet.segments() == 4));
        }
        assert!(matches!(reader.read(), Ok(Read::Empty)));
    }

    #[test]
    fn the_longest_superpacket_is_read_whole() {
        let (mut reader, kernel) = pair();
        kernel.send(&superpacket(MAX_PACKET)).unwrap();
        let Ok(Read::Packet(packet)) = reader.read() else { panic!("it is a good packet") };
        assert_eq!((packet.kind(), packet.packet().len()), (SuperpacketKind::Tso4, MAX_PACKET));
        assert_eq!(packet.segments(), (MAX_PACKET - 40).div_ceil(1000));
    }
}
