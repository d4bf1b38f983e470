//! The doorbells, rings and pools of each lane, and the workers between them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use arc_swap::ArcSwap;

use super::Lanes;
use crate::config::RouterConfig;
use crate::cpus::pinning::LaneCpus;
use crate::lane::bounds::{self, RING_DEPTH, SHARED_RING_DEPTH};
use crate::lane::channels::{ActorChannel, CommandChannel};
use crate::lane::inside::{self, InsideWorker, OwnAddresses};
use crate::lane::outside::{self, OutsideWorker};
use crate::lane::peers::Peers;
use crate::lane::ring::batch::{Home, InboundBatch, OutboundBatch};
use crate::lane::ring::custody::{Holdings, LaneCustody};
use crate::lane::ring::doorbell::Doorbell;
use crate::lane::ring::metrics::LaneRings;
use crate::lane::ring::{Pool, Ring};
use crate::lane::share::Share;
use crate::lane::share::helpers::{Helper, JobsOf};
use crate::lane::share::jobs::OwnJobs;
use crate::lane::shortcut::{SendShortcut, WriteShortcut};
use crate::lane::sockets::LaneSockets;
use crate::lane::wait::pause::Pause;
use crate::lane::wait::quiesce::Quiesce;
use crate::lane::wait::sleep::Sleeper;
use crate::metrics::{self, InsideMetrics, OutsideMetrics, Registry, SentShortcuts, WrittenShortcuts};
use crate::offload::{Offload, QueueShortcut};
use crate::shutdown::Shutdown;
use crate::underlay::{self, DropWatch};
use crate::wireguard::table::SessionTable;

/// State shared by all lanes.
pub(super) struct LaneShared {
    pub(super) peers: Arc<Peers>,
    pub(super) sessions: Arc<SessionTable>,
    pub(super) actor: Arc<ActorChannel>,
    pub(super) registry: Arc<Registry>,
    pub(super) mtu: Arc<AtomicUsize>,
    pub(super) own: Arc<OwnAddresses>,
    pub(super) shutdown: Arc<Shutdown>,
}

/// The doorbells, rings, pools and command channel of one lane.
pub(super) struct Ends {
    pub(super) inside_bell: Arc<Doorbell>,
    pub(super) outside_bell: Arc<Doorbell>,
    /// Ring from every outside worker to this lane's inside worker.
    pub(super) inbound: Arc<Ring<InboundBatch>>,
    /// Ring from this lane's inside worker to its outside worker.
    pub(super) outbound: Arc<Ring<OutboundBatch>>,
    pub(super) inbound_pool: Pool<InboundBatch>,
    pub(super) outbound_pool: Pool<OutboundBatch>,
    /// The jobs of the outside worker and of the inside worker, if workers share them.
    pub(super) jobs: Option<(OwnJobs<InboundBatch>, OwnJobs<OutboundBatch>)>,
    pub(super) commands: Arc<CommandChannel>,
    pub(super) inside_holdings: Arc<Holdings>,
    pub(super) outside_holdings: Arc<Holdings>,
}

impl Ends {
    pub(super) fn custody(&self) -> LaneCustody {
        LaneCustody {
            inside: Arc::clone(&self.inside_holdings),
            outside: Arc::clone(&self.outside_holdings),
            inbound: Arc::clone(&self.inbound),
            outbound: Arc::clone(&self.outbound),
            inbound_returns: Arc::clone(self.inbound_pool.returns()),
            outbound_returns: Arc::clone(self.outbound_pool.returns()),
        }
    }

    pub(super) fn rings(&self) -> LaneRings {
        LaneRings { inside: Arc::clone(&self.inbound), outside: Arc::clone(&self.outbound) }
    }
}

/// Creates the doorbells, rings and pools of `lane`.
///
/// # Errors
/// An eventfd cannot be created.
pub(super) fn lane_ends(
    config: &RouterConfig,
    registry: &Registry,
    lane: usize,
    lanes: usize,
    shares: bool,
) -> io::Result<Ends> {
    let depth = config.inbox_depth.unwrap_or(RING_DEPTH);
    let inbound_depth = config.inbox_depth.unwrap_or(if shares { SHARED_RING_DEPTH } else { RING_DEPTH });
    let inside_bell = Arc::new(Doorbell::new()?);
    let outside_bell = Arc::new(Doorbell::new()?);
    let arriving = bounds::inbound_pool(inbound_depth, lanes, shares);
    let leaving = bounds::outbound_pool(depth, shares);
    let lost = |direction| metrics::lost_in_panics(registry, lane, direction);
    Ok(Ends {
        inbound: Arc::new(Ring::new(inbound_depth, Arc::clone(&inside_bell))),
        outbound: Arc::new(Ring::new(leaving, Arc::clone(&outside_bell))),
        inbound_pool: Pool::new(arriving, Arc::clone(&outside_bell), || InboundBatch::new(lane))
            .adopting(|batch, returns| batch.set_home(Home::new(returns, lost("inbound")))),
        outbound_pool: Pool::new(leaving, Arc::clone(&inside_bell), OutboundBatch::new)
            .adopting(|batch, returns| batch.set_home(Home::new(returns, lost("outbound")))),
        jobs: shares.then(|| {
            let outside = OwnJobs::new(arriving, Arc::clone(&outside_bell));
            (outside, OwnJobs::new(leaving, Arc::clone(&inside_bell)))
        }),
        commands: Arc::new(CommandChannel::new(Arc::clone(&outside_bell))),
        inside_bell,
        outside_bell,
        inside_holdings: Arc::default(),
        outside_holdings: Arc::default(),
    })
}

/// Creates the workers of all lanes and connects them.
///
/// # Errors
/// A descriptor cannot be created.
pub(super) fn wire(
    config: &RouterConfig,
    shared: &LaneShared,
    ends: Vec<Ends>,
    pause: &Arc<Pause>,
    queues: Vec<Offload>,
    sockets: Vec<Arc<LaneSockets>>,
    cpus: Vec<LaneCpus>,
) -> io::Result<Lanes> {
    let rings: Vec<_> = ends.iter().map(|ends| Arc::clone(&ends.inbound)).collect();
    let returns: Vec<_> = ends.iter().map(|ends| Arc::clone(ends.inbound_pool.returns())).collect();
    let sleeper = |bell: &Arc<Doorbell>| Sleeper::new(Arc::clone(bell), Arc::clone(&shared.shutdown));
    let ways_in: Vec<_> = queues.iter().map(|queue| queue.shortcut.clone()).collect();
    let mut lanes = Lanes::with_capacity(cpus.len());
    let quiesces = Quiesce::of_lanes(ends.len());
    let mut helpers = helpers(&ends).into_iter();
    for (lane, ((((ends, queue), sockets), cpus), (inside_quiesce, outside_quiesce))) in
        ends.into_iter().zip(queues).zip(sockets).zip(cpus).zip(quiesces).enumerate()
    {
        let (inside_paused, outside_paused) = pause.of_lane(lane);
        let (inside_helper, outside_helper) = (helpers.next(), helpers.next());
        let (inbound_jobs, outbound_jobs) = ends.jobs.unzip();
        let outgoing_returns = Arc::clone(ends.outbound_pool.returns());
        let socket_drops = Arc::new(DropWatch::new(&sockets.shared)?);
        let sender = underlay::Sender::new(&sockets.shared);
        let sockets = Arc::new(ArcSwap::new(sockets));
        let inside = InsideWorker {
            reader: queue.reader,
            writer: inside::PacketWriter::new(queue.writer, Arc::clone(&ends.inbound), returns.clone()),
            sealer: inside::Sealer::new(
                ends.outbound_pool,
                Arc::clone(&ends.outbound),
                outbound_jobs.zip(inside_helper.clone()).map(|(jobs, helper)| Share::new(jobs, helper)),
                SendShortcut::new(Arc::clone(&sockets), SentShortcuts::register(&shared.registry, lane)),
                Arc::clone(&shared.actor),
                Arc::clone(&shared.mtu),
                config.dscp,
            )
            .with_short_queues(config.short_queues),
            unstaged: inside::Unstaged::default(),
            holdings: Arc::clone(&ends.inside_holdings),
            rejecter: inside::Rejecter::new(queue.rejecter, config.reject, Arc::clone(&shared.own)),
            peers: arc_swap::Cache::new(Arc::clone(&shared.peers)),
            helper: inside_helper,
            sleeper: sleeper(&ends.inside_bell),
            quiesce: inside_quiesce,
            paused: inside_paused,
            drain_cap: config.drain_cap,
            spin: config.spin,
            metrics: InsideMetrics::register(&shared.registry, lane),
        };
        let outside = OutsideWorker {
            sender: outside::BatchSender::new(
                sender,
                Arc::clone(&ends.outbound),
                outgoing_returns,
                config.dscp,
            ),
            opener: outside::Opener::new(
                lane,
                ends.inbound_pool,
                inbound_jobs.zip(outside_helper.clone()).map(|(jobs, helper)| Share::new(jobs, helper)),
                rings.clone(),
                shortcuts_to(&ways_in, &shared.registry),
                Arc::clone(&shared.sessions),
                Arc::clone(&shared.actor),
            )
            .with_short_queues(config.short_queues),
            socket_drops,
            sockets,
            holdings: Arc::clone(&ends.outside_holdings),
            sends_control: false,
            commands: ends.commands,
            peers: arc_swap::Cache::new(Arc::clone(&shared.peers)),
            helper: outside_helper,
            sleeper: sleeper(&ends.outside_bell),
            quiesce: outside_quiesce,
            paused: outside_paused,
            spin: config.spin,
            metrics: OutsideMetrics::register(&shared.registry, lane),
        };
        lanes.push((inside, outside, cpus));
    }
    Ok(lanes)
}

/// Returns the helpers of all workers that share jobs: of each lane, the inside worker and the outside worker.
fn helpers(lanes: &[Ends]) -> Vec<Helper> {
    let workers = lanes.iter().filter_map(|ends| {
        let (outside, inside) = ends.jobs.as_ref()?;
        Some([
            (Arc::clone(&ends.inside_bell), JobsOf::Inside(Arc::clone(inside.shared()))),
            (Arc::clone(&ends.outside_bell), JobsOf::Outside(Arc::clone(outside.shared()))),
        ])
    });
    Helper::of_workers(workers.flatten())
}

/// Returns an outside worker's shortcuts, which write to each TUN queue without a hop through its inside
/// worker.
fn shortcuts_to(queues: &[QueueShortcut], registry: &Registry) -> Vec<WriteShortcut> {
    let counted = |(lane, queue): (usize, &QueueShortcut)| {
        WriteShortcut::new(queue.clone(), WrittenShortcuts::register(registry, lane))
    };
    queues.iter().enumerate().map(counted).collect()
}
