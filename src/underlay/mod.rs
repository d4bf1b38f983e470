//! The underlay: UDP sockets that carry WireGuard messages, with UDP GSO and GRO.
//!
//! - Outbound: [`Sender::send_run`] sends a *run*, contiguous datagrams for one endpoint, in one system
//!   call (UDP GSO) where possible.
//! - Inbound: [`Receiver::receive`] fills the outside worker's slabs. Each buffer receives one datagram
//!   or several of one sender that the kernel grouped (UDP GRO), with their stride and endpoint.
//!
//! Each lane owns one socket; [`bind`] opens all sockets on one port. The API uses plain IPv4 and IPv6
//! addresses only: v4-mapped addresses on dual-stack sockets are internal to this module.
//!
//! | Module | Contents |
//! |--------|----------|
//! | `socket` | opening sockets, socket options, granted offloads |
//! | `steer` | assignment of datagrams to sockets by receiver index or source port |
//! | `drop_watch` | count of datagrams dropped by the kernel |
//! | `receive` | receiving, with GRO |
//! | `send` | sending runs, with fallbacks for refused sends |
//! | `endpoint` | a peer's address and the local address to send from |
//! | `marked` | other sockets that carry the router's mark |
//! | `name`, `control` | byte layouts of socket addresses and control messages |
//! | `tally` | counts that the lane publishes |

mod bind_error;
mod control;
mod drop_watch;
mod endpoint;
mod marked;
mod name;
mod receive;
mod send;
mod socket;
mod tally;

pub use bind_error::BindError;
#[cfg(any(test, fuzzing))]
pub(crate) use control::{Ancillary, decode as decode_control, encode_source};
pub use drop_watch::DropWatch;
pub use endpoint::{Endpoint, LocalSource};
pub use marked::MarkedSockets;
#[cfg(any(test, fuzzing))]
pub(crate) use name::decode as decode_name;
#[cfg(any(test, fuzzing))]
pub(crate) use receive::stride;
pub use receive::{DEPTH, Received, Receiver};
pub use send::{MAX_RUN_BYTES, MAX_RUN_SEGMENTS, Notices, SendFailure, Sender, max_run};
pub use socket::{BufferSizes, Selection, SocketOptions, UdpSocket, bind, steer};
pub use tally::{COUNTED_SEGMENTS, ReceiveTally, SegmentCounts, SendTally};
