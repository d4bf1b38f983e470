//! Writing one TUN queue. Packets come from the coalescing window; they go through the kernel to
//! the workload.

use nix::errno::Errno;
use tracing::warn;

use super::assemble::{AssembleError, SCRATCH, assemble};
use super::coalesce::{Coalesced, SealReason, Sink};
use super::limits::Limits;
use super::port::Port;
use super::superpacket::SuperpacketKind;
use super::tally::WriteTally;
use super::virtio::VirtioHeader;

/// The writing part of a queue, with its own scratch.
#[derive(Debug)]
pub struct QueueWriter {
    port: Port,
    scratch: Box<[u8]>,
    limits: Limits,
    tally: WriteTally,
}

impl QueueWriter {
    pub(super) fn new(port: Port, limits: Limits) -> QueueWriter {
        let scratch = vec![0; SCRATCH].into_boxed_slice();
        QueueWriter { port, scratch, limits, tally: WriteTally::default() }
    }

    /// What a window for this queue may merge. Ask for every batch: a kernel that refuses a good
    /// superpacket ends merging.
    #[inline]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// What was counted.
    pub fn tally(&mut self) -> &mut WriteTally {
        &mut self.tally
    }

    /// Writes one IP packet that is complete, checksums included. What cannot be written is
    /// counted as dropped.
    #[inline]
    pub fn write(&mut self, packet: &[u8]) {
        self.port.write_packet(packet, &mut self.tally);
    }

    /// Writes a superpacket: `header` once, and each of `payloads` as a segment of `gso_size` bytes,
    /// the last of which may be shorter. See [`assemble`].
    ///
    /// # Errors
    /// These are not parts of a superpacket.
    pub fn write_gso<'p>(
        &mut self,
        header: &[u8],
        payloads: impl IntoIterator<Item = &'p [u8]>,
        gso_size: usize,
    ) -> Result<(), AssembleError> {
        let len = assemble(&mut self.scratch, header, payloads, gso_size)?;
        if len == 0 {
            return Ok(());
        }
        let segments = (len - VirtioHeader::LEN - header.len()).div_ceil(gso_size);
        match self.port.write_frame(&self.scratch[..len]) {
            Ok(()) if segments == 1 => self.tally.wrote_packet(len - VirtioHeader::LEN),
            Ok(()) => self.tally.wrote_superpacket(kind(header), segments, len - VirtioHeader::LEN),
            Err(errno) => self.tally.refused(errno, segments),
        }
        Ok(())
    }

    /// Writes the packets of a superpacket that the kernel calls invalid one by one, as they came.
    /// Some kernels grant the offloads and then refuse what they allow (Linux 6.6.44 and some of
    /// vendors); from now on this queue merges nothing.
    #[cold]
    fn fall_back(&mut self, superpacket: &Coalesced<'_, '_>) {
        if self.limits != Limits::NONE {
            self.limits = Limits::NONE;
            warn!(
                kind = superpacket.kind().label(),
                segments = superpacket.segments(),
                "the kernel refuses superpackets on this TUN queue; writing packet by packet from now on"
            );
        }
        self.tally.note_error(Errno::EINVAL);
        self.tally.fallbacks += 1;
        for packet in superpacket.packets() {
            self.write(packet);
        }
    }
}

impl Sink for QueueWriter {
    #[inline]
    fn packet(&mut self, packet: &[u8]) {
        self.write(packet);
    }

    fn superpacket(&mut self, superpacket: &Coalesced<'_, '_>) {
        let segments = superpacket.segments();
        let assembled =
            assemble(&mut self.scratch, superpacket.header(), superpacket.payloads(), superpacket.gso_size());
        let len = assembled.expect("a chain within the limits is a superpacket");
        match self.port.write_frame(&self.scratch[..len]) {
            Ok(()) => self.tally.wrote_superpacket(superpacket.kind(), segments, superpacket.bytes()),
            Err(Errno::EINVAL) => self.fall_back(superpacket),
            Err(errno) => self.tally.refused(errno, segments),
        }
    }

    #[inline]
    fn sealed(&mut self, reason: SealReason) {
        self.tally.seals[reason as usize] += 1;
    }
}

/// The kind of superpacket that `header`, which [`assemble`] took, belongs to.
fn kind(header: &[u8]) -> SuperpacketKind {
    let protocol = crate::packet::ip::transport(header).map_or(0, |transport| transport.protocol);
    SuperpacketKind::of(header[0] >> 4, protocol)
}
