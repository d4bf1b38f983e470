//! TUN queues and their offloads.
//!
//! A TUN opened with virtio headers delivers *superpackets*: up to 64 KiB of one flow behind one
//! header, which Laneway segments. It also accepts superpackets, which the kernel segments if necessary.
//! One system call thus moves about 45 packets.
//!
//! ```text
//! outbound:  TUN → QueueReader → Superpacket::parse → write_segment → (sealed and sent)
//! inbound:   (opened) → Window::push → Window::flush → QueueWriter → TUN
//! rejects:   (no route) → QueueRejecter → TUN
//! ```
//!
//! - `open` creates the interface, attaches the queues and negotiates the offloads; `probe` tries what the kernel
//!   may have granted without taking it.
//! - `reader`, `writer`, `rejecter` and `shortcut` are the parts of a queue; the last three write
//!   through `port`.
//! - `virtio`, `superpacket`, `tunnel` and `segment` decode, validate and segment what was read.
//! - `coalesce`, `limits` and `assemble` merge packets into superpackets and lay them out for a write.
//!
//! Only opening, reading and writing make system calls. Nothing allocates once a queue is open.

mod assemble;
mod coalesce;
mod error;
mod limits;
mod open;
mod port;
mod probe;
mod reader;
mod segment;
mod superpacket;
#[cfg(test)]
mod testing;
mod tunnel;
mod virtio;
mod writer;

pub use crate::shutdown::Shutdown;
pub use assemble::{AssembleError, SCRATCH, assemble, assemble_tunnel};
pub use coalesce::{CAPACITY, CloseReason, Coalesced, Packets, Sink, Window};
pub use error::OpenError;
pub use limits::Limits;
#[cfg(any(test, fuzzing))]
pub(crate) use open::discarding;
pub use open::{
    Lifetime, Offload, Offloads, TunDevice, inherit_queue, inherit_queues, open_or_take_over, open_queues,
};
pub use port::WriteTally;
pub use probe::tried_tunnels;
pub use reader::{DrainEnd, QueueError, QueueReader, Read, TunnelsSeen};
pub use superpacket::{Superpacket, SuperpacketKind};
pub use virtio::{VIRTIO_HEADER_LEN, VirtioHeader};
pub use writer::{QueueRejecter, QueueShortcut, QueueWriter};
