//! The router: the real peer actor, sealer and opener, without threads, TUN and UDP.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::watch;

use crate::clock;
use crate::config::SpreadPorts;
use crate::config::update::DeviceUpdate;
use crate::drops::DropReason;
use crate::lane::channels::{ActorChannel, CommandChannel, OutsideCommand};
use crate::lane::inside::Detached;
use crate::lane::outside::Opener;
use crate::lane::peers::{Peers, Snapshot};
use crate::lane::ring::batch::{InboundBatch, OutboundBatch};
use crate::lane::ring::doorbell::Doorbell;
use crate::lane::ring::{Pool, Ring};
use crate::lane::shortcut::WriteShortcut;
use crate::lane::wait::sleep::Sleeper;
use crate::metrics::{ActorMetrics, OutsideMetrics, Registry, WrittenShortcuts};
use crate::offload::{self, Superpacket, VirtioHeader};
use crate::peers::actor::link::LinkState;
use crate::peers::actor::{ListenState, PeerActor};
use crate::peers::handle::{ActorHandle, InterfaceState, Listening};
use crate::peers::lookups::Lookups;
use crate::peers::names::Names;
use crate::peers::reports::Reports;
use crate::peers::schedule::Schedule;
use crate::peers::snapshot_builder::BuilderState;
use crate::shutdown::Shutdown;
use crate::underlay::{Endpoint, MarkedSockets, SocketOptions};
use crate::units::Nanos;
use crate::wireguard::keys::Counting;
use crate::wireguard::lanes::LaneHash;
use crate::wireguard::outputs::{HandshakeDrop, Outputs};
use crate::wireguard::protocol::Protocol;
use crate::wireguard::settings::Settings;
use crate::wireguard::table::SessionTable;

/// Batches of each direction.
const BATCHES: usize = 4;

pub(super) struct Router {
    actor: PeerActor,
    inside: Detached,
    opener: Opener,
    packets: Arc<Ring<InboundBatch>>,
    returns: Arc<Ring<InboundBatch>>,
    commands: Arc<CommandChannel>,
    peers: Arc<Peers>,
    metrics: OutsideMetrics,
}

impl Router {
    pub(super) fn new() -> Self {
        let bell = || Arc::new(Doorbell::new().expect("a descriptor"));
        let (registry, shutdown) =
            (Arc::new(Registry::new()), Arc::new(Shutdown::new().expect("a descriptor")));
        let actor_bell = bell();
        let channel = Arc::new(ActorChannel::new(Arc::clone(&actor_bell)));
        let sessions = Arc::new(SessionTable::new(&[9; 8]));
        let peers = Arc::new(Peers::from_pointee(Snapshot::default()));
        let commands = Arc::new(CommandChannel::new(bell()));
        let (listening, heard) = watch::channel(Listening { port: 51820, last_port: 51820, mark: 0 });
        let interface = Arc::new(InterfaceState::default());
        let (_, requests) =
            ActorHandle::new(Arc::clone(&actor_bell), Arc::clone(&registry), heard, Arc::clone(&interface));
        let actor = PeerActor {
            protocol: Protocol::new(None, Arc::clone(&sessions), Settings::default()),
            peers: Arc::clone(&peers),
            builder_state: BuilderState::default(),
            channel: Arc::clone(&channel),
            requests,
            commands: vec![Arc::clone(&commands)],
            inside_bells: Vec::new(),
            listen: ListenState {
                port: 51820,
                lanes: LaneHash::default(),
                options: SocketOptions::default(),
                left: None,
            },
            listening,
            marked: Arc::new(MarkedSockets::new(0)),
            spread_ports: SpreadPorts::Off,
            interface,
            link: LinkState::default(),
            reports: Reports::default(),
            sleeper: Sleeper::new(Arc::clone(&actor_bell), Arc::clone(&shutdown)),
            entropy: Box::new(Counting(0)),
            metrics: ActorMetrics::register(&registry, &HandshakeDrop::labels()),
            has_key: Arc::new(AtomicBool::new(false)),
            schedule: Schedule::default(),
            names: Names::default(),
            lookups: Lookups::new(actor_bell),
            trim_at: None,
            loop_warning: Nanos::NEVER,
            outputs: Outputs::default(),
        };
        let inside = Detached::new(BATCHES, Arc::clone(&channel), &registry);
        let pool = Pool::new(BATCHES, bell(), || InboundBatch::new(0));
        let packets = Arc::new(Ring::new(BATCHES, bell()));
        let returns = Arc::clone(pool.returns());
        let shortcut =
            WriteShortcut::new(offload::discarding(&shutdown).2, WrittenShortcuts::register(&registry, 0));
        let opener =
            Opener::new(0, pool, None, vec![Arc::clone(&packets)], vec![shortcut], sessions, channel);
        let metrics = OutsideMetrics::register(&registry, 0);
        Router { actor, inside, opener, packets, returns, commands, peers, metrics }
    }

    pub(super) fn apply(&mut self, update: DeviceUpdate) {
        self.actor.apply(update).expect("the update is valid");
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.peers.load_full()
    }

    /// Lets the actor take a turn, and passes the messages it sends to `send`.
    pub(super) fn act(&mut self, mut send: impl FnMut(&[u8], Endpoint)) -> bool {
        let worked = self.actor.turn();
        while let Some(command) = self.commands.pop() {
            if let OutsideCommand::Send { message, to, .. } = command {
                send(&message, to);
            }
        }
        worked
    }

    /// Lets the inside worker take a turn, and passes what it seals to `send`.
    pub(super) fn seal(
        &mut self,
        snapshot: &Snapshot,
        mut packets: Vec<Vec<u8>>,
        send: impl FnMut(&OutboundBatch),
    ) {
        let parse = |packet| Superpacket::parse(VirtioHeader::default(), packet).expect("a whole packet");
        let packets: Vec<_> = packets.iter_mut().map(|packet| parse(&mut packet[..])).collect();
        self.inside.turn(snapshot, clock::now(), &packets);
        self.inside.take_sealed(send);
    }

    /// Lets the outside worker receive a datagram, and passes the packets it accepts to `accept`.
    pub(super) fn open(
        &mut self,
        snapshot: &Snapshot,
        datagram: &[u8],
        from: Endpoint,
        mut accept: impl FnMut(&[u8]),
    ) {
        let now = clock::now();
        self.opener.open_copy(datagram, datagram.len(), from, snapshot, now, &mut self.metrics);
        while let Some(mut batch) = self.packets.pop() {
            batch.packets().for_each(&mut accept);
            batch.segments.clear();
            assert!(self.returns.push(batch).is_ok(), "a return ring holds every batch of its pool");
        }
    }

    /// Passes the drops of the inside worker since the last call to `count`.
    pub(super) fn take_drops(&mut self, count: impl FnMut(DropReason, u64)) {
        self.inside.take_drops(count);
    }
}
