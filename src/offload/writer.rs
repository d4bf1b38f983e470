//! Writing packets and superpackets from the coalescing window to one TUN queue.

use nix::errno::Errno;
use tracing::warn;

use super::assemble::{AssembleError, SCRATCH, assemble, assemble_tunnel};
use super::coalesce::{CloseReason, Coalesced, Sink};
use super::limits::Limits;
use super::port::{HEADROOM, Port, WriteTally};
use super::superpacket::{Superpacket, SuperpacketKind};
use super::virtio::VirtioHeader;
use crate::units::MAX_PACKET;

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
        let scratch = vec![0; HEADROOM + SCRATCH].into_boxed_slice();
        QueueWriter { port, scratch, limits, tally: WriteTally::default() }
    }

    /// Returns the limits of a window for this queue. Ask for every batch: coalescing is disabled if the
    /// kernel refuses a valid superpacket.
    #[inline]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Sets whether datagrams of known encapsulations are merged although they have no checksum; see
    /// [`Limits::fill_checksums`].
    pub fn fill_checksums(&mut self, fill: bool) {
        self.limits.fill_checksums = fill;
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
        let len = assemble(&mut self.scratch[HEADROOM..], header, payloads, gso_size)?;
        if len == 0 {
            return Ok(());
        }
        let segments = (len - VirtioHeader::LEN - header.len()).div_ceil(gso_size);
        match self.port.write_frame(&mut self.scratch[..HEADROOM + len]) {
            Ok(()) if segments == 1 => self.tally.wrote_packet(len - VirtioHeader::LEN),
            Ok(()) => self.tally.wrote_superpacket(kind(header), segments, len - VirtioHeader::LEN),
            Err(errno) => self.tally.refused(errno, segments),
        }
        Ok(())
    }

    /// Writes the original packets of a superpacket that the kernel refused with `EINVAL`, one by one,
    /// and disables coalescing on this queue. Some kernels grant the offloads and then refuse valid
    /// superpackets (Linux 6.6.44 and some vendor kernels). After a refused superpacket inside a tunnel, only those
    /// are disabled.
    #[cold]
    fn fall_back(&mut self, superpacket: &Coalesced<'_, '_>) {
        let kind = superpacket.kind();
        let (kept, disabled) = if kind == SuperpacketKind::UdpTunnel {
            (Limits { tunnel_segments: 1, ..self.limits }, "coalescing inside UDP tunnels")
        } else {
            (Limits::NONE, "coalescing")
        };
        if self.limits.segments(kind) > 1 {
            self.limits = kept;
            warn!(
                kind = kind.label(),
                segments = superpacket.segments(),
                "the kernel refused a superpacket on this TUN queue; {disabled} is disabled on the queue"
            );
        }
        self.tally.note_error(Errno::EINVAL);
        self.tally.fallbacks += 1;
        for packet in superpacket.packets() {
            self.write(packet);
        }
    }

    /// Assembles a superpacket and writes it in one system call.
    fn write_whole(&mut self, superpacket: &Coalesced<'_, '_>) -> Result<(), Errno> {
        const VALID: &str = "a chain within the limits forms a valid superpacket";
        let (header, payloads) = (superpacket.header(), superpacket.payloads());
        let gso_size = superpacket.gso_size();
        if superpacket.kind() == SuperpacketKind::UdpTunnel {
            let inner = superpacket.inner();
            let len = assemble_tunnel(&mut self.scratch, header, inner, payloads, gso_size).expect(VALID);
            return self.port.write_long_frame(&self.scratch[..len]);
        }
        let len = assemble(&mut self.scratch[HEADROOM..], header, payloads, gso_size).expect(VALID);
        self.port.write_frame(&mut self.scratch[..HEADROOM + len])
    }
}

impl Sink for QueueWriter {
    #[inline]
    fn packet(&mut self, packet: &[u8]) {
        self.write(packet);
    }

    fn superpacket(&mut self, superpacket: &Coalesced<'_, '_>) {
        let segments = superpacket.segments();
        match self.write_whole(superpacket) {
            Ok(()) => self.tally.wrote_superpacket(superpacket.kind(), segments, superpacket.bytes()),
            Err(Errno::EINVAL) => self.fall_back(superpacket),
            Err(errno) => self.tally.refused(errno, segments),
        }
    }

    #[inline]
    fn closed(&mut self, reason: CloseReason) {
        self.tally.closes[reason as usize] += 1;
    }
}

/// Returns the kind of a superpacket with this `header`, which [`assemble`] has accepted.
fn kind(header: &[u8]) -> SuperpacketKind {
    let protocol = crate::packet::ip::transport(header).map_or(0, |transport| transport.protocol);
    SuperpacketKind::of(header[0] >> 4, protocol)
}

/// The part of a queue that writes rejects.
///
/// It has a scratch buffer of its own, so it can write while a read is borrowed and while the writer
/// assembles a superpacket.
#[derive(Debug)]
pub struct QueueRejecter {
    port: Port,
    scratch: Box<[u8]>,
    tally: WriteTally,
}

impl QueueRejecter {
    pub(super) fn new(port: Port) -> QueueRejecter {
        let scratch = vec![0; MAX_PACKET].into_boxed_slice();
        QueueRejecter { port, scratch, tally: WriteTally::default() }
    }

    /// Writes one complete IP packet, checksums included. Counts the packet as dropped if the write
    /// fails.
    pub fn write_reject(&mut self, packet: &[u8]) {
        self.port.write_packet(packet, &mut self.tally);
    }

    /// Writes a superpacket back to the TUN, segment by segment. Counts segments as dropped if their
    /// write fails.
    pub fn self_forward(&mut self, superpacket: &Superpacket<'_>) {
        for i in 0..superpacket.segments() {
            let len = superpacket.write_segment(i, &mut self.scratch);
            self.port.write_packet(&self.scratch[..len], &mut self.tally);
        }
    }

    /// Returns the counts since they were last taken.
    pub fn tally(&mut self) -> &mut WriteTally {
        &mut self.tally
    }
}

/// Writes single packets to a TUN queue from an outside worker, without waking the inside worker. Has
/// no scratch buffer, counts nothing and does not coalesce.
#[derive(Clone, Debug)]
pub struct QueueShortcut {
    port: Port,
}

impl QueueShortcut {
    pub(super) fn new(port: Port) -> QueueShortcut {
        QueueShortcut { port }
    }

    /// Writes one complete IP packet, checksums included, without blocking. Returns whether the kernel
    /// accepted it. If not, send the packet through the ring to the inside worker, which counts a failed
    /// write.
    #[inline]
    pub fn write(&self, packet: &[u8]) -> bool {
        self.port.try_packet(packet)
    }
}
