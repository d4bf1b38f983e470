//! Writing single packets to a TUN queue while the worker that owns it sleeps.

use super::port::Port;

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
