//! The metrics that a scrape asks for: of the threads, the inboxes, the sockets, the peers and the process. What
//! workers count themselves is in [`crate::lane::telemetry`].
//!
//! Nothing here waits for a worker or the peer actor: the numbers come from the kernel or from
//! atomics that are written anyway.

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
