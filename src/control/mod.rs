//! Control: everything that decides and nothing that forwards.

mod actor;
pub mod admin;
pub mod config;
pub mod device;
mod draft;
pub mod netlink;
mod parts;
pub mod supervisor;
pub mod uapi;
