//! Laneway: a packet router for Linux that runs beside a workload. Inside, a multiqueue TUN device;
//! outside, standard WireGuard over UDP.
//!
//! # Map of the house
//!
//! A *lane* is one TUN queue, one UDP socket and two threads. This is the way of a packet, file by
//! file:
//!
//! ```text
//! outbound   offload/reader      a superpacket is read and checked
//!            lane/inside         its peer is looked up in routes; segments are cut into a slab
//!            wireguard/session   and sealed there, a run at a time
//!            lane/ring          the slab goes to the lane's outside worker
//!            underlay/send       which sends each run with one system call
//!            lane/inside/reject  what has no route is answered (packet/reject), and what does not
//!                                fit the path (lane/path_limit); what was sealed here before and
//!                                comes back is dropped (lane/routing_loop)
//!
//! inbound    underlay/receive    runs of datagrams are received into slabs
//!            wireguard/session   and opened there; replays and forgeries are dropped
//!            lane/outside        the source must be the sender's; the flow picks the lane
//!            lane/ring          the slab goes to that lane's inside worker
//!            offload/coalesce    which makes superpackets of its segments again
//!            offload/writer      and writes each with one system call
//! ```
//!
//! Beside that way stand [`router`] (the peer actor with the handshakes, the supervisor,
//! configuration, the control socket, metrics and probes over HTTP, least privilege), [`cli`] on top of
//! everything, and [`sys`] below everything: the only unsafe code there is, that is calls of the kernel,
//! vector registers (`sys::avx512`, an AEAD for eight datagrams at a time; `sys::avx2`, plain code compiled for
//! wider ones) and, with the feature `ipsec-mb`, calls of a C library (`sys::ipsec_mb`).
//!
//! Dependencies point one way: `cli` → `control` → `lane` → {`offload`, `underlay`, `wireguard`,
//! `routes`} → `packet` → nothing, with `sys` under those that talk to the kernel or want more of the
//! processor than every processor has.
//!
//! # What always holds
//!
//! - **Order.** Packets of one flow leave in the order they came. Counters are reserved in the order
//!   of the queue, everything goes through one ring, and nothing overtakes what waits: a lone packet
//!   passes a worker only if that one sleeps and has dealt with all before it ([`lane::shortcut`]).
//! - **Bounds.** Slabs, rings and tables are made at the start, and their sizes are named constants
//!   ([`lane::bounds`]). A full queue has one documented meaning ([`lane`]) and a counter.
//! - **No silent loss.** Every packet that goes no further has a [`drops::DropReason`], and every
//!   reason is a label in the metrics.
//! - **Three kinds of failure.** Bad bytes are dropped and counted. Trouble with the system or the
//!   configuration is a typed error that says what to do. A broken invariant is a panic; a worker that
//!   panics is restarted on its open descriptors.
//! - **An end.** Nobody is waited for without a bound once the router is told to stop, and the thread that takes
//!   the signals of a process waits for nobody at all ([`router::stopping`]).
//! - **One owner per descriptor.** While it sleeps, its lane's other worker may put in lone packets. No lock
//!   stands on the way of a data packet, except the replay window's, which is taken once a run by the one
//!   worker that receives a session.
//!
//! # Words
//!
//! *packet*: one IP packet. *superpacket*: one TUN read or write that the kernel has not yet split,
//! or will. *segment*: one MTU-sized packet cut from it. *datagram*: one UDP payload. *batch*: what
//! one ring slot carries. *slab*: its bytes. *run*: datagrams of one GSO send. *stride*: their
//! size. *seal*, *open*: the AEAD. *coalesce*: segments to superpacket. *drain*: to read on without
//! blocking after a wake. *flow*: inner 5-tuple. *peer*: a configured identity. *session*: one key
//! pair with counter and replay window. *outbound*: TUN to UDP. *inbound*: UDP to TUN.

pub mod cli;
mod clients;
pub mod clock;
pub mod config;
pub mod cpus;
pub mod drops;
pub mod errnos;
pub mod lane;
pub mod metrics;
pub mod netlink;
pub mod netns;
pub mod offload;
pub mod packet;
pub mod peers;
pub mod router;
pub mod routes;
pub mod service;
pub mod shutdown;
pub mod sys;
pub mod uapi;
pub mod underlay;
pub mod units;
pub mod wireguard;
