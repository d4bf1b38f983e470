//! Opens the device and the sockets of a router and connects its parts, without starting any thread.
//!
//! In each lane the inside worker owns its TUN queue and the pool of outbound batches, and the outside worker
//! owns its sockets and the pool of inbound batches. Everything shared is created here: doorbells, rings,
//! return rings, channels, the session table and the snapshot.

pub(super) mod device;
mod lanes;
pub(super) mod summary;

use crate::wireguard::settings::Settings;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use tokio::sync::watch;

use thiserror::Error;

use self::device::{inherit_tun, open_tun, set_up};
use self::lanes::{Ends, LaneShared, lane_ends, wire};
use self::summary::Summary;
use super::takeover::Offer;
use super::takeover::predecessor::Estate;
use super::takeover::successor::{Inherited, TakeOverError};
use crate::config::RouterConfig;
use crate::cpus::pinning::{self, LaneCpus, NotAllowed};
use crate::cpus::topology::Topology;
use crate::lane::channels::ActorChannel;
use crate::lane::inside::{InsideWorker, OwnAddresses};
use crate::lane::outside::OutsideWorker;
use crate::lane::peer_metrics::PeerMetrics;
use crate::lane::peers::{Peers, Snapshot};
use crate::lane::ring::custody::Custody;
use crate::lane::ring::doorbell::Doorbell;
use crate::lane::ring::metrics::RingMetrics;
use crate::lane::sockets::LaneSockets;
use crate::lane::wait::pause::Pause;
use crate::lane::wait::sleep::Sleeper;
use crate::metrics::{ActorMetrics, ProcessMetrics, Registry, SocketMetrics, TakeOverMetrics};
use crate::offload::{Lifetime, OpenError, TunDevice, TunnelsSeen};
use crate::peers::actor::link::LinkState;
use crate::peers::actor::{ListenState, PeerActor};
use crate::peers::handle::{ActorHandle, InterfaceState, Listening};
use crate::peers::lookups::Lookups;
use crate::peers::names::Names;
use crate::peers::reports::Reports;
use crate::peers::schedule::Schedule;
use crate::peers::snapshot_builder::BuilderState;
use crate::shutdown::Shutdown;
use crate::underlay::{BindError, MAX_RUN_BYTES, MAX_RUN_SEGMENTS, MarkedSockets, SocketOptions};
use crate::units::Nanos;
use crate::wireguard::keys::{Entropy as _, OsEntropy};
use crate::wireguard::lanes::LaneHash;
use crate::wireguard::messages::{DATA_OVERHEAD, padded_len};
use crate::wireguard::outputs::{HandshakeDrop, Outputs};
use crate::wireguard::protocol::Protocol;
use crate::wireguard::replay;
use crate::wireguard::table::SessionTable;

/// Errors when starting a router. A router that fails to start leaves nothing behind.
#[derive(Debug, Error)]
pub enum StartError {
    /// The TUN device cannot be opened.
    #[error(transparent)]
    Tun(#[from] OpenError),
    /// The UDP sockets cannot be opened.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The interface cannot be set up.
    #[error(transparent)]
    Netlink(#[from] crate::netlink::NetlinkError),
    /// A worker is to be pinned to a CPU that the process may not use.
    #[error(transparent)]
    Pinning(#[from] NotAllowed),
    /// The configuration cannot be applied.
    #[error("{0}")]
    Config(String),
    /// The running router was not taken over.
    #[error(transparent)]
    TakeOver(#[from] TakeOverError),
    /// A thread or descriptor cannot be created, or no randomness is available.
    #[error("cannot start the router: {0}")]
    System(#[from] io::Error),
}

/// The workers of each lane and the CPUs they run on.
pub(crate) type Lanes = Vec<(InsideWorker, OutsideWorker, LaneCpus)>;

/// A router that is ready to run.
pub(crate) struct Wiring {
    pub(crate) lanes: Lanes,
    pub(crate) actor: PeerActor,
    pub(crate) custody: Custody,
    pub(crate) access: Access,
}

/// The descriptors that a router starts with instead of opening them.
#[derive(Debug)]
pub(crate) enum Given {
    /// None.
    Nothing,
    /// A TUN queue that another program created.
    Queue(OwnedFd),
    /// All that another router process had.
    Inherited(Inherited),
}

impl Given {
    /// Returns the secret of the session table: that which comes with sessions, or a new one.
    fn secret(&self, entropy: &mut OsEntropy) -> [u8; 8] {
        let inherited = if let Given::Inherited(inherited) = self { inherited.secret } else { None };
        inherited.unwrap_or_else(|| {
            let mut bytes = [0; 8];
            entropy.fill(&mut bytes);
            bytes
        })
    }
}

/// What a router shares with the threads that watch and control it.
#[derive(Debug)]
pub(crate) struct Access {
    pub(crate) interface: String,
    pub(crate) device: ActorHandle,
    pub(crate) registry: Arc<Registry>,
    pub(crate) mtu: Arc<AtomicUsize>,
    pub(crate) own: Arc<OwnAddresses>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) marked: Arc<MarkedSockets>,
    pub(crate) has_key: Arc<AtomicBool>,
    pub(crate) summary: Summary,
    pub(crate) tunnels: TunnelsSeen,
    pub(crate) lifetime: Lifetime,
    pub(crate) estate: Estate,
}

/// Checks what depends on both the settings and this machine, before anything is created.
///
/// # Errors
/// [`StartError::Pinning`] or [`StartError::Bind`].
pub(crate) fn check(config: &RouterConfig) -> Result<(), StartError> {
    let topology = Topology::of_this_thread();
    let lanes = config.queues.count(topology.cpus.len());
    pinning::plan(&topology, lanes, config.pinning())?;
    if config.spread_ports.is_on() {
        LaneSockets::check_ports(config.update.listen_port.unwrap_or(0), lanes)?;
    }
    Ok(())
}

/// Opens the TUN device and the sockets, sets up the interface and connects all parts.
///
/// # Errors
/// See [`StartError`].
pub(crate) fn open(
    config: &RouterConfig,
    given: Given,
    shutdown: &Arc<Shutdown>,
) -> Result<Wiring, StartError> {
    let topology = Topology::of_this_thread();
    let lanes = config.queues.count(topology.cpus.len());
    let pinning::Plan { lanes: cpus, unpinned } = pinning::plan(&topology, lanes, config.pinning())?;
    if let Some(too_few) = unpinned {
        tracing::debug!("{too_few}");
    }

    let options = socket_options(config);
    let spread = config.spread_ports.is_on();
    let mut entropy = OsEntropy::new().map_err(std::io::Error::from)?;
    let secret = given.secret(&mut entropy);
    let hash = LaneHash::new(&secret, lanes);
    let (tun, sockets) = open_or_inherit(config, given, hash, options, shutdown)?;
    let port = sockets.first().map_or(0, |sockets| sockets.shared.port());
    let summary = Summary::of(config, &tun, &sockets, &cpus);

    let actor_bell = Arc::new(Doorbell::new()?);
    let shared = LaneShared {
        peers: Arc::new(Peers::from_pointee(Snapshot::default())),
        sessions: Arc::new(SessionTable::new(&secret)),
        actor: Arc::new(ActorChannel::new(Arc::clone(&actor_bell))),
        registry: Arc::new(Registry::new()),
        mtu: Arc::new(AtomicUsize::new(config.mtu.into())),
        own: Arc::new(ArcSwap::from_pointee(config.addresses.iter().map(IpNet::addr).collect())),
        shutdown: Arc::clone(shutdown),
    };
    let sharing = config.share.is_on(lanes, topology.cpus.len());
    let ends = (0..lanes)
        .map(|lane| lane_ends(config, &shared.registry, lane, lanes, sharing))
        .collect::<Result<Vec<_>, _>>()?;
    let rings = ends.iter().map(Ends::rings).collect();
    let bells = ends.iter().map(|ends| (Arc::clone(&ends.inside_bell), Arc::clone(&ends.outside_bell)));
    let pause = Pause::new(bells);
    let custody = Custody::new(ends.iter().map(Ends::custody).collect());
    let last_port = if spread { port + (lanes - 1) as u16 } else { port };
    let (listening, heard) = watch::channel(Listening { port, last_port, mark: options.fwmark });
    let interface = Arc::<InterfaceState>::default();
    let (device, requests) = ActorHandle::new(
        Arc::clone(&actor_bell),
        Arc::clone(&shared.registry),
        heard,
        Arc::clone(&interface),
    );
    let has_key = Arc::new(AtomicBool::new(false));
    let actor = PeerActor {
        has_key: Arc::clone(&has_key),
        protocol: Protocol::new(None, Arc::clone(&shared.sessions), settings(config, hash)),
        peers: Arc::clone(&shared.peers),
        builder_state: BuilderState::default(),
        channel: Arc::clone(&shared.actor),
        requests,
        commands: ends.iter().map(|ends| Arc::clone(&ends.commands)).collect(),
        inside_bells: ends.iter().map(|ends| Arc::clone(&ends.inside_bell)).collect(),
        listen: ListenState { port, lanes: hash, options, left: None },
        marked: Arc::new(MarkedSockets::new(options.fwmark)),
        listening,
        interface,
        link: LinkState::default(),
        spread_ports: config.spread_ports.clone(),
        names: Names::default(),
        lookups: Lookups::new(Arc::clone(&actor_bell)),
        sleeper: Sleeper::new(actor_bell, Arc::clone(shutdown)),
        entropy: Box::new(entropy),
        metrics: ActorMetrics::register(&shared.registry, &HandshakeDrop::labels()),
        reports: Reports::default(),
        schedule: Schedule::default(),
        trim_at: None,
        loop_warning: Nanos::NEVER,
        outputs: Outputs::default(),
    };
    let lanes = wire(config, &shared, ends, &pause, tun.queues, sockets, cpus)?;
    let estate = Estate {
        offer: Offer::of(tun.name.clone(), lanes.len(), spread, tun.offloads, secret),
        queues: tun.descriptors,
        sockets: lanes.iter().map(|(_, outside, _)| Arc::clone(&outside.sockets)).collect(),
        pause,
        actor: device.clone(),
        metrics: TakeOverMetrics::register(&shared.registry),
        shutdown: Arc::clone(shutdown),
    };
    let LaneShared { registry, mtu, own, peers, .. } = shared;
    registry.collect_from(SocketMetrics::new(lanes.iter().map(|(_, outside, _)| &outside.socket_drops)));
    registry.collect_from(RingMetrics(rings));
    let (interface, limit) = (tun.name.clone(), config.metrics_peers);
    registry.collect_from(PeerMetrics { interface, peers: Arc::clone(&peers), limit });
    registry.collect_from(ProcessMetrics);
    let (interface, tunnels, lifetime) = (tun.name, tun.tunnels, tun.lifetime);
    let access = Access {
        interface,
        device,
        registry,
        mtu,
        own,
        peers,
        marked: Arc::clone(&actor.marked),
        has_key,
        summary,
        tunnels,
        lifetime,
        estate,
    };
    Ok(Wiring { lanes, actor, custody, access })
}

fn settings(config: &RouterConfig, lanes: LaneHash) -> Settings {
    let window = replay::window_for(lanes.lanes as usize);
    Settings { backend: config.aead, window, lanes, ..Settings::default() }
}

fn socket_options(config: &RouterConfig) -> SocketOptions {
    let offload = config.udp_offload.is_on();
    SocketOptions {
        buffer: config.socket_buffer,
        fwmark: config.update.fwmark.unwrap_or(0),
        gso: offload,
        gro: offload,
    }
}

/// The TUN device and the sockets of each lane.
type OpenedDevice = (TunDevice, Vec<Arc<LaneSockets>>);

/// Opens the TUN device and the sockets, or takes those that are `given`, and sets the interface up.
fn open_or_inherit(
    config: &RouterConfig,
    given: Given,
    lanes: LaneHash,
    options: SocketOptions,
    shutdown: &Arc<Shutdown>,
) -> Result<OpenedDevice, StartError> {
    let spread = config.spread_ports.is_on();
    let shared = |sockets: Vec<LaneSockets>| sockets.into_iter().map(Arc::new).collect();
    let queue = match given {
        Given::Nothing => None,
        Given::Queue(queue) => Some(queue),
        Given::Inherited(Inherited { queues, offloads, tunnels, sockets, secret, .. }) => {
            let tun = inherit_tun(config, queues, offloads, tunnels, shutdown)?;
            let sockets = LaneSockets::inherit(sockets, lanes, spread, options)?;
            // With sessions, interface and sockets are those of a predecessor, which may still run.
            if secret.is_none() {
                set_marks(&sockets, options.fwmark)?;
                set_up(config, &tun)?;
            }
            return Ok((tun, shared(sockets)));
        }
    };
    let tun = open_tun(config, queue, lanes.lanes as usize, shutdown)?;
    let sockets = LaneSockets::open(config.update.listen_port.unwrap_or(0), lanes, spread, options)?;
    set_up(config, &tun)?;
    Ok((tun, shared(sockets)))
}

/// Gives sockets of another process this router's mark. They rarely have another, so a process that may not set it can
/// mostly go on.
fn set_marks(sockets: &[LaneSockets], fwmark: u32) -> Result<(), BindError> {
    let set = sockets.iter().try_for_each(|sockets| sockets.set_fwmark(fwmark));
    if set.is_err() && fwmark != 0 { Err(BindError::MarkForbidden { fwmark }) } else { Ok(()) }
}

/// Returns how many segments of `mtu` bytes a superpacket may hold so that one GSO send carries them after
/// encryption. At MTU 1420 that is one less than fit in 64 KiB; one more would need a second send.
pub(crate) fn segments_per_run(mtu: u16) -> usize {
    let mtu = usize::from(mtu);
    (MAX_RUN_BYTES / (padded_len(mtu, mtu) + DATA_OVERHEAD)).clamp(1, MAX_RUN_SEGMENTS)
}
