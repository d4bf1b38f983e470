//! Laneway: a userspace packet router for Linux, multiqueue TUN on the inside and WireGuard on the
//! outside.

pub mod control;
pub mod cli;
pub mod drops;
pub mod errnos;
pub mod lane;
pub mod offload;
pub mod packet;
pub mod routes;
pub mod sys;
pub mod underlay;
pub mod units;
pub mod wireguard;
