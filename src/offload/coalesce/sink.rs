//! Where a window's packets go: the TUN, or a test that looks at them.

use super::chain::Coalesced;
use super::seal::SealReason;

/// Takes what a window hands over, in order. It cannot fail: what it cannot deliver it counts.
pub trait Sink {
    /// One packet, as it came.
    fn packet(&mut self, packet: &[u8]);

    /// Two or more packets as one.
    fn superpacket(&mut self, superpacket: &Coalesced<'_, '_>);

    /// Why the chain that comes next was sealed. Not called for packets that could start no chain.
    fn sealed(&mut self, reason: SealReason);
}
