//! WireGuard, protocol version 1.
pub mod activity;
pub mod aead;
pub mod cookie;
mod indices;
pub mod keys;
pub mod limiter;
pub mod messages;
pub mod noise;
pub mod replay;
pub mod session;
pub mod table;
pub mod tai64n;
pub mod timers;
