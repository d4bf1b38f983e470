//! The peer actor, and what it keeps about peers.

pub(crate) mod actor;
pub mod apply;
pub(crate) mod lookups;
pub(crate) mod names;
mod resolver;
pub(crate) mod schedule;
pub(crate) mod snapshot_builder;
