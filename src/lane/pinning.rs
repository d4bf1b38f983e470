//! Which CPU each worker runs on.
//!
//! A lane's two workers hand each other batches all the time, so they get cores that share a cache, or
//! at least a NUMA node. Within that: physical cores before the second threads of cores that are taken,
//! performance cores before efficiency cores, and CPU 0, where interrupts tend to land, last.
//!
//! More workers than CPUs means no pinning at all: two pinned workers on one CPU would wait for each
//! other while another CPU idles, and the scheduler does better. The same holds for two workers on the
//! only two CPUs, where the workload has to share with one of them whichever is busy: TCP through
//! pinned routers was a fifth slower there.

use std::collections::BTreeMap;

use core_affinity::CoreId;

use super::cpu_list::CpuList;
use super::topology::{Cpu, Topology};

/// The CPUs of one lane's workers; `None` leaves the choice to the scheduler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneCpus {
    /// The inside worker's.
    pub inside: Option<usize>,
    /// The outside worker's.
    pub outside: Option<usize>,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wishes<'a> {
    /// Whether workers without a list are pinned.
    pub auto: bool,
    /// The CPUs of inside workers, one a lane; the list starts over when it is used up.
    pub inside: Option<&'a CpuList>,
    /// The CPUs of outside workers, likewise.
    pub outside: Option<&'a CpuList>,
}

/// Where the workers go, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Lane by lane.
    pub lanes: Vec<LaneCpus>,
    /// Why some worker has no CPU of its own, although that was wanted.
    pub unpinned: Option<TooFew>,
}

/// There are too few CPUs for workers of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{workers} workers on {cpus} CPUs are left to the scheduler: pinning takes as many CPUs as workers, and three or more"
)]
pub struct TooFew {
    /// The workers.
    pub workers: usize,
    /// The CPUs that this process may use.
    pub cpus: usize,
}

/// A list names a CPU that this process may not use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{variable} names CPU {named}, which this process may not use: its affinity and cpuset allow {}",
    allowed.as_ref().map_or("none".to_owned(), ToString::to_string)
)]
pub struct NotAllowed {
    /// The list's name.
    pub variable: &'static str,
    /// Those of the list that are not allowed.
    pub named: CpuList,
    /// Those that are.
    pub allowed: Option<CpuList>,
}

/// Decides where the workers of so many `lanes` go.
///
/// # Errors
/// A list names a CPU that is not in `topology`.
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

/// Puts the calling thread on `cpu`; false if the kernel refuses.
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

/// Two CPUs for each lane, if there are enough of them.
fn spread(topology: &Topology, lanes: usize) -> Option<Vec<LaneCpus>> {
    let ranked = ranked(&topology.cpus);
    if ranked.len() < 2 * lanes || ranked.len() <= 2 {
        return None;
    }
    let mut pairs = Vec::new();
    let mut single = ranked;
    // The closest pairs of equals first; then what is left over, wherever it is.
    single = pair_within(single, &mut pairs, |(rank, cpu)| (rank.tier, cpu.node, cpu.cache));
    single = pair_within(single, &mut pairs, |(rank, cpu)| (rank.tier, cpu.node, 0));
    single = pair_within(single, &mut pairs, |(_, cpu)| (Tier::Core, cpu.node, cpu.cache));
    single = pair_within(single, &mut pairs, |(_, cpu)| (Tier::Core, cpu.node, 0));
    pair_within(single, &mut pairs, |_| (Tier::Core, (0, 0), 0));
    // The pair with the better worse half first.
    pairs.sort_by_key(|[first, second]| (first.0.max(second.0).tier, first.0));
    let lane =
        |[first, second]: &[Ranked; 2]| LaneCpus { inside: Some(first.1.id), outside: Some(second.1.id) };
    Some(pairs.iter().take(lanes).map(lane).collect())
}

/// How early a CPU is used: the lower, the earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    tier: Tier,
    /// The core is CPU 0's.
    beside_zero: bool,
    node: (usize, usize),
    cache: usize,
    core: usize,
    id: usize,
}

/// Sorts of CPUs, the better ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tier {
    /// The first thread of a performance core.
    Core,
    /// The first thread of an efficiency core.
    EfficientCore,
    /// A further thread of a core.
    Thread,
    /// CPU 0.
    Zero,
}

type Ranked = (Rank, Cpu);

/// The CPUs in the order in which they are used.
fn ranked(cpus: &[Cpu]) -> Vec<Ranked> {
    let zero = cpus.iter().find(|cpu| cpu.id == 0).map(|cpu| cpu.core);
    let rank = |cpu: &Cpu| {
        // CPU 0 comes last of all, so it does not make its core's other thread a second one.
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

/// Makes pairs of neighbours with the same `key`; who is left over.
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

/// Finds a CPU near each lane's listed one for its other worker; whether there are enough.
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
            // The other thread of its own core is near, but they would share what one of them needs.
            (far, listed.is_some_and(|to| cpu.core == to.core), *rank)
        };
        let nearest = (0..free.len()).min_by_key(|index| distance(&free[*index]));
        *other = nearest.map(|index| free.remove(index).1.id);
    }
    true
}
