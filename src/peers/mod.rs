//! The peer actor, and what it keeps about peers.

pub(crate) mod actor;
pub(crate) mod apply;
pub mod handle;
pub(crate) mod lookups;
pub(crate) mod names;
pub(crate) mod reports;
pub(crate) mod resolver;
pub(crate) mod schedule;
pub(crate) mod snapshot_builder;
pub mod state;
