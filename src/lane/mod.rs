//! Lanes: the worker threads that move packets, and the rings between them.
//!
//! A lane is one TUN queue, one UDP socket (two where ports are spread), and two threads pinned to
//! neighboring CPUs:
//!
//! ```text
//!            ┌──────────── inside worker ────────────┐    ┌─────── outside worker ───────┐
//! TUN queue ─┤ read → route → segment → seal         ├───▶│ send (UDP GSO)               ├─ socket
//!            │ write ← coalesce                      │◀───┤ source check ← open ← receive│
//!            └───────────────────────────────────────┘    └──────────────────────────────┘
//!                                                 to the inside worker of the flow's own lane
//! ```
//!
//! The worker that reads a packet does the expensive work on it, unless an idle worker of any lane has taken
//! it before it is due ([`share`]); the lane's other worker only writes it out. Both threads therefore share
//! the load in both directions, each descriptor has one owner, and the data path takes no lock. One exception: if the other worker sleeps, a lone packet is written out by
//! the worker that read it ([`shortcut`]).
//!
//! Backpressure:
//!
//! | From → to | Bounded by | When full |
//! |---|---|---|
//! | inside → outside | the inside worker's pool | the inside worker stops reading its TUN queue and keeps serving its ring; the kernel's queue pushes back on TCP |
//! | outside → inside | the ring; with one lane, the outside worker's pool | the batch waits and the worker receives nothing more; datagrams queue in the socket's buffer. A batch that has waited 20 ms is dropped and counted, so that a stuck worker cannot block other lanes' flows forever |
//! | outside → peer actor | the channels in [`channels`] | the newest message is dropped and counted |
//!
//! Ordering: packets of a TUN queue get their counters in order and leave through one ring and one
//! socket, whoever seals them; opened packets of a flow reach one inside worker through one ring. Nothing overtakes a
//! waiting batch.
//!
//! On shutdown, workers stop reading, then send and write everything already accepted ([`wait::quiesce`]).

pub mod bounds;
pub mod channels;
mod fairness;
pub mod inside;
pub mod outside;
pub mod path_limit;
pub mod peer_metrics;
pub mod peers;
pub mod ring;
pub mod routing_loop;
pub mod share;
pub mod shortcut;
pub mod sockets;
pub mod staging;
pub mod standing;
pub mod wait;

use std::io;

use thiserror::Error;

use crate::lane::wait::sleep::Stopped;
use crate::offload::QueueError;

/// Why a worker stopped working.
#[derive(Debug, Error)]
pub enum WorkerError {
    /// The router was told to stop.
    #[error("the router was told to stop")]
    Stopped,
    /// The TUN queue failed.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The UDP socket failed.
    #[error("the UDP socket failed: {0}")]
    Socket(#[from] io::Error),
}

impl From<Stopped> for WorkerError {
    fn from(_: Stopped) -> Self {
        WorkerError::Stopped
    }
}
