//! Control: everything that decides and nothing that forwards.

mod actor;
pub mod admin;
pub mod config;
pub mod device;
mod http;
pub mod metrics;
pub mod netlink;
mod parts;
pub mod readiness;
pub mod roll;
pub mod supervisor;
pub mod uapi;
