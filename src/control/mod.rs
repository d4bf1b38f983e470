//! Control: everything that decides and nothing that forwards.

mod actor;
pub mod admin;
pub mod config;
pub mod device;
mod draft;
mod lookups;
mod names;
pub mod netlink;
mod parts;
pub mod reload;
mod schedule;
pub mod supervisor;
pub mod uapi;
