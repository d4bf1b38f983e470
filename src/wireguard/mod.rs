//! WireGuard, protocol version 1.
pub mod activity;
pub mod aead;
mod indices;
pub mod keys;
pub mod messages;
pub mod replay;
pub mod session;
pub mod table;
pub mod timers;
