//! The doorbell and the inbox of the lanes, from their own source, over stand-ins.

#![allow(dead_code, unreachable_pub)]

#[path = "../../src/lane/doorbell.rs"]
pub mod doorbell;
#[path = "../../src/lane/inbox.rs"]
pub mod inbox;

/// Takes the place of `src/lane/sync.rs`.
mod sync {
    pub use loom::sync::Arc;
    pub use loom::sync::atomic::Ordering;

    pub use crate::stand_ins::{ArrayQueue, AtomicU8, Event, fence};
}
