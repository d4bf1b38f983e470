//! Metrics: what the workers count, and how a scrape reads it.
//!
//! While it handles a batch, a worker adds to plain integers of its own. At the end of the batch it
//! publishes them through handles registered at startup, without a lookup, lock or allocation. A
//! scrape reads the published counters, asks [`Collector`]s for all other values, and never stops or
//! wakes a worker. Each router has its own [`Registry`], since a process can have several routers.
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
