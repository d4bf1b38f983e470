//! The TUN queue and its offloads: the inside of the router.
//!
//! A TUN with virtio headers hands over *superpackets*: up to 64 KiB of one flow behind one header,
//! which the kernel leaves to us to cut. It takes superpackets too, and cuts them itself if it must.
//! One system call then moves some 45 packets.
//!
//! ```text
//! outbound:  TUN → reader → Superpacket::parse → write_segment → (sealed and sent)
//! inbound:   (opened) → Window::push → flush → QueueWriter → TUN
//! rejects:   (not routed) → QueueRejecter → TUN
//! ```
//!
//! - `open`: creates the interface, attaches the queues, negotiates.
//! - `reader`, `writer`, `rejecter`: the three parts of a queue; `port` is what the writing two share, and
//!   `shortcut` with them.
//! - `virtio`, `superpacket`, `segment`: what a read means, and how it is cut.
//! - `coalesce`, `limits`, `assemble`: what may be merged, and what is then written.
//!
//! All but opening, reading and writing is free of system calls, and nothing here allocates once a
//! queue is open.

mod assemble;
mod coalesce;
mod limits;
mod open;
mod port;
mod reader;
mod rejecter;
mod segment;
mod shortcut;
mod shutdown;
mod superpacket;
mod tally;
#[cfg(test)]
mod testing;
mod virtio;
mod writer;

pub use assemble::{AssembleError, SCRATCH, assemble};
pub use coalesce::{CAPACITY, Coalesced, Packets, SealReason, Sink, Window};
pub use limits::Limits;
pub use open::{Offload, Offloads, OpenError, TunDevice, inherit_queue, open_queues};
pub use reader::{DrainEnd, QueueError, QueueReader, Read};
pub use rejecter::QueueRejecter;
pub use shortcut::QueueShortcut;
pub use shutdown::Shutdown;
pub use superpacket::{Superpacket, SuperpacketKind};
pub use tally::WriteTally;
pub use virtio::{VIRTIO_HEADER_LEN, VirtioHeader};
pub use writer::QueueWriter;
