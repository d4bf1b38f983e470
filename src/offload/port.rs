//! Low-level writes to a TUN queue, shared by writer, rejecter and shortcut.

use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::uio::writev;
use nix::unistd;

use super::coalesce::CloseReason;
use super::superpacket::SuperpacketKind;
use super::virtio::{HeaderForm, VirtioHeader};
use crate::drops::{DropReason, DropTally};
use crate::errnos::ErrnoCounts;
use crate::faults::{self, Stage};
use crate::shutdown::Shutdown;

/// The virtio header of a complete packet: no GSO, no partial checksum.
///
/// Does not set `DATA_VALID`: the kernel's TUN ignores the flag, and the kernel should verify the
/// checksum itself, since it may be wrong.
const PLAIN: [u8; VirtioHeader::LONG] = [0; VirtioHeader::LONG];

/// Bytes in front of a frame that [`Port::write_frame`] needs for the long form of the virtio header.
pub(super) const HEADROOM: usize = VirtioHeader::LONG - VirtioHeader::LEN;

/// The writing side of a queue's file descriptor.
#[derive(Clone, Debug)]
pub(super) struct Port {
    fd: Arc<OwnedFd>,
    shutdown: Arc<Shutdown>,
    header: HeaderForm,
}

impl Port {
    pub(super) fn new(fd: Arc<OwnedFd>, shutdown: Arc<Shutdown>, header: HeaderForm) -> Port {
        Port { fd, shutdown, header }
    }

    /// Writes one complete packet and counts it as written or dropped.
    #[inline]
    pub(super) fn write_packet(&self, packet: &[u8], tally: &mut WriteTally) {
        let header = &PLAIN[..self.header.len()];
        let pieces = [IoSlice::new(header), IoSlice::new(packet)];
        match self.insist(header.len() + packet.len(), || writev(&self.fd, &pieces)) {
            Ok(()) => tally.wrote_packet(packet.len()),
            Err(errno) => tally.refused(errno, 1),
        }
    }

    /// Writes one complete packet without retrying. Returns whether the kernel accepted it.
    #[inline]
    pub(super) fn try_packet(&self, packet: &[u8]) -> bool {
        let header = &PLAIN[..self.header.len()];
        writev(&self.fd, &[IoSlice::new(header), IoSlice::new(packet)]) == Ok(header.len() + packet.len())
    }

    /// Writes a frame in one system call: a virtio header in the short form followed by its packet, which
    /// begins [`HEADROOM`] bytes into `scratch`. Where the interface has the long form, the header moves
    /// into the headroom.
    #[inline]
    pub(super) fn write_frame(&self, scratch: &mut [u8]) -> Result<(), Errno> {
        let frame = match self.header {
            HeaderForm::Short => &scratch[HEADROOM..],
            HeaderForm::Long => {
                scratch.copy_within(HEADROOM..HEADROOM + VirtioHeader::LEN, 0);
                scratch[VirtioHeader::LEN..VirtioHeader::LONG].fill(0);
                &*scratch
            }
        };
        self.insist(frame.len(), || unistd::write(&self.fd, frame))
    }

    /// Writes a frame in one system call: a virtio header in the long form followed by its packet. `EINVAL` if the
    /// interface has the short form.
    #[inline]
    pub(super) fn write_long_frame(&self, frame: &[u8]) -> Result<(), Errno> {
        if self.header == HeaderForm::Short {
            return Err(Errno::EINVAL);
        }
        self.insist(frame.len(), || unistd::write(&self.fd, frame))
    }

    /// Repeats a write of `len` bytes until it succeeds or fails for good. A short write is an error: the
    /// kernel accepts a packet whole or not at all.
    #[inline]
    fn insist(&self, len: usize, write: impl Fn() -> Result<usize, Errno>) -> Result<(), Errno> {
        faults::point(Stage::Write);
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

/// Counts of the writes to one queue since the last [`take`](Self::take).
#[derive(Clone, Debug, Default)]
pub struct WriteTally {
    /// Completed writes, indexed by [`SuperpacketKind`]; a single packet counts as `None`.
    pub superpackets: [u64; SuperpacketKind::ALL.len()],
    /// IP packets written, each segment of a superpacket counted.
    pub packets: u64,
    /// IP bytes written. The headers of a superpacket count once.
    pub bytes: u64,
    /// Packets written as segments of a superpacket.
    pub coalesced_segments: u64,
    /// Closed chains, indexed by [`CloseReason`].
    pub closes: [u64; CloseReason::ALL.len()],
    /// Packets that could not be written, by reason.
    pub drops: DropTally,
    /// Superpackets that the kernel refused and that were written packet by packet instead.
    pub fallbacks: u64,
    /// Failed writes by errno.
    pub errors: ErrnoCounts,
}

impl WriteTally {
    /// Returns all counts and resets them to zero.
    #[must_use]
    pub fn take(&mut self) -> WriteTally {
        std::mem::take(self)
    }

    /// Counts a single packet of `bytes` bytes.
    #[inline]
    pub(super) fn wrote_packet(&mut self, bytes: usize) {
        self.superpackets[SuperpacketKind::None as usize] += 1;
        self.packets += 1;
        self.bytes += bytes as u64;
    }

    /// Counts a superpacket of `segments` segments and `bytes` bytes.
    #[inline]
    pub(super) fn wrote_superpacket(&mut self, kind: SuperpacketKind, segments: usize, bytes: usize) {
        self.superpackets[kind as usize] += 1;
        self.packets += segments as u64;
        self.bytes += bytes as u64;
        self.coalesced_segments += segments as u64;
    }

    /// Counts a failed write and the packets lost with it.
    #[cold]
    pub(super) fn refused(&mut self, errno: Errno, packets: usize) {
        self.note_error(errno);
        self.drops.add(drop_reason(errno), packets as u64);
    }

    /// Counts a failed write that lost no packets.
    #[cold]
    pub(super) fn note_error(&mut self, errno: Errno) {
        self.errors.add(errno);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drops::DropReason;

    #[test]
    fn a_refused_packet_has_an_error_and_a_drop_reason() {
        let mut tally = WriteTally::default();
        tally.refused(Errno::EIO, 1);
        tally.refused(Errno::EIO, 64);
        tally.refused(Errno::ENOBUFS, 2);
        assert_eq!((tally.errors.of(Errno::EIO), tally.errors.of(Errno::ENOBUFS)), (2, 1));
        assert_eq!(tally.drops.of(DropReason::InterfaceDown), 65);
        assert_eq!(tally.drops.of(DropReason::TunWrite), 2);
    }
}
