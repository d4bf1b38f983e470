//! WireGuard, protocol version 1, without a clock, a socket or a source of randomness inside
//! (whitepaper: <https://www.wireguard.com/papers/wireguard.pdf>; its section numbers are all over
//! this module).
//!
//! Two paths run through here:
//!
//! - **Data** ([`messages`] → [`session`] → [`aead`], `replay`): workers seal and open runs of
//!   datagrams with a [`Session`](session::Session) they got from a snapshot (to send) or from the
//!   [`table`] (to receive), note the traffic in its [`activity`], and take no lock to send.
//! - **Handshakes** ([`protocol`] → `cookie`, [`limiter`] → `peer` → `noise`, `tai64n`): one
//!   thread owns the [`Protocol`](protocol::Protocol). It makes sessions and retires them, and says
//!   in [`outputs`] what is to be sent. `rotation` decides which session follows which, `indices`
//!   hands out the numbers they are addressed by, and [`timers`] holds the constants and rules of
//!   time.
//!
//! What is deliberately absent: packets that wait for a session (the lane stages them), endpoints
//! (who calls knows where a datagram came from), allowed IPs, and anything armed by data workers:
//! timers are derived from activity when the protocol looks.

pub mod activity;
pub mod aead;
mod cookie;
mod indices;
pub mod keys;
pub mod limiter;
pub mod messages;
mod noise;
pub mod outputs;
mod peer;
pub mod protocol;
pub mod replay;
mod rotation;
pub mod session;
pub mod suite;
pub mod table;
mod tai64n;
#[cfg(test)]
mod tests;
pub mod timers;
