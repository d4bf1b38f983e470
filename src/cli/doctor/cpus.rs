//! CPU checks: the topology, where workers would be pinned, and any CPU quota.

use std::fs;
use std::path::Path;

use super::check::Check;
use super::remedies;
use crate::config::RouterConfig;
use crate::cpus::cpu_list::CpuList;
use crate::cpus::pinning::{self, LaneCpus};
use crate::cpus::topology::Topology;

/// Reports where the workers would run.
pub(super) fn plan(config: &RouterConfig) -> Check {
    let name = "CPUs and pinning";
    let topology = Topology::of_this_thread();
    let queues = config.queues.count(topology.cpus.len());
    match pinning::plan(&topology, queues, config.pinning()) {
        Err(error) => Check::missing(name, error.to_string(), remedies::CPU_LIST),
        Ok(plan) => {
            let why = match plan.unpinned {
                Some(too_few) => format!(" ({too_few})"),
                None => String::new(),
            };
            let lanes: Vec<String> = plan.lanes.iter().map(lane).collect();
            let machine = described(&topology);
            Check::good(
                name,
                format!("{machine}; inside+outside worker per queue: {}{why}", lanes.join(", ")),
            )
        }
    }
}

/// Checks whether a CPU quota would throttle the workers.
pub(super) fn quota(config: &RouterConfig) -> Check {
    let name = "CPU quota";
    let workers = 2 * config.queues.count_here();
    match tightest_quota() {
        None => Check::good(name, "none"),
        Some(cpus) if cpus >= workers as f64 => {
            Check::good(name, format!("{cpus:.1} CPUs for {workers} workers"))
        }
        Some(cpus) => {
            let found = format!(
                "{cpus:.1} CPUs for {workers} workers: under load all workers are throttled in every period"
            );
            Check::limited(name, found, remedies::CPU_QUOTA)
        }
    }
}

fn lane(cpus: &LaneCpus) -> String {
    let cpu = |cpu: Option<usize>| cpu.map_or_else(|| "any".to_owned(), |cpu| cpu.to_string());
    format!("{}+{}", cpu(cpus.inside), cpu(cpus.outside))
}

/// Formats the topology, as in `CPUs 0-7, cores: 4, NUMA nodes: 1, efficiency cores: 6-7`.
fn described(topology: &Topology) -> String {
    let distinct = |key: fn(&crate::cpus::topology::Cpu) -> usize| {
        let mut keys: Vec<usize> = topology.cpus.iter().map(key).collect();
        keys.sort_unstable();
        keys.dedup();
        keys.len()
    };
    let efficient = CpuList::of(topology.cpus.iter().filter(|cpu| cpu.efficient).map(|cpu| cpu.id));
    let efficient = efficient.map_or(String::new(), |list| format!(", efficiency cores: {list}"));
    format!(
        "CPUs {}, cores: {}, NUMA nodes: {}{efficient}",
        topology.list().map_or("none".to_owned(), |list| list.to_string()),
        distinct(|cpu| cpu.core),
        distinct(|cpu| cpu.node.0 << 16 | cpu.node.1),
    )
}

/// Returns the smallest CPU quota of this process's cgroup and its ancestors, in CPUs (cgroup v2, `cpu.max`).
fn tightest_quota() -> Option<f64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?.trim_start_matches('/').to_owned();
    let own = Path::new("/sys/fs/cgroup").join(path);
    let groups = own.ancestors().take_while(|group| group.starts_with("/sys/fs/cgroup"));
    groups.filter_map(|group| quota_of(&fs::read_to_string(group.join("cpu.max")).ok()?)).reduce(f64::min)
}

/// Parses `QUOTA PERIOD`, both in microseconds, into CPUs. Returns `None` for `max PERIOD`.
fn quota_of(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_read_in_cpus() {
        assert_eq!(quota_of("max 100000\n"), None);
        assert_eq!(quota_of("150000 100000\n"), Some(1.5));
        assert_eq!(quota_of(""), None);
    }
}
