//! Control plane: configuration, handshakes, and the start, supervision and stop of the router's threads.
//!
//! No packet passes through this module; forwarding is in [`crate::lane`].

mod actor;
pub mod admin;
pub mod config;
pub mod device;
mod draft;
mod http;
mod lookups;
pub mod metrics;
mod names;
pub mod netlink;
mod parts;
pub mod readiness;
pub mod reload;
pub mod roll;
pub mod sandbox;
mod schedule;
pub mod service;
pub mod stopping;
pub mod supervisor;
pub mod uapi;
