//! Coalescing: merges inbound packets of one batch into superpackets for the TUN.
//!
//! Packets come from the inside worker's ring: opened, checked against the allowed IPs and assigned to
//! this lane by flow hash. They leave through a [`Sink`] to the TUN writer.
//!
//! - `window` collects the packets of a batch into chains.
//! - `candidate` decides which packets may be merged, and which headers match.
//! - `encapsulated` does so for TCP inside VXLAN and Geneve.
//! - `chain` is a sequence of packets that leave as one superpacket.

mod candidate;
mod chain;
mod close;
mod encapsulated;
mod window;

pub use chain::{Coalesced, Packets, Sink};
pub use close::CloseReason;
pub use window::{CAPACITY, Window};

#[cfg(test)]
mod tests;
