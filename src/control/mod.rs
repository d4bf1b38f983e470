//! control (being written).

pub mod config;
pub mod netlink;
pub mod uapi;
