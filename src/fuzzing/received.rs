//! Received messages: datagrams of any kind, grouped by the kernel (GRO).

use std::net::Ipv4Addr;
use std::sync::Arc;

use super::Taker;
use crate::drops::DropReason;
use crate::lane::bounds::SLAB_BYTES;
use crate::lane::channels::ActorChannel;
use crate::lane::outside::Opener;
use crate::lane::peers::{PeerRecord, Snapshot};
use crate::lane::ring::batch::InboundBatch;
use crate::lane::ring::doorbell::Doorbell;
use crate::lane::ring::{Pool, Ring};
use crate::lane::shortcut::WriteShortcut;
use crate::metrics::{OutsideMetrics, Registry, WrittenShortcuts};
use crate::offload;
use crate::packet::flow;
use crate::shutdown::Shutdown;
use crate::underlay::Endpoint;
use crate::units::{Nanos, PeerId};
use crate::wireguard::aead::Backend;
use crate::wireguard::keys::PublicKey;
use crate::wireguard::messages::{DATA_HEADER, DATA_OVERHEAD};
use crate::wireguard::replay::WINDOW;
use crate::wireguard::session::{Role, Session, SessionKeys, SessionParts};
use crate::wireguard::settings::MessageLimits;
use crate::wireguard::suite::Suite;
use crate::wireguard::table::SessionTable;

const LANES: usize = 3;
const PEERS: u64 = 2;
/// Enough for two messages.
const BATCHES: usize = 64;
const NOW: Nanos = Nanos(5_000_000_000);
/// Length of a handshake initiation.
const INITIATION: usize = 148;

/// Opens messages of several datagrams: sealed by one of two peers and from an address of its own or the other's,
/// repeated, modified, or not of this protocol at all.
///
/// # Panics
/// If a packet is accepted that was not sealed or is not from its peer, one that should be accepted is not, packets of
/// one lane are out of order, or the drops do not add up to the rest.
pub fn received(bytes: &[u8]) {
    let mut take = Taker(bytes);
    let mut ends = WorkerEnds::new();
    for _ in 0..2 {
        ends.message(&mut take);
    }
}

/// A router's receiving half, and two peers that send to it.
struct WorkerEnds {
    opener: Opener,
    rings: Vec<Arc<Ring<InboundBatch>>>,
    returns: Arc<Ring<InboundBatch>>,
    snapshot: Snapshot,
    actor: Arc<ActorChannel>,
    metrics: OutsideMetrics,
    remotes: Vec<Session>,
}

impl WorkerEnds {
    fn new() -> Self {
        let bell = || Arc::new(Doorbell::new().expect("a descriptor"));
        let (registry, shutdown) = (Registry::new(), Arc::new(Shutdown::new().expect("a descriptor")));
        let table = Arc::new(SessionTable::new(&[1; 8]));
        let mut snapshot = Snapshot::default();
        let mut remotes = Vec::new();
        for number in 0..PEERS {
            let id = PeerId(number);
            table.install(Arc::new(session(id, Role::Responder, &table)));
            remotes.push(session(id, Role::Initiator, &table));
            let record = Arc::new(PeerRecord::new(id, PublicKey::from_bytes([number as u8; 32]), false));
            let net = format!("10.{number}.0.0/16").parse().expect("a prefix");
            drop(snapshot.routes.insert(net, Arc::clone(&record)));
            snapshot.peers.push(Some(record));
        }
        let actor = Arc::new(ActorChannel::new(bell()));
        let pool = Pool::new(BATCHES, bell(), || InboundBatch::new(0));
        let returns = Arc::clone(pool.returns());
        let rings: Vec<_> = (0..LANES).map(|_| Arc::new(Ring::new(BATCHES, bell()))).collect();
        let (_, _, queue) = offload::discarding(&shutdown);
        let shortcut = |lane| WriteShortcut::new(queue.clone(), WrittenShortcuts::register(&registry, lane));
        let shortcuts = (0..LANES).map(shortcut).collect();
        let opener = Opener::new(0, pool, None, rings.clone(), shortcuts, table, Arc::clone(&actor));
        let metrics = OutsideMetrics::register(&registry, 0);
        WorkerEnds { opener, rings, returns, snapshot, actor, metrics, remotes }
    }

    /// Makes a message from the input, receives it, and compares what comes of it.
    fn message(&mut self, take: &mut Taker<'_>) {
        let stride = DATA_OVERHEAD + 32 + 16 * usize::from(take.byte() % 86);
        // The kernel merges no more than one IP packet can carry.
        let datagrams = usize::from(take.byte() % 48).min(SLAB_BYTES / stride);
        let mut message: Vec<u8> = Vec::new();
        let (mut expected, mut handshakes) = (vec![Vec::new(); LANES], 0);
        let mut last_sealed: Option<(usize, usize)> = None;
        for number in 0..datagrams {
            let kind = take.byte();
            // Only the last datagram may be shorter.
            let len = match kind & 7 {
                7 if number + 1 == datagrams => (usize::from(take.byte()) + 1).min(stride),
                _ => stride,
            };
            let at = message.len();
            message.resize(at + len, 0);
            let datagram = &mut message[at..];
            match kind & 7 {
                0..=3 => {
                    let (remote, claims) = (usize::from(kind >> 3 & 1), usize::from(kind >> 4 & 1));
                    let packet = write_packet(&mut datagram[DATA_HEADER..], claims as u8, take.byte());
                    let packet = datagram[DATA_HEADER..DATA_HEADER + packet].to_vec();
                    let session = &self.remotes[remote];
                    let counter = session.reserve(1).expect("a fresh session");
                    session.seal_run(counter, datagram, len);
                    last_sealed = Some((at, len));
                    let modified = kind & 0xe0 == 0xe0;
                    if modified {
                        let position = 8 + usize::from(take.byte()) % (len - 8);
                        datagram[position] ^= 1 + take.byte() % 255;
                    } else if remote == claims {
                        expected[flow::lane_of(&packet, LANES)].push(packet);
                    }
                }
                4 => {
                    let Some((from, len)) = last_sealed.filter(|(_, sealed)| *sealed == len) else {
                        continue;
                    };
                    message.copy_within(from..from + len, at);
                }
                5 => {
                    datagram[0] = 4;
                    datagram[4..8].fill(take.byte());
                }
                _ => {
                    let text = usize::from(take.byte());
                    let text = take.bytes(text.min(len));
                    datagram[..text.len()].copy_from_slice(text);
                    if kind & 0x18 == 0x18
                        && let Some(start) = datagram.first_chunk_mut()
                    {
                        *start = [1, 0, 0, 0];
                    }
                }
            }
        }
        if message.is_empty() {
            return;
        }
        let from = Endpoint::new((Ipv4Addr::new(192, 0, 2, 9), 4000).into());
        let total = message.len().div_ceil(stride);
        self.opener.open_copy(&message, stride, from, &self.snapshot, NOW, &mut self.metrics);

        let mut accepted = 0;
        for (lane, expected) in expected.into_iter().enumerate() {
            let mut found = Vec::new();
            while let Some(mut batch) = self.rings[lane].pop() {
                found.extend(batch.packets().map(<[u8]>::to_vec));
                batch.segments.clear();
                assert!(self.returns.push(batch).is_ok(), "a return ring holds every batch of its pool");
            }
            accepted += found.len();
            assert_eq!(found, expected, "lane {lane}");
        }
        while self.actor.next_priority().or_else(|| self.actor.next_unverified()).is_some() {
            handshakes += 1;
        }
        let mut dropped = 0;
        self.metrics.inbound_drops.tally().take(|reason, packets| {
            assert_ne!(reason, DropReason::InboxFull, "there are batches for every packet");
            dropped += packets as usize;
        });
        assert_eq!(
            accepted + handshakes + dropped,
            total,
            "{accepted} accepted, {handshakes} handed up, {dropped} dropped"
        );
        assert!(stride == INITIATION || handshakes <= 1);
    }
}

/// Writes a whole packet with a source of peer `claims` and the flow `flow`, padded with zeros. Returns its length.
fn write_packet(room: &mut [u8], claims: u8, flow: u8) -> usize {
    let room = &mut room[..];
    let len = (room.len() - (DATA_OVERHEAD - DATA_HEADER)).min(28 + usize::from(flow));
    room[0] = 0x45;
    room[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    room[8..10].copy_from_slice(&[64, 17]);
    room[12..16].copy_from_slice(&[10, claims, 0, 1]);
    room[16..20].copy_from_slice(&[10, 9, 0, 1]);
    room[20..24].copy_from_slice(&[0, flow, 0, 53]);
    len
}

fn session(peer: PeerId, role: Role, table: &SessionTable) -> Session {
    let (send, receive) = if role == Role::Initiator { (1, 2) } else { (2, 1) };
    let key = |side: u8| zeroize::Zeroizing::new([side + 2 * peer.0 as u8; 32]);
    let index = table.index(peer.0 as u32);
    Session::new(SessionParts {
        peer,
        activity: Arc::default(),
        role,
        local_index: index,
        remote_index: index,
        created: Nanos(1_000_000_000),
        keys: SessionKeys { suite: Suite::default(), send: key(send), receive: key(receive) },
        limits: MessageLimits::default(),
        backend: Backend::Portable,
        window: WINDOW,
    })
}
