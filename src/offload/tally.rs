//! Counts of what was written to a queue, kept until the worker publishes them.

use nix::errno::Errno;

use super::coalesce::SealReason;
use super::port::drop_reason;
use super::superpacket::SuperpacketKind;
use crate::drops::DropTally;
use crate::errnos::ErrnoCounts;

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
    /// Closed chains, indexed by [`SealReason`].
    pub seals: [u64; SealReason::ALL.len()],
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
