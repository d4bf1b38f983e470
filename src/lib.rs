//! Laneway: a packet router for Linux that runs beside a workload. Inside, a multiqueue TUN device;
//! outside, standard WireGuard over UDP.
//!
//! # Map
//!
//! A *lane* is one TUN queue, one UDP socket and two threads, the inside worker and the outside worker. A packet
//! passes through these files:
//!
//! ```text
//! outbound   offload/reader      reads a superpacket from the TUN queue
//!            offload/superpacket validates it, once
//!            lane/inside/seal    looks up the peer in routes; cuts segments into a batch and seals them
//!            lane/share          has a batch sealed or opened by an idle worker of any lane, if sharing is on
//!            lane/ring           carries the batch to the lane's outside worker
//!            lane/outside/send   hands the batch's runs to underlay/send, one system call each
//!            lane/inside/reject  answers packets without a route or too long for the path (packet/reject)
//!
//! inbound    underlay/receive    receives runs of datagrams
//!            lane/outside/open   opens them (wireguard/session), checks inner sources, selects the flow's lane
//!            lane/ring           carries the batch to that lane's inside worker
//!            lane/inside/write   merges segments into superpackets (offload/coalesce)
//!            offload/writer      writes each to the TUN queue, one system call each
//! ```
//!
//! In short: TUN → inside/seal → outside/send → wire → outside/open → inside/write → TUN. Handshakes run beside
//! this path, in one thread: [`peers`] owns the [`wireguard`] protocol, installs sessions and publishes snapshots
//! that the lanes read. [`router`] wires everything together, starts, watches and stops it.
//!
//! Dependencies point one way: `cli` → `router` → `peers` → `uapi` → `config` → `lane` → `metrics` → `offload`,
//! `underlay` → `packet`, `drops`. `config` also uses `netlink` and `cpus`, and `lane` uses `wireguard` and
//! `routes`. `sys` is at the bottom and has the only unsafe code: system calls and vector instructions.
//!
//! # Where to look
//!
//! | Question | File |
//! |---|---|
//! | Is a session too old to use? Must it be renewed? | `wireguard/session.rs` (`can_send`, `rekey_due_on_send`, …), with constants from `wireguard/timers.rs` |
//! | What starts, repeats and ends a handshake? | `wireguard/peer.rs`; what is due when: `wireguard/peer/due.rs`; asked by lanes through `lane/channels.rs` |
//! | Which session replaces which? | `wireguard/rotation.rs` |
//! | What happens when a ring, pool or channel is full? | the table in `lane/mod.rs`; in code, `hand_over` and `hand_on_held` in `lane/outside/open.rs`, `batch` in `lane/inside/mod.rs` |
//! | How large are rings, pools and channels? | `lane/bounds.rs` |
//! | Which worker is woken to seal or open for another? | `lane/share/helpers.rs`; batches leave in order by `lane/inside/handover.rs` and `lane/outside/open/shared.rs` |
//! | What slows bulk flows down while a queue does not run empty? | `lane/standing.rs` decides, by `lane/fairness.rs` among peers; `lane/inside/seal.rs` and `lane/outside/open/judge.rs` mark or drop |
//! | Packets that wait for a session | kept in `lane/staging.rs`; staged, routed again and released by `lane/inside/seal/release.rs` |
//! | Which lane receives from a peer? | `wireguard/lanes.rs` assigns it, `sys/reuseport.rs` tells the kernel |
//! | Replays and inner sources | `lane/outside/open/judge.rs`, with the window in `wireguard/replay.rs` |
//! | What does `auto` stand for? | `config/choices.rs`; CPUs for pinning in `cpus/pinning.rs`; offloads are tried in `offload/open.rs` and `underlay/socket.rs` |
//! | What sends all traffic into the tunnel? | policy rules: `netlink/rules.rs`, with tables and marks from `netlink/tables.rs` |
//! | What keeps packets in when the router is gone? | `router/kill_switch.rs` decides; `netlink/barrier.rs` adds the unreachable routes |
//! | What lets received datagrams pass a reverse path filter? | `netlink/port_rules.rs` |
//! | What happens when a route, an address or the interface changes? | `router/paths.rs` for the underlay (drops sticky sources), `router/admin/duties.rs` for the interface, `netlink/moved.rs` in another namespace |
//! | What happens while the interface is down? | `peers/actor/link.rs` |
//! | What does the log say of a peer? | `peers/reports.rs` |
//! | How does another process take a router over? | `router/takeover/mod.rs` has the course and who carries on, and `router/takeover/restart.rs` that of a restart by the service manager; workers stop in `lane/wait/pause.rs`, and `wireguard/carry.rs` and `peers/actor/carry.rs` have the state |
//! | What changes on a reload? | `router/reload.rs` compares files and settings, `peers/apply.rs` peers, `netlink/mod.rs` addresses and routes; `config/changes.rs` only counts for the log |
//! | Where does ECN go? | outer header to packet and back: `packet/class.rs`; CWR: `offload/segment.rs`; what may be merged: `offload/coalesce/candidate.rs` |
//! | ICMP errors and TCP resets | `packet/reject/`, rate limited by `lane/inside/reject.rs` |
//! | Path MTU | `lane/path_limit.rs`, learned in `lane/outside/send.rs` |
//! | Sends that the kernel refuses | `underlay/send.rs` |
//! | Names of endpoints | `peers/names.rs` decides when, `peers/resolver/` asks and parses answers |
//! | The control socket | `uapi/server.rs` accepts, `uapi/protocol.rs` parses requests |
//! | `/readyz`, `/healthz` | `router/readiness.rs`, `router/threads.rs` |
//! | Panics and restarts of a worker | `router/restarts.rs`; batches it held: `lane/ring/batch.rs` |
//!
//! # Invariants
//!
//! - **Order.** Packets of one flow leave in the order they came. Counters are reserved in queue order, all packets
//!   of a flow take one ring, and nothing overtakes a waiting batch: a lone packet is passed directly only if the
//!   other worker sleeps and all earlier batches have been returned ([`lane::shortcut`]).
//!   Batches that several workers seal or open are passed on in the order in which they were read ([`lane::share`]).
//!   Held by `tests/system/order.rs`, `tests/model`.
//!   Exceptions, with several lanes: IP fragments may be reordered with whole packets of their flow, since both the
//!   kernel's queue selection and [`packet::flow`] lack their ports. While queues are attached to an interface that has
//!   outlived its process, flows change their queues. A peer keeps the lane that receives its data ([`wireguard::lanes`]);
//!   but where ports are spread or the kernel refuses the program that selects it, an address or port that changes
//!   hands the datagrams of a flow to another lane, which opens them independently. So does the kernel's UDP GRO for one
//!   short data message right behind an initiation of the same peer.
//! - **Isolation.** A packet is sealed only for the peer that owns its destination now, and accepted only from the
//!   peer that owns its source. Held by `tests/system/isolation.rs`, `tests/system/abuse.rs`.
//! - **The kernel's own bytes.** Segments and superpackets are those the kernel would make. Held by `tests/system/oracle`.
//! - **Bounds.** Batches, rings and tables are created at start, with sizes from [`lane::bounds`]. A full queue has
//!   one documented meaning ([`lane`]) and a counter. Held by assertions in `bounds.rs` and by `tests/system/flood.rs`.
//! - **No allocation and no lock on the data path.** The exceptions: a peer that roams allocates its new endpoint,
//!   and the replay window has a lock, taken once a run and practically uncontended.
//!   Held by `tests/allocation.rs`.
//! - **No silent loss.** Every packet that goes no further has a [`drops::DropReason`], a label of
//!   `laneway_dropped_packets_total`. Held by `tests/system/drain.rs` and the unit tests of each stage.
//! - **Three kinds of failure.** Invalid bytes are dropped and counted (`tests/fuzz.rs`). System and configuration
//!   trouble is a typed error that says what to do. A broken invariant is a panic, and the worker is restarted on
//!   its open descriptors ([`router::restarts`]). What it had in hand is lost and counted, nothing else
//!   (`tests/panics.rs`).
//! - **A bounded stop.** Once the router stops, nothing waits without a time limit, and the thread that handles
//!   signals waits for nobody ([`router::stopping`]). Held by `tests/system/stopping.rs`.
//! - **No counter twice.** Of a router and its successor, one sends with a session, and whichever process dies, one
//!   carries on ([`router::takeover`]). Held by `tests/takeover`.
//! - **One owner per descriptor.** Only its owner reads a TUN queue or socket, or changes it; the lane's other
//!   worker may write single packets while the owner sleeps.
//! - **A protocol without IO.** [`wireguard`] has no clock, socket or randomness of its own. Held by its
//!   unit tests, which run on a simulated clock.
//! - **Least privilege.** A running router has only the capabilities and system calls it needs.
//!   Held by `tests/system/sandbox.rs`.
//! - **Unsafe code in [`sys`] only**, with a `SAFETY` argument for each block. Held by the lint `unsafe_code`.
//!
//! # How to add
//!
//! **An environment variable.** In `config/env.rs`: the name in `NAMES`, a field of `Environment`, and an arm in
//! `Environment::set` that parses it and says what is allowed. In `config/mod.rs`: a field of `RouterConfig`, its
//! default in `RouterConfig::named`, and a line in `take_environment`. Extend the test `every_variable_is_read` and
//! `fuzz/corpus/environment/all`, and document it in `docs/configuration.md`. First ask whether a default would do.
//!
//! **A configuration key.** In `config/file.rs`: an arm in `set_interface` or `set_peer`, and the key in the message
//! about unknown keys. Test it in `config/file/tests.rs`; document it in `docs/configuration.md`.
//!
//! **A metric.** Add name, type and help to `FAMILIES` in `metrics/families.rs`; names of counters end in `_total`.
//! Register it where it is counted (`metrics/inside.rs`, `outside.rs`, `actor.rs`): a worker adds to a field while it
//! handles a batch and publishes it afterwards; what can be read at scrape time belongs to a
//! [`Collector`](metrics::Collector). Registering a name that is not in `FAMILIES` panics. Document it in
//! `docs/metrics.md`, and show it in `dashboards/laneway.json` if operators should watch it.
//!
//! **A drop reason.** Add one line to `reasons!` in `drops.rs`; it becomes a label of
//! `laneway_dropped_packets_total`. Count it with `DropTally::add`, test it, and document it in `docs/metrics.md`. If
//! anyone on the network can cause it at will, add it to both lists of reasons in `deploy/prometheus/rules.yml`.
//!
//! **A system call.** Wrap it in `sys`. If a running router makes it, add it to `ALLOWED` in
//! `router/sandbox/syscalls.rs`; otherwise it fails with `ENOSYS`. `tests/system/sandbox.rs` runs a router under the filter.
//!
//! # Glossary
//!
//! - *packet*: one IP packet. *superpacket*: one TUN read or write, which the kernel has not split yet or will split.
//!   *segment*: one MTU-sized packet cut from a superpacket. *datagram*: one UDP payload. *message*: a WireGuard
//!   message, or one receive of one or several datagrams.
//! - *run*: datagrams of one GSO send or one GRO receive, back to back. *stride*: their size in bytes; the last may
//!   be shorter.
//! - *slab*: a byte buffer of 64 KiB. *batch*: a slab with its list of runs or segments. *pool*: a worker's free
//!   batches. *ring*: carries batches from one worker to another. *return ring*: carries them back to their pool.
//! - *channel*: a bounded path for control messages, such as handshakes. Its *priority* queue holds handshake
//!   messages that answer ours or prove a cookie; its *unverified* queue holds all others.
//! - *outbound*: TUN to UDP. *inbound*: UDP to TUN. *inside*: the TUN. *outside*, *underlay*: the UDP network.
//! - *lane*: one TUN queue, one UDP socket, one inside worker, one outside worker. *flow*: inner 5-tuple.
//!   *peer*: a configured identity. *session*: one key pair with counter and replay window.
//! - *seal*, *open*: the AEAD. *coalesce*: merge segments into a superpacket. *chain*: segments of one flow being
//!   coalesced, until it is *closed*. *window*: chains that may still grow. *stage*: keep a packet until its peer
//!   has a session. *standing queue*: one that does not run empty. *drain*: read on without blocking after a wake.
//!   *quiesce*: stop reading and empty the rings.
//! - *share*: let other workers seal or open. *job*: a batch that any worker may seal or open. *owner*: the worker that
//!   submitted it. *call*: wake a worker, which then *helps* until it finds no job. *judge*: check replay window and source
//!   of opened messages.
//! - *shortcut*: a lone packet written out by the worker that read it. *refuse*: drop a packet and *reject* it, that
//!   is, answer its sender.
//! - *snapshot*: peers and allowed IPs at one point in time. *record*: what lanes know of one peer.
//! - *doorbell*: wakes a sleeping worker. *heartbeat*: shows that a thread runs. *admin*: the thread that serves
//!   metrics, probes and the control socket. *actor*: the thread that owns the protocol.
//! - *roam*: a peer's endpoint changes. *spread*: send each lane's data from a separate port.

pub mod cli;
mod clients;
pub mod clock;
pub mod config;
mod counts;
pub mod cpus;
pub mod drops;
pub mod errnos;
pub mod faults;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
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
#[cfg(test)]
mod testing;
pub mod uapi;
pub mod underlay;
pub mod units;
pub mod wireguard;
