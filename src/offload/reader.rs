//! Reading packets and superpackets from one TUN queue, for the inside worker.
//!
//! Reads never block: the worker polls several descriptors at once and drains the queue after a wake.

use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use nix::errno::Errno;
use nix::unistd;

use super::superpacket::Superpacket;
use super::virtio::{HeaderForm, VirtioHeader};
use crate::drops::DropReason;
use crate::faults::{self, Stage};

/// Length of the longest possible read in bytes: a virtio header and an IPv6 packet with the longest
/// payload that is not a jumbogram.
const READ_BUFFER: usize = VirtioHeader::LONG + 40 + 65_535;

/// The reading part of a queue. Owns the buffer that it reads into.
#[derive(Debug)]
pub struct QueueReader {
    fd: Arc<OwnedFd>,
    buffer: Box<[u8]>,
    header: HeaderForm,
    /// Length in bytes of a read whose validation has not ended; 0 if there is none.
    unvalidated: usize,
}

/// Result of one read.
#[derive(Debug)]
pub enum Read<'a> {
    /// A valid packet or superpacket, borrowed from the reader until the next read.
    Packet(Superpacket<'a>),
    /// A packet to drop for this reason. More packets may be waiting.
    Malformed(DropReason),
    /// No packet is waiting.
    Empty,
}

/// Errors when reading a queue. None of them is transient.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The interface was deleted.
    #[error("the TUN interface was deleted")]
    Closed,
    /// The kernel refused the read.
    #[error("reading the TUN queue failed: {0}")]
    Os(#[source] io::Error),
}

/// Reason why a drain ended, as a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DrainEnd {
    /// The queue was empty.
    Empty,
    /// The limit of packets per drain was reached.
    Cap,
    /// The batch had no room for another packet.
    Headroom,
    /// A malformed packet was read.
    Malformed,
}

impl DrainEnd {
    /// All reasons, in discriminant order.
    pub const ALL: [DrainEnd; 4] = [Self::Empty, Self::Cap, Self::Headroom, Self::Malformed];

    /// Returns the value of the `reason` metric label.
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
    pub(super) fn new(fd: Arc<OwnedFd>, header: HeaderForm) -> QueueReader {
        QueueReader { fd, buffer: vec![0; READ_BUFFER].into_boxed_slice(), header, unvalidated: 0 }
    }

    /// Reads one packet or superpacket, if one is waiting.
    ///
    /// # Errors
    /// See [`QueueError`]. After an error the queue yields no more packets.
    #[inline]
    pub fn read(&mut self) -> Result<Read<'_>, QueueError> {
        let len = loop {
            match unistd::read(&self.fd, &mut self.buffer) {
                Ok(len) => break len,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(Read::Empty),
                // tun.c returns EBADFD or EFAULT when the interface was deleted.
                Err(Errno::EBADF | Errno::EBADFD | Errno::EFAULT | Errno::ENODEV) => {
                    return Err(QueueError::Closed);
                }
                Err(errno) => return Err(QueueError::Os(errno.into())),
            }
        };
        self.unvalidated = len;
        faults::point(Stage::Read);
        let read = validate(self.header, &mut self.buffer[..len]);
        self.unvalidated = 0;
        Ok(read)
    }

    /// Returns the number of packets lost with a read whose validation panicked, 0 if none did.
    pub fn recover(&mut self) -> u64 {
        let read = &mut self.buffer[..mem::take(&mut self.unvalidated)];
        if read.is_empty() {
            return 0;
        }
        let segments = AssertUnwindSafe(|| match validate(self.header, read) {
            Read::Packet(packet) => packet.segments() as u64,
            Read::Malformed(_) | Read::Empty => 1,
        });
        // If it panics again, how many packets there were is unknown.
        catch_unwind(segments).unwrap_or(1)
    }
}

/// Parses a read: a virtio header and a packet.
fn validate(form: HeaderForm, read: &mut [u8]) -> Read<'_> {
    let Some((header, packet)) = form.split(read) else {
        return Read::Malformed(DropReason::ShortRead);
    };
    match Superpacket::parse(header, packet) {
        Ok(packet) => Read::Packet(packet),
        Err(reason) => Read::Malformed(reason),
    }
}

impl AsFd for QueueReader {
    /// Returns the descriptor of the queue, readable while packets are waiting.
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

    /// Returns a reader and a socket in place of the kernel. A datagram socket preserves the boundaries
    /// of reads as a TUN queue does, and can deliver what no kernel would.
    fn pair() -> (QueueReader, UnixDatagram) {
        let (queue, kernel) = UnixDatagram::pair().unwrap();
        queue.set_nonblocking(true).unwrap();
        (QueueReader::new(Arc::new(queue.into()), HeaderForm::Short), kernel)
    }

    /// Returns a TCP superpacket of `len` bytes, headers included, with 1,000 payload bytes per segment.
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
        let Ok(Read::Packet(packet)) = reader.read() else { panic!("the packet is valid") };
        assert_eq!((packet.kind(), packet.packet().len()), (SuperpacketKind::Tso4, MAX_PACKET));
        assert_eq!(packet.segments(), (MAX_PACKET - 40).div_ceil(1000));
    }
}
