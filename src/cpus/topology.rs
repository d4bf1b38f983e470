//! CPU topology: which hardware threads share a core, which cores share a cache and a NUMA node, and
//! which are efficiency cores.
//!
//! Read from sysfs (`Documentation/ABI/testing/sysfs-devices-system-cpu` and
//! `Documentation/admin-guide/cputopology.rst` in Linux). Where a file is missing, as often in virtual
//! machines, all CPUs are assumed to be alike in that respect.

use std::fs;
use std::path::Path;

use super::cpu_list::CpuList;

/// The mount point of sysfs.
pub const SYSFS: &str = "/sys";

/// A core below this percentage of the strongest CPU's strength is an efficiency core. Cores of one kind
/// differ by a few percent (some reach a higher clock), cores of different kinds by a third or more.
const EFFICIENT_BELOW: u64 = 80;

/// One CPU that this process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// The kernel's CPU number.
    pub id: usize,
    /// The physical core, identified by its lowest CPU number.
    pub core: usize,
    /// The last-level cache, identified by the lowest CPU number that shares it.
    pub cache: usize,
    /// The package and the NUMA node.
    pub node: (usize, usize),
    /// Whether the core is an efficiency core.
    pub efficient: bool,
}

/// The CPUs that this process may use, in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// The CPUs.
    pub cpus: Vec<Cpu>,
}

impl Topology {
    /// Reads this machine's topology, restricted to the calling thread's affinity, which respects its
    /// cpuset.
    pub fn of_this_thread() -> Self {
        let cpus = core_affinity::get_core_ids().unwrap_or_default();
        Topology::read(Path::new(SYSFS), cpus.into_iter().map(|cpu| cpu.id))
    }

    /// Reads the topology from the sysfs tree at `sysfs`, restricted to the `allowed` CPUs.
    pub fn read(sysfs: &Path, allowed: impl IntoIterator<Item = usize>) -> Self {
        let mut ids: Vec<usize> = allowed.into_iter().collect();
        ids.sort_unstable();
        ids.dedup();
        let machine = Machine::read(sysfs, &ids);
        let cpu = |(id, efficient): (&usize, bool)| machine.cpu(*id, efficient);
        Topology { cpus: ids.iter().zip(machine.efficient(&ids)).map(cpu).collect() }
    }

    /// Returns the CPU numbers, or `None` if there are no CPUs.
    pub fn list(&self) -> Option<CpuList> {
        CpuList::of(self.cpus.iter().map(|cpu| cpu.id))
    }
}

/// A machine's sysfs.
struct Machine<'a> {
    sysfs: &'a Path,
    /// The NUMA nodes and their CPUs.
    nodes: Vec<(usize, CpuList)>,
    /// The CPUs that the kernel lists as efficiency cores (Intel hybrid processors).
    atoms: Option<CpuList>,
}

impl<'a> Machine<'a> {
    fn read(sysfs: &'a Path, allowed: &[usize]) -> Self {
        let folders = fs::read_dir(sysfs.join("devices/system/node")).into_iter().flatten().flatten();
        let node = |folder: fs::DirEntry| {
            let number = folder.file_name().to_str()?.strip_prefix("node")?.parse().ok()?;
            Some((number, list(&folder.path().join("cpulist"))?))
        };
        let mut nodes: Vec<_> = folders.filter_map(node).collect();
        nodes.sort_unstable_by_key(|(number, _)| *number);
        // If all allowed CPUs are efficiency cores, the distinction is meaningless.
        let atoms = list(&sysfs.join("devices/cpu_atom/cpus"))
            .filter(|atoms| !allowed.iter().all(|cpu| atoms.cpus().contains(cpu)));
        Machine { sysfs, nodes, atoms }
    }

    fn cpu(&self, id: usize, efficient: bool) -> Cpu {
        let lowest = |path: &str| list(&self.path(id, path))?.cpus().iter().min().copied();
        let package = number(&self.path(id, "topology/physical_package_id")).unwrap_or(0) as usize;
        let node = self.nodes.iter().find(|(_, cpus)| cpus.cpus().contains(&id));
        let core = lowest("topology/core_cpus_list").or_else(|| lowest("topology/thread_siblings_list"));
        Cpu {
            id,
            core: core.unwrap_or(id),
            // The level-3 cache is the last one. Without it, all CPUs count as sharing a cache.
            cache: lowest("cache/index3/shared_cpu_list").unwrap_or(0),
            node: (package, node.map_or(0, |(number, _)| *number)),
            efficient,
        }
    }

    /// Returns for each of the `allowed` CPUs whether it is an efficiency core, from the first source
    /// available: the kernel's list, the scheduler's CPU capacities, the maximum clock frequencies.
    fn efficient(&self, allowed: &[usize]) -> Vec<bool> {
        if let Some(atoms) = &self.atoms {
            return allowed.iter().map(|cpu| atoms.cpus().contains(cpu)).collect();
        }
        let strengths = |path| {
            let of = |cpu: &usize| number(&self.path(*cpu, path));
            allowed.iter().map(of).collect::<Option<Vec<u64>>>()
        };
        let strengths = strengths("cpu_capacity").or_else(|| strengths("cpufreq/cpuinfo_max_freq"));
        let Some(strengths) = strengths else { return vec![false; allowed.len()] };
        let strongest = strengths.iter().max().copied().unwrap_or_default();
        strengths.iter().map(|strength| strength * 100 < strongest * EFFICIENT_BELOW).collect()
    }

    fn path(&self, cpu: usize, file: &str) -> std::path::PathBuf {
        self.sysfs.join(format!("devices/system/cpu/cpu{cpu}/{file}"))
    }
}

fn list(path: &Path) -> Option<CpuList> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn number(path: &Path) -> Option<u64> {
    // An unknown package is -1 and does not parse.
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
