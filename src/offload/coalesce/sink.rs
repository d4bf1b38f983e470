//! Output of a window: the TUN writer, or a collector in tests.

use super::chain::Coalesced;
use super::seal::SealReason;

/// Receives the output of a window, in order. Its methods do not fail: a sink counts what it cannot
/// deliver.
pub trait Sink {
    /// Takes one packet, unchanged.
    fn packet(&mut self, packet: &[u8]);

    /// Takes two or more packets, merged.
    fn superpacket(&mut self, superpacket: &Coalesced<'_, '_>);

    /// Takes the reason why the next chain was closed. Called before the chain's packet or superpacket;
    /// not called for packets that cannot start a chain.
    fn sealed(&mut self, reason: SealReason);
}
