//! What a queue's writing side counts, until its worker publishes it.

use nix::errno::Errno;

use super::coalesce::SealReason;
use super::port::drop_reason;
use super::superpacket::SuperpacketKind;
use crate::drops::DropTally;
use crate::errnos::ErrnoCounts;

/// Counts since the worker last took them.
#[derive(Clone, Debug, Default)]
pub struct WriteTally {
    /// Writes by kind, indexed by [`SuperpacketKind`]; a single packet counts as `None`.
    pub superpackets: [u64; SuperpacketKind::ALL.len()],
    /// IP packets, as the kernel will split them.
    pub packets: u64,
    /// Bytes of what was written, a superpacket's headers once.
    pub bytes: u64,
    /// Packets that were merged with others.
    pub coalesced_segments: u64,
    /// Sealed chains, indexed by [`SealReason`].
    pub seals: [u64; SealReason::ALL.len()],
    /// Packets that were not written, by reason.
    pub drops: DropTally,
    /// Superpackets that the kernel refused and that were then written packet by packet.
    pub fallbacks: u64,
    /// Refused writes by error.
    pub errors: ErrnoCounts,
}

impl WriteTally {
    /// Hands over every count and starts again from zero.
    #[must_use]
    pub fn take(&mut self) -> WriteTally {
        std::mem::take(self)
    }

    /// Counts a single packet.
    #[inline]
    pub(super) fn wrote_packet(&mut self, bytes: usize) {
        self.superpackets[SuperpacketKind::None as usize] += 1;
        self.packets += 1;
        self.bytes += bytes as u64;
    }

    /// Counts a superpacket of `segments` packets.
    #[inline]
    pub(super) fn wrote_superpacket(&mut self, kind: SuperpacketKind, segments: usize, bytes: usize) {
        self.superpackets[kind as usize] += 1;
        self.packets += segments as u64;
        self.bytes += bytes as u64;
        self.coalesced_segments += segments as u64;
    }

    /// Counts a refused write and the packets that are lost with it.
    #[cold]
    pub(super) fn refused(&mut self, errno: Errno, packets: usize) {
        self.note_error(errno);
        self.drops.add(drop_reason(errno), packets as u64);
    }

    /// Counts a refused write after which nothing is lost.
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
