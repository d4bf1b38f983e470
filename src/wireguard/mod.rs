//! The WireGuard protocol, version 1, without a clock, a socket or a source of randomness.
//!
//! Section numbers in this module refer to the whitepaper
//! (<https://www.wireguard.com/papers/wireguard.pdf>).
//!
//! There are two paths:
//!
//! - **Data** ([`messages`] → [`session`] → [`aead`], [`replay`]): workers seal and open runs of
//!   datagrams with a [`Session`](session::Session), taken from a snapshot to send and from the
//!   [`table`] to receive, and record the traffic in its [`activity`]. Sending takes no lock.
//! - **Handshakes** ([`protocol`] → `cookie`, [`limiter`] → `peer` → `noise`, `tai64n`): one
//!   thread owns the [`Protocol`](protocol::Protocol). It creates and retires sessions and reports
//!   what to send as [`outputs`]. `rotation` decides which session replaces which, `indices`
//!   allocates receiver indices, which decide the [lane](lanes) that receives, and [`timers`] holds
//!   the timer constants and rules. [`carry`] exports and imports its [`state`].
//!
//! Not in this module: packets waiting for a session (the lane stages them), endpoints (the caller
//! knows where a datagram came from) and allowed IPs. Data workers arm no timers; deadlines are
//! derived from the recorded activity when the protocol is polled.

pub mod activity;
pub mod aead;
pub mod carry;
mod cookie;
mod indices;
pub mod keys;
pub mod lanes;
pub mod limiter;
pub mod messages;
mod noise;
pub mod outputs;
mod peer;
mod permutation;
pub mod protocol;
pub mod replay;
mod rotation;
pub mod session;
pub mod settings;
#[cfg(any(test, fuzzing))]
pub(crate) mod single;
pub mod state;
pub mod suite;
pub mod table;
mod tai64n;
#[cfg(test)]
pub(crate) mod tests;
pub mod timers;
