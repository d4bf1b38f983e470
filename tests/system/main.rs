//! Tests of routers and of the program on real devices, sockets and peers, one module each.
//!
//! One test binary, so that their waits overlap and the crate is linked once. Tests that replace something for
//! a whole process (its allocator, its clock, its panics) are binaries of their own beside this folder.

#[path = "../support/mod.rs"]
mod support;

mod abuse;
mod demo;
mod doctor;
mod drain;
mod drop_in;
mod drops;
mod ecn;
mod exposure;
mod fail_closed;
mod faults;
mod flood;
mod gateway;
mod health;
mod interop;
mod isolation;
mod laboratory;
mod lanes;
mod laneways;
mod loops;
mod metrics;
mod netns;
mod offload;
mod oracle;
mod order;
mod overlay;
mod port;
mod prometheus;
mod queues;
mod rejects;
mod sandbox;
mod service;
mod sharing;
mod sidecar;
mod stopping;
mod switches;
mod top;
mod uapi;
mod underlay;
mod web;
