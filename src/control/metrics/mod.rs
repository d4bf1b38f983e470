//! Metrics collected at scrape time: of threads, rings, sockets, peers and the process. The workers' own
//! counters are in [`crate::lane::telemetry`].
//!
//! Collection never waits for a worker or the peer actor: the values come from the kernel or from atomics
//! that are maintained for other purposes.

mod inboxes;
mod peers;
mod process;
mod sockets;
mod threads;

pub use inboxes::{InboxMetrics, LaneInboxes};
pub use peers::{PEER_LIMIT, PeerMetrics};
pub use process::ProcessMetrics;
pub use sockets::SocketMetrics;
pub use threads::ThreadMetrics;
