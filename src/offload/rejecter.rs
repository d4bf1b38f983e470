//! Writing back to the TUN while a read is still borrowed: rejects, and packets for the device's
//! own address.

use super::port::Port;
use super::superpacket::Superpacket;
use super::tally::WriteTally;
use crate::units::MAX_PACKET;

/// The part of a queue that answers what was read, with its own scratch, so that neither a borrowed
/// read nor a superpacket that is half put together is in its way.
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

    /// Writes one IP packet that is complete, checksums included. What cannot be written is
    /// counted as dropped.
    pub fn write_reject(&mut self, packet: &[u8]) {
        self.port.write_packet(packet, &mut self.tally);
    }

    /// Writes a superpacket back, segment by segment.
    pub fn self_forward(&mut self, superpacket: &Superpacket<'_>) {
        for i in 0..superpacket.segments() {
            let len = superpacket.write_segment(i, &mut self.scratch);
            self.port.write_packet(&self.scratch[..len], &mut self.tally);
        }
    }

    /// What was counted.
    pub fn tally(&mut self) -> &mut WriteTally {
        &mut self.tally
    }
}
