//! What the workers count, and how it gets to a scrape.
//!
//! A worker adds to plain numbers of its own while it handles a batch and publishes them once at
//! the end, through handles registered at start: no lookup, lock or allocation on the way. A scrape
//! reads the published numbers, asks [`Collector`]s for what nobody counts, and never stops or wakes a
//! worker. Each router has a [`Registry`] of its own,
//! for there can be several routers in one process.
//!
//! ```
//! use laneway::drops::DropReason;
//! use laneway::lane::telemetry::{OutsideTelemetry, Registry};
//!
//! let registry = Registry::new();
//! let mut telemetry = OutsideTelemetry::register(&registry, 0);
//! telemetry.inbound_drops.add(DropReason::Replay, 2);
//! telemetry.publish();
//! let scraped = registry.render();
//! assert!(scraped.contains("laneway_dropped_packets_total{queue=\"0\",direction=\"inbound\",reason=\"replay\"} 2"));
//! ```

mod families;
mod histogram;
mod inside;
mod outside;
mod page;
mod peers;
mod registry;
mod shortcuts;
mod tally;

pub use histogram::{ExactHistogram, LARGEST};
pub use inside::{InsideTelemetry, RejectKind};
pub use outside::OutsideTelemetry;
pub use page::{Collector, Page};
pub use peers::PeerTelemetry;
pub use registry::Registry;
pub use shortcuts::{SentShortcuts, WrittenShortcuts};
pub use tally::{LabelledTally, PublishedDrops, Tally};
