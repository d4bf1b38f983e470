//! Where a window's packets go: the TUN, or a test that looks at them.

use super::chain::Coalesced;
use super::seal::SealReason;

/// Takes what a window hands over, in order.
pub trait Sink {
    /// What ends the flush.
    type Error;

    /// One packet, as it came.
    ///
    /// # Errors
    /// When the sink can take no more packets.
    fn packet(&mut self, packet: &[u8]) -> Result<(), Self::Error>;

    /// Two or more packets as one.
    ///
    /// # Errors
    /// When the sink can take no more packets.
    fn superpacket(&mut self, superpacket: &Coalesced<'_, '_>) -> Result<(), Self::Error>;

    /// Why the chain that comes next was sealed. Not called for packets that could start no chain.
    fn sealed(&mut self, reason: SealReason);
}
