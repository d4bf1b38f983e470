//! Writing back to the TUN while a read is still borrowed: rejects, and packets for the interface's
//! own address.

use super::port::Port;
use super::superpacket::Superpacket;
use super::tally::WriteTally;
use crate::units::MAX_PACKET;

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
