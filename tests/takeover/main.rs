//! Take-overs of a running router by another process, and starts with what one has left that has crashed or is restarted.
//!
//! A binary of its own: its tests must not lose a packet, so they run beside few others. Processes are killed on demand
//! ([`laneway::faults::step`]), which takes a debug build.
#![cfg(debug_assertions)]

#[path = "../support/mod.rs"]
mod support;

mod kept;
mod manager;
mod restart;
mod succession;
mod traffic;
