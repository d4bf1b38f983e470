//! Every bound of a lane, named, and how the bounds depend on each other.

use crate::underlay::DEPTH;
use crate::units::MAX_PACKET;

/// The most lanes there can be: as many queues as a TUN can have (`MAX_TAP_QUEUES` in Linux's
/// `drivers/net/tun.c`).
pub const MAX_LANES: usize = 256;

/// Bytes of one slab: the longest UDP payload, or the longest GSO run, and no less than a whole
/// receive with UDP GRO.
pub const SLAB_BYTES: usize = 64 * 1024;

/// Batches that may wait in an inbox, unless `LANEWAY_INBOX_DEPTH` says otherwise.
pub const INBOX_DEPTH: usize = 16;

/// The deepest inbox that can be asked for: 64 MiB of slabs a lane.
pub const MAX_INBOX_DEPTH: usize = 1024;

/// Batches an inside worker takes from its inbox before it looks at its TUN queue again, which is
/// also how far one coalescing window reaches.
pub const WINDOW_BATCHES: usize = 8;

/// Segments an inbound batch can list. A GRO receive has at most 128 (`UDP_MAX_SEGMENTS`, Linux
/// 6.9); small packets that are copied together can be more.
pub const BATCH_SEGMENTS: usize = 256;

/// Runs an outbound batch can list, at the least one for each packet of a drain.
pub const BATCH_RUNS: usize = 64;

/// TUN reads after one wake, unless `LANEWAY_DRAIN_CAP` says otherwise.
pub const DRAIN_CAP: usize = 64;

/// A receive of fewer bytes than this is copied into a batch with its neighbours. Above it the
/// slab itself travels on: copying would cost more than the slab.
pub const COPY_BELOW: usize = 8 * 1024;

/// Handshake messages that may wait for the peer actor, of strangers and of others each: 50 milliseconds of
/// 20,000 a second, so that in a flood a peer's own message is not dropped because the actor had to wait
/// for a processor. Newest are dropped beyond it.
pub const HANDSHAKE_QUEUE: usize = 1024;

/// Events that may wait for the peer actor. Each is either repeated by the next batch or found by
/// the peer's own timers, so one that finds the queue full is not lost for good.
pub const EVENT_QUEUE: usize = 1024;

/// Handshake messages and keepalives that may wait for an outside worker.
pub const CONTROL_QUEUE: usize = 256;

/// Cookies that may wait for an outside worker, as many as the messages that can ask for them.
pub const COOKIE_QUEUE: usize = HANDSHAKE_QUEUE;

/// The batches an outside worker owns. With a single lane they are as many as one inbox holds, so
/// that it can never be full: the slabs run out first, and the socket's buffer holds what comes. With
/// more lanes a full inbox must not take the slabs that other lanes' packets need, and each message
/// may need one a lane ([`slabs_per_message`]).
pub const fn inbound_pool(inbox_depth: usize, lanes: usize) -> usize {
    let spare = 2 * slabs_per_message(lanes);
    match lanes {
        1 => inbox_depth,
        _ if spare > DEPTH => inbox_depth + spare,
        _ => inbox_depth + DEPTH,
    }
}

/// The slabs that one received message may need: its own, and one for the packets of each other
/// lane that are in it.
pub const fn slabs_per_message(lanes: usize) -> usize {
    lanes
}

/// The batches an inside worker owns. Its outside worker's inbox holds all of them: what bounds the
/// way out is that the slabs run out.
pub const fn outbound_pool(inbox_depth: usize) -> usize {
    inbox_depth
}

const _: () = assert!(SLAB_BYTES > MAX_PACKET);
const _: () = assert!(INBOX_DEPTH >= DEPTH);
const _: () = assert!(INBOX_DEPTH <= MAX_INBOX_DEPTH);
const _: () = assert!(WINDOW_BATCHES <= INBOX_DEPTH);
const _: () = assert!(BATCH_RUNS >= DRAIN_CAP);
const _: () = assert!(COPY_BELOW < SLAB_BYTES);
