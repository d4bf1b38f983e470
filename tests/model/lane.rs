//! Doorbell, ring, pool and jobs of the lanes: their source, over stand-ins.

#![allow(dead_code, unreachable_pub)]

#[path = "../../src/lane/ring/doorbell.rs"]
pub mod doorbell;
#[path = "../../src/lane/share/jobs.rs"]
pub mod jobs;
#[path = "../../src/lane/ring/pool.rs"]
pub mod pool;
#[path = "../../src/lane/ring/ring.rs"]
pub mod ring;

/// Replaces `src/lane/ring/sync.rs`.
mod sync {
    pub use loom::sync::Arc;
    pub use loom::sync::atomic::{AtomicU64, Ordering};

    pub use crate::stand_ins::{ArrayQueue, AtomicU8, Event, Place, fence};
}
