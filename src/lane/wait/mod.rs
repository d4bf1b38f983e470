//! How threads wait: for work, for each other, for the end.

pub mod heartbeat;
pub mod pause;
pub mod quiesce;
pub mod sleep;
