//! Sizes and limits of a lane, and how they depend on each other.

use crate::metrics::LARGEST;
use crate::underlay::DEPTH;
use crate::units::MAX_PACKET;

/// Maximum number of lanes: the number of queues of a TUN device (`MAX_TAP_QUEUES` in Linux's
/// `drivers/net/tun.c`).
pub const MAX_LANES: usize = 256;

/// Size of a slab in bytes. It holds the longest UDP payload, the longest GSO run, or a whole GRO
/// receive.
pub const SLAB_BYTES: usize = 64 * 1024;

/// Default capacity of a ring in batches (`LANEWAY_INBOX_DEPTH`).
pub const RING_DEPTH: usize = 16;

/// Default capacity in batches of the ring to an inside worker, if workers share jobs. Several workers open for one
/// that receives, and what they open for one lane comes at once: with 16 batches, a lane that has to wait for its CPU
/// stops the others after half a millisecond at 16 Gbit/s.
pub const SHARED_RING_DEPTH: usize = 64;

/// Maximum of `LANEWAY_INBOX_DEPTH`. At this depth the slabs of one direction of a lane take 256 MiB.
pub const MAX_RING_DEPTH: usize = 4096;

/// Batches an inside worker takes from its ring before it reads its TUN queue again. Also the extent
/// of one coalescing window.
pub const WINDOW_BATCHES: usize = 8;

/// Maximum number of segments in an inbound batch. A GRO receive has at most 128 (`UDP_MAX_SEGMENTS`,
/// Linux 6.9); a batch of copied small packets can have more.
pub const BATCH_SEGMENTS: usize = 256;

/// Maximum number of runs in an outbound batch: one per packet of a drain by default. With a larger
/// `LANEWAY_DRAIN_CAP`, a drain may fill several batches.
pub const BATCH_RUNS: usize = 64;

/// Default maximum of TUN reads per wake (`LANEWAY_DRAIN_CAP`).
pub const DRAIN_CAP: usize = 64;

/// Maximum of `LANEWAY_DRAIN_CAP`: the largest drain that the metrics count exactly.
pub const MAX_DRAIN_CAP: usize = LARGEST;

/// A receive shorter than this, in bytes, is copied into a batch with its neighbors. A longer one is
/// passed on in its own slab, which is cheaper than the copy.
pub const COPY_BELOW: usize = 8 * 1024;

/// Capacity in messages of each of the peer actor's handshake queues, `priority` and `unverified`.
/// It holds 50 milliseconds of a flood of 20,000 messages per second, so that a peer's own message is
/// not dropped while the actor waits for a CPU. When a queue is full, the newest message is dropped.
pub const HANDSHAKE_QUEUE: usize = 1024;

/// Capacity in events of the channel to the peer actor. Dropping an event is safe: the next batch
/// repeats it, or the peer's timers notice.
pub const EVENT_QUEUE: usize = 1024;

/// Capacity in messages of an outside worker's channel for handshake messages and keepalives.
pub const CONTROL_QUEUE: usize = 256;

/// Capacity in messages of an outside worker's channel for cookie replies: as many as there can be
/// waiting messages to reply to.
pub const COOKIE_QUEUE: usize = HANDSHAKE_QUEUE;

/// Batches that a pool has in addition if its owner shares its jobs: those that are being worked on, or
/// wait for an earlier one, are neither in a ring nor free.
pub const SHARED_BATCHES: usize = 64;

/// Returns the number of batches in an outside worker's pool. `shares` says whether other workers may open
/// its messages.
///
/// With one lane the pool is as large as the ring, so the ring can never be full: the pool runs out
/// first and datagrams queue in the socket's buffer. With more lanes, a full ring must not hold the
/// batches that other lanes' packets need, and a message may need one batch per lane
/// ([`batches_per_message`]).
pub const fn inbound_pool(inbox_depth: usize, lanes: usize, shares: bool) -> usize {
    let spare = 2 * batches_per_message(lanes);
    match lanes {
        _ if shares => inbox_depth + spare + SHARED_BATCHES,
        1 => inbox_depth,
        _ if spare > DEPTH => inbox_depth + spare,
        _ => inbox_depth + DEPTH,
    }
}

/// Returns how many batches one received message may need: its own, and one for each other lane whose
/// packets it contains.
pub const fn batches_per_message(lanes: usize) -> usize {
    lanes
}

/// Returns the number of batches in an inside worker's pool. `shares` says whether other workers may seal
/// them. The outside worker's ring holds all of
/// them, so the pool is what bounds the outbound path.
pub const fn outbound_pool(inbox_depth: usize, shares: bool) -> usize {
    if shares { inbox_depth + SHARED_BATCHES } else { inbox_depth }
}

const _: () = assert!(SLAB_BYTES > MAX_PACKET);
const _: () = assert!(RING_DEPTH >= DEPTH);
const _: () = assert!(RING_DEPTH <= MAX_RING_DEPTH);
const _: () = assert!(WINDOW_BATCHES <= RING_DEPTH);
const _: () = assert!(BATCH_RUNS >= DRAIN_CAP);
const _: () = assert!(DRAIN_CAP <= MAX_DRAIN_CAP);
const _: () = assert!(COPY_BELOW < SLAB_BYTES);
