//! Control plane: configuration, handshakes, and the start, supervision and stop of the router's threads.
//!
//! No packet passes through this module; forwarding is in [`crate::lane`].

pub mod admin;
mod continuing;
pub(crate) mod http;
pub mod kill_switch;
pub mod listen;
pub mod mtu;
pub mod paths;
mod port_watch;
pub mod readiness;
pub mod reload;
pub mod restarts;
pub mod sandbox;
pub mod start;
pub mod stopping;
pub mod takeover;
pub mod threads;
pub mod web;
pub(crate) mod wiring;
