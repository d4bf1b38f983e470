//! The underlay: the UDP sockets that carry WireGuard messages, grouped by the kernel both ways.
//!
//! - outbound: the outside worker hands a *run*, datagrams back to back for one endpoint, to
//!   [`Sender::send_run`], which sends it in one system call (UDP GSO) where it can.
//! - inbound: [`Receiver::receive`] fills the outside worker's slabs with messages, each one
//!   datagram or a run of them (UDP GRO), and tells their stride and where they came from.
//!
//! One lane owns one socket; [`bind`] opens all of them on one port. Everything speaks of plain IPv4
//! or IPv6 addresses: that a dual-stack socket carries IPv4 as v4-mapped addresses stays in here.
//!
//! | File | Concern |
//! |------|---------|
//! | `socket` | opening, options, what the kernel granted |
//! | `steer` | which socket gets what, where the sender spreads its ports |
//! | `drop_watch` | what the kernel dropped at a socket |
//! | `receive` | messages in |
//! | `send` | runs out, and what to do when the kernel refuses one |
//! | `endpoint` | where a peer is, and the address we answer it from |
//! | `name`, `control` | the kernel's byte layouts for addresses and control messages |
//! | `tally` | the counts that the lane publishes |

mod control;
mod drop_watch;
mod endpoint;
mod name;
mod receive;
mod send;
mod socket;
mod steer;
mod tally;

pub use drop_watch::DropWatch;
pub use endpoint::{Endpoint, LocalSource};
pub use receive::{DEPTH, Received, Receiver};
pub use send::{MAX_RUN_BYTES, MAX_RUN_SEGMENTS, Notices, SendFailure, Sender, max_run};
pub use socket::{BindError, BufferSizes, SocketOptions, UdpSocket, bind};
pub use steer::steer;
pub use tally::{COUNTED_SEGMENTS, ReceiveTally, SegmentCounts, SendTally};
