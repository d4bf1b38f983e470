//! Metrics: what the workers count, and how a scrape reads it.
//!
//! While it handles a batch, a worker adds to plain integers of its own. At the end of the batch it
//! publishes them through handles registered at startup, without a lookup, lock or allocation. A
//! scrape reads the published counters, asks [`Collector`]s for all other values, and never stops or
//! wakes a worker. Each router has its own [`Registry`], since a process can have several routers.
//!
//! ```
//! use laneway::drops::DropReason;
//! use laneway::metrics::{OutsideMetrics, Registry};
//!
//! let registry = Registry::new();
//! let mut metrics = OutsideMetrics::register(&registry, 0);
//! metrics.inbound_drops.add(DropReason::Replay, 2);
//! metrics.publish();
//! let scraped = registry.render();
//! assert!(scraped.contains("laneway_dropped_packets_total{queue=\"0\",direction=\"inbound\",reason=\"replay\"} 2"));
//! ```

mod actor;
pub mod exposition;
mod families;
mod foreign;
mod histogram;
mod http;
mod inside;
mod jobs;
pub mod openmetrics;
mod outside;
mod page;
mod process;
mod registry;
mod samples;
mod shortcuts;
mod take_over;
mod tally;

pub use actor::ActorMetrics;
pub use foreign::ForeignSockets;
pub use histogram::{ExactHistogram, LARGEST};
pub use http::HttpMetrics;
pub use inside::{InsideMetrics, RejectKind};
pub use jobs::JobTally;
pub use outside::OutsideMetrics;
pub use page::{Collector, Page};
pub use process::{ProcessMetrics, SocketMetrics};
pub use registry::Registry;
pub use samples::{DropDirection, DropSample, DropSamples, Dropped};
pub use shortcuts::{SentShortcuts, WrittenShortcuts};
pub use take_over::TakeOverMetrics;
pub use tally::{LabelledTally, PublishedDrops, Tally, lost_in_panics};
