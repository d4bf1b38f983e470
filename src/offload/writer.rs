//! Writing packets and superpackets from the coalescing window to one TUN queue.

use nix::errno::Errno;
use tracing::warn;

use super::assemble::{AssembleError, SCRATCH, assemble};
use super::coalesce::{Coalesced, SealReason, Sink};
use super::limits::Limits;
use super::port::Port;
use super::superpacket::SuperpacketKind;
use super::tally::WriteTally;
use super::virtio::VirtioHeader;

/// The writing part of a queue. Owns the scratch buffer in which superpackets are assembled.
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

    /// Returns the limits of a window for this queue. Ask for every batch: coalescing is disabled if the
    /// kernel refuses a valid superpacket.
    #[inline]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Returns the counts since they were last taken.
    pub fn tally(&mut self) -> &mut WriteTally {
        &mut self.tally
    }

    /// Writes one complete IP packet, checksums included. Counts the packet as dropped if the write
    /// fails.
    #[inline]
    pub fn write(&mut self, packet: &[u8]) {
        self.port.write_packet(packet, &mut self.tally);
    }

    /// Writes a superpacket: `header` followed by `payloads`, each a segment of `gso_size` payload bytes,
    /// of which the last may be shorter. See [`assemble`]. Counts the segments as dropped if the write
    /// fails.
    ///
    /// # Errors
    /// Fails if the parts do not form a valid superpacket: see [`AssembleError`].
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

    /// Writes the original packets of a superpacket that the kernel refused with `EINVAL`, one by one,
    /// and disables coalescing on this queue. Some kernels grant the offloads and then refuse valid
    /// superpackets (Linux 6.6.44 and some vendor kernels).
    #[cold]
    fn fall_back(&mut self, superpacket: &Coalesced<'_, '_>) {
        if self.limits != Limits::NONE {
            self.limits = Limits::NONE;
            warn!(
                kind = superpacket.kind().label(),
                segments = superpacket.segments(),
                "the kernel refused a superpacket on this TUN queue; coalescing is disabled on the queue"
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
        let len = assembled.expect("a chain within the limits forms a valid superpacket");
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

/// Returns the kind of a superpacket with this `header`, which [`assemble`] has accepted.
fn kind(header: &[u8]) -> SuperpacketKind {
    let protocol = crate::packet::ip::transport(header).map_or(0, |transport| transport.protocol);
    SuperpacketKind::of(header[0] >> 4, protocol)
}
