//! The TUN queue and its offloads: the inside of the router.

mod assemble;
mod coalesce;
mod limits;
mod segment;
mod superpacket;
#[cfg(test)]
mod testing;
mod virtio;

pub use assemble::{AssembleError, SCRATCH, assemble};
pub use coalesce::{CAPACITY, Coalesced, FlushError, Full, Packets, SealReason, Sink, Window};
pub use limits::Limits;
pub use superpacket::{Superpacket, SuperpacketKind};
pub use virtio::VirtioHeader;
