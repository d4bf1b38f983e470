//! Coalescing: segments from the outside become superpackets for the TUN, within one batch.
//!
//! Packets come from the inside worker's inbox, opened, checked against allowed IPs and steered
//! here by their flow's hash. They go through a [`Sink`] to the TUN writer.
//!
//! `window.rs` holds the batch, `candidate.rs` the rules for one packet and for two, `chain.rs`
//! what became of them.

mod candidate;
mod chain;
mod seal;
mod sink;
mod window;

pub use chain::{Coalesced, Packets};
pub use seal::SealReason;
pub use sink::Sink;
pub use window::{CAPACITY, Window};

#[cfg(test)]
mod tests;
