//! Lanes: the actors that move packets, and how they hand them on.
//!
//! A lane is one TUN queue, one UDP socket, and two threads pinned next to each other:
//!
//! ```text
//!            ┌──────────── inside worker ────────────┐    ┌─────── outside worker ───────┐
//! TUN queue ─┤ read → route → segment → seal         ├───▶│ send (UDP GSO)               ├─ socket
//!            │ write ← coalesce                      │◀───┤ source check ← open ← receive│
//!            └───────────────────────────────────────┘    └──────────────────────────────┘
//!                                                 to the inside worker of the flow's own lane
//! ```
//!
//! Whoever reads a batch does the heavy work on it; the other side only writes it out. So both
//! threads are loaded in both directions, each descriptor has one owner, and no lock stands on the
//! way. Only a lone packet that finds the other worker asleep does not wake it: whoever read it
//! writes it out as well ([`shortcut`]).
//!
//! What full means:
//!
//! | From → to | Bounded by | When full |
//! |---|---|---|
//! | inside → outside | the inside worker's slabs | it stops reading its TUN queue and goes on writing what its inbox brings; the kernel's queue pushes back on TCP |
//! | outside → inside | the inbox; with one lane, the outside worker's slabs | what is in hand waits and nothing is received: the socket's buffer holds what comes. A batch that has waited 20 ms is dropped and counted, so that a stuck worker does not hold up the other lanes' flows for good |
//! | outside → peer actor | the queues of [`mailbox`] | the newest is dropped and counted |
//!
//! Order: a queue's packets get their counters in order and leave by one inbox and one socket; opened
//! packets of a flow reach one inside worker by one inbox. Nothing overtakes a waiting batch.
//!
//! A router that is told to stop takes in nothing more and sends and writes what it has taken
//! ([`drain`]).

pub mod batch;
pub mod bounds;
pub mod cpu_list;
pub mod doorbell;
#[cfg(test)]
mod doorbell_tests;
pub mod drain;
pub mod inbox;
#[cfg(test)]
mod inbox_tests;
pub mod inside;
pub mod mailbox;
pub mod outside;
pub mod path_limit;
pub mod peers;
pub mod pinning;
pub mod pulse;
pub mod routing_loop;
pub mod shortcut;
pub mod sleep;
pub mod spin;
pub mod staging;
pub mod sync;
pub mod telemetry;
pub mod topology;
#[cfg(test)]
mod topology_tests;
pub mod worker;
