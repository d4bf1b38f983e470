//! Assigns CPUs to workers.
//!
//! A lane's two workers constantly pass batches to each other, so they get cores that share a cache,
//! or at least a NUMA node. Within that, separate physical cores come before second hardware threads of
//! used cores, performance cores before efficiency cores, and CPU 0, where interrupts tend to land, last.
//!
//! With more workers than CPUs, none is pinned: two workers pinned to one CPU would wait for each other
//! while another CPU is idle. Nor are two workers pinned on a machine with only two CPUs, where other
//! processes would have to compete with one of them: TCP through pinned routers was a fifth slower
//! there.

use std::collections::BTreeMap;

use core_affinity::CoreId;

use super::cpu_list::CpuList;
use super::topology::{Cpu, Topology};

/// The CPUs of one lane's workers. `None` leaves the worker unpinned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneCpus {
    /// The inside worker's CPU.
    pub inside: Option<usize>,
    /// The outside worker's CPU.
    pub outside: Option<usize>,
}

/// The operator's pinning settings.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wishes<'a> {
    /// Whether to pin workers that have no list.
    pub auto: bool,
    /// The CPUs of inside workers, one per lane. A list shorter than the number of lanes is repeated.
    pub inside: Option<&'a CpuList>,
    /// The CPUs of outside workers, used in the same way.
    pub outside: Option<&'a CpuList>,
}

/// The assignment of CPUs to workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The CPUs of each lane.
    pub lanes: Vec<LaneCpus>,
    /// Set if workers that should have been pinned are not.
    pub unpinned: Option<TooFew>,
}

/// There are too few CPUs to give each worker its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{workers} workers on {cpus} CPUs are left to the scheduler: pinning needs one CPU per worker, and at least three CPUs"
)]
pub struct TooFew {
    /// The number of workers.
    pub workers: usize,
    /// The number of CPUs that this process may use.
    pub cpus: usize,
}

/// A list names a CPU that this process may not use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{variable} names CPU {named}, which this process may not use: its affinity and cpuset allow {}",
    allowed.as_ref().map_or("none".to_owned(), ToString::to_string)
)]
pub struct NotAllowed {
    /// The environment variable that holds the list.
    pub variable: &'static str,
    /// The listed CPUs that are not allowed.
    pub named: CpuList,
    /// The allowed CPUs; `None` if there are none.
    pub allowed: Option<CpuList>,
}

/// Assigns CPUs to the workers of `lanes` lanes.
///
/// # Errors
/// If a list names a CPU that is not in `topology`.
pub fn plan(topology: &Topology, lanes: usize, wishes: Wishes<'_>) -> Result<Plan, NotAllowed> {
    for (variable, list) in [("LANEWAY_INSIDE_CPUS", wishes.inside), ("LANEWAY_OUTSIDE_CPUS", wishes.outside)]
    {
        list.map_or(Ok(()), |list| check(topology, variable, list))?;
    }
    let too_few = TooFew { workers: 2 * lanes, cpus: topology.cpus.len() };
    let listed = |list: Option<&CpuList>, lane| list.map(|list| list.nth_wrapping(lane));
    let mut planned: Vec<_> = (0..lanes)
        .map(|lane| LaneCpus { inside: listed(wishes.inside, lane), outside: listed(wishes.outside, lane) })
        .collect();
    let found = match (wishes.inside, wishes.outside) {
        _ if !wishes.auto => true,
        (Some(_), Some(_)) => true,
        (None, None) => spread(topology, lanes).map(|pairs| planned = pairs).is_some(),
        (Some(_), None) => accompany(topology, &mut planned, |lane| (lane.inside, &mut lane.outside)),
        (None, Some(_)) => accompany(topology, &mut planned, |lane| (lane.outside, &mut lane.inside)),
    };
    Ok(Plan { lanes: planned, unpinned: (!found).then_some(too_few) })
}

/// Pins the calling thread to `cpu`. Returns false if the kernel refuses.
pub fn pin(cpu: usize) -> bool {
    core_affinity::set_for_current(CoreId { id: cpu })
}

fn check(topology: &Topology, variable: &'static str, list: &CpuList) -> Result<(), NotAllowed> {
    let is_allowed = |id: &usize| topology.cpus.iter().any(|cpu| cpu.id == *id);
    match CpuList::of(list.cpus().iter().copied().filter(|id| !is_allowed(id))) {
        Some(named) => Err(NotAllowed { variable, named, allowed: topology.list() }),
        None => Ok(()),
    }
}

/// Returns two CPUs for each lane, or `None` if there are too few.
fn spread(topology: &Topology, lanes: usize) -> Option<Vec<LaneCpus>> {
    let ranked = ranked(&topology.cpus);
    if ranked.len() < 2 * lanes || ranked.len() <= 2 {
        return None;
    }
    let mut pairs = Vec::new();
    let mut single = ranked;
    // First pairs of equal rank that are close to each other, then the remaining CPUs.
    single = pair_within(single, &mut pairs, |(rank, cpu)| (rank.tier, cpu.node, cpu.cache));
    single = pair_within(single, &mut pairs, |(rank, cpu)| (rank.tier, cpu.node, 0));
    single = pair_within(single, &mut pairs, |(_, cpu)| (Tier::Core, cpu.node, cpu.cache));
    single = pair_within(single, &mut pairs, |(_, cpu)| (Tier::Core, cpu.node, 0));
    pair_within(single, &mut pairs, |_| (Tier::Core, (0, 0), 0));
    // Order pairs by the worse of their two CPUs.
    pairs.sort_by_key(|[first, second]| (first.0.max(second.0).tier, first.0));
    let lane =
        |[first, second]: &[Ranked; 2]| LaneCpus { inside: Some(first.1.id), outside: Some(second.1.id) };
    Some(pairs.iter().take(lanes).map(lane).collect())
}

/// The order in which CPUs are used, lowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    tier: Tier,
    /// Whether the CPU is on the same core as CPU 0.
    beside_zero: bool,
    node: (usize, usize),
    cache: usize,
    core: usize,
    id: usize,
}

/// Classes of CPUs, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tier {
    /// The first hardware thread of a performance core.
    Core,
    /// The first hardware thread of an efficiency core.
    EfficientCore,
    /// Another hardware thread of a core.
    Thread,
    /// CPU 0.
    Zero,
}

type Ranked = (Rank, Cpu);

/// Returns the CPUs in the order in which they are used.
fn ranked(cpus: &[Cpu]) -> Vec<Ranked> {
    let zero = cpus.iter().find(|cpu| cpu.id == 0).map(|cpu| cpu.core);
    let rank = |cpu: &Cpu| {
        // CPU 0 comes last, so the other thread of its core counts as the first.
        let is_first = !cpus.iter().any(|other| other.core == cpu.core && (1..cpu.id).contains(&other.id));
        let tier = match (cpu.id, is_first, cpu.efficient) {
            (0, ..) => Tier::Zero,
            (_, false, _) => Tier::Thread,
            (_, true, false) => Tier::Core,
            (_, true, true) => Tier::EfficientCore,
        };
        let beside_zero = zero == Some(cpu.core);
        let Cpu { id, core, cache, node, .. } = *cpu;
        (Rank { tier, beside_zero, node, cache, core, id }, *cpu)
    };
    let mut ranked: Vec<_> = cpus.iter().map(rank).collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked
}

/// Pairs neighbors with the same `key`. Returns the CPUs left without a partner.
fn pair_within<K: Ord>(
    cpus: Vec<Ranked>,
    pairs: &mut Vec<[Ranked; 2]>,
    key: impl Fn(&Ranked) -> K,
) -> Vec<Ranked> {
    let mut waiting: BTreeMap<K, Ranked> = BTreeMap::new();
    for cpu in cpus {
        match waiting.remove(&key(&cpu)) {
            Some(first) => pairs.push([first, cpu]),
            None => drop(waiting.insert(key(&cpu), cpu)),
        }
    }
    let mut single: Vec<_> = waiting.into_values().collect();
    single.sort_by_key(|(rank, _)| *rank);
    single
}

/// Assigns each lane's unlisted worker a CPU near the listed one. Returns false if there are too few
/// CPUs.
fn accompany(
    topology: &Topology,
    lanes: &mut [LaneCpus],
    ends: impl Fn(&mut LaneCpus) -> (Option<usize>, &mut Option<usize>),
) -> bool {
    let taken: Vec<usize> = lanes.iter_mut().filter_map(|lane| ends(lane).0).collect();
    let mut free = ranked(&topology.cpus);
    free.retain(|(_, cpu)| !taken.contains(&cpu.id));
    if free.len() < lanes.len() || topology.cpus.len() <= 2 {
        return false;
    }
    for lane in lanes {
        let (listed, other) = ends(lane);
        let listed = topology.cpus.iter().find(|cpu| Some(cpu.id) == listed);
        let distance = |(rank, cpu): &Ranked| {
            let far = listed.map_or((false, false), |to| (cpu.node != to.node, cpu.cache != to.cache));
            // The other thread of the same core is near, but the two would compete for that core.
            (far, listed.is_some_and(|to| cpu.core == to.core), *rank)
        };
        let nearest = (0..free.len()).min_by_key(|index| distance(&free[*index]));
        *other = nearest.map(|index| free.remove(index).1.id);
    }
    true
}
