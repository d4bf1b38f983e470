//! Low-level writes to a TUN queue, shared by writer, rejecter and shortcut.

use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::uio::writev;
use nix::unistd;

use super::shutdown::Shutdown;
use super::tally::WriteTally;
use super::virtio::{VIRTIO_HEADER_LEN, VirtioHeader};
use crate::drops::DropReason;

/// The virtio header of a complete packet: no GSO, no partial checksum.
///
/// Does not set `DATA_VALID`: the kernel's TUN ignores the flag, and the kernel should verify the
/// checksum itself, since it may be wrong.
const PLAIN: [u8; VIRTIO_HEADER_LEN] = VirtioHeader::decode([0; VIRTIO_HEADER_LEN]).encode();

/// The writing side of a queue's file descriptor.
#[derive(Clone, Debug)]
pub(super) struct Port {
    fd: Arc<OwnedFd>,
    shutdown: Arc<Shutdown>,
}

impl Port {
    pub(super) fn new(fd: Arc<OwnedFd>, shutdown: Arc<Shutdown>) -> Port {
        Port { fd, shutdown }
    }

    /// Writes one complete packet and counts it as written or dropped.
    #[inline]
    pub(super) fn write_packet(&self, packet: &[u8], tally: &mut WriteTally) {
        let pieces = [IoSlice::new(&PLAIN), IoSlice::new(packet)];
        match self.insist(PLAIN.len() + packet.len(), || writev(&self.fd, &pieces)) {
            Ok(()) => tally.wrote_packet(packet.len()),
            Err(errno) => tally.refused(errno, 1),
        }
    }

    /// Writes one complete packet without retrying. Returns whether the kernel accepted it.
    #[inline]
    pub(super) fn try_packet(&self, packet: &[u8]) -> bool {
        writev(&self.fd, &[IoSlice::new(&PLAIN), IoSlice::new(packet)]) == Ok(PLAIN.len() + packet.len())
    }

    /// Writes `frame`, a virtio header followed by its packet, in one system call.
    #[inline]
    pub(super) fn write_frame(&self, frame: &[u8]) -> Result<(), Errno> {
        self.insist(frame.len(), || unistd::write(&self.fd, frame))
    }

    /// Repeats a write of `len` bytes until it succeeds or fails for good. A short write is an error: the
    /// kernel accepts a packet whole or not at all.
    #[inline]
    fn insist(&self, len: usize, write: impl Fn() -> Result<usize, Errno>) -> Result<(), Errno> {
        loop {
            match write() {
                Ok(written) if written == len => return Ok(()),
                Ok(_) => return Err(Errno::EMSGSIZE),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => self.wait_for_room()?,
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Waits until the queue is writable. Fails with `ESHUTDOWN` once the shutdown is signalled.
    #[cold]
    fn wait_for_room(&self) -> Result<(), Errno> {
        let mut fds = [
            PollFd::new(self.fd.as_fd(), PollFlags::POLLOUT),
            PollFd::new(self.shutdown.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) if self.shutdown.is_signalled() => Err(Errno::ESHUTDOWN),
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

/// Returns the drop reason for a packet whose write failed with `errno`.
pub(super) fn drop_reason(errno: Errno) -> DropReason {
    match errno {
        Errno::EIO => DropReason::InterfaceDown,
        Errno::ESHUTDOWN => DropReason::Shutdown,
        _ => DropReason::TunWrite,
    }
}
