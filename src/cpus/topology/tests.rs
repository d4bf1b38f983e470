//! Tests of the CPU assignment on simulated machines, each a sysfs tree.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;

use crate::cpus::cpu_list::CpuList;
use crate::cpus::pinning::{LaneCpus, NotAllowed, Plan, Wishes, pin, plan};
use super::Topology;

/// A sysfs tree in a temporary directory, removed on drop.
struct Sysfs(PathBuf);

impl Sysfs {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("laneway-sysfs-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Sysfs(path)
    }

    fn write(&self, path: &str, text: impl std::fmt::Display) {
        let path = self.0.join("devices").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, format!("{text}\n")).unwrap();
    }

    fn cpu(&self, cpu: usize, file: &str, text: impl std::fmt::Display) {
        self.write(&format!("system/cpu/cpu{cpu}/{file}"), text);
    }

    /// Writes the list `cpus` to `file` of each CPU in it.
    fn share(&self, cpus: &str, file: &str) {
        let list: CpuList = cpus.parse().unwrap();
        list.cpus().iter().for_each(|cpu| self.cpu(*cpu, file, cpus));
    }

    fn read(&self, allowed: &str) -> Topology {
        Topology::read(&self.0, allowed.parse::<CpuList>().unwrap().cpus().iter().copied())
    }

    /// Returns the (inside, outside) CPUs of each lane for a process that may use `allowed`.
    fn spread(&self, allowed: &str, lanes: usize) -> Vec<(usize, usize)> {
        let plan = plan(&self.read(allowed), lanes, AUTO).unwrap();
        assert_eq!(plan.unpinned, None);
        plan.lanes.iter().map(|lane| (lane.inside.unwrap(), lane.outside.unwrap())).collect()
    }
}

impl Drop for Sysfs {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const AUTO: Wishes<'_> = Wishes { auto: true, inside: None, outside: None };

/// A virtual machine without topology information.
fn small_vm() -> Sysfs {
    Sysfs::new()
}

/// A desktop processor like Intel's twelfth generation: four performance cores of two threads (CPUs 0 to
/// 7), four efficiency cores (CPUs 8 to 11), one shared cache.
fn desktop_hybrid() -> Sysfs {
    let sysfs = Sysfs::new();
    for core in ["0-1", "2-3", "4-5", "6-7", "8", "9", "10", "11"] {
        sysfs.share(core, "topology/core_cpus_list");
    }
    sysfs.share("0-11", "cache/index3/shared_cpu_list");
    sysfs.write("cpu_core/cpus", "0-7");
    sysfs.write("cpu_atom/cpus", "8-11");
    sysfs.write("system/node/node0/cpulist", "0-11");
    sysfs
}

/// Two sockets of four cores with two threads each: the first threads are CPUs 0 to 7, the second 8 to 15.
fn two_sockets() -> Sysfs {
    let sysfs = Sysfs::new();
    for cpu in 0..16_usize {
        let (package, first) = (cpu % 8 / 4, cpu % 8);
        sysfs.cpu(cpu, "topology/physical_package_id", package);
        sysfs.cpu(cpu, "topology/thread_siblings_list", format!("{first},{}", first + 8));
        let cache = if package == 0 { "0-3,8-11" } else { "4-7,12-15" };
        sysfs.cpu(cpu, "cache/index3/shared_cpu_list", cache);
    }
    sysfs.write("system/node/node0/cpulist", "0-3,8-11");
    sysfs.write("system/node/node1/cpulist", "4-7,12-15");
    sysfs.write("system/node/has_cpu", "0-1");
    sysfs
}

/// One node of eight cores in two groups of four that share a cache.
fn two_caches() -> Sysfs {
    let sysfs = Sysfs::new();
    sysfs.share("0-3", "cache/index3/shared_cpu_list");
    sysfs.share("4-7", "cache/index3/shared_cpu_list");
    sysfs
}

#[test]
fn on_a_machine_that_tells_nothing_cpu_zero_comes_last() {
    let vm = small_vm();
    assert_eq!(vm.spread("0-3", 1), [(1, 2)]);
    assert_eq!(vm.spread("0-3", 2), [(1, 2), (3, 0)]);
    assert_eq!(vm.spread("0-2", 1), [(1, 2)]);
}

#[test]
fn a_container_with_odd_cpus_gets_lanes_on_those_and_no_others() {
    assert_eq!(small_vm().spread("3,7,11,21,30", 2), [(3, 7), (11, 21)]);
    // A second thread whose first thread we may not use counts as a core.
    assert_eq!(two_sockets().spread("1,3,9,12,14,15", 2), [(1, 3), (12, 14)]);
    assert_eq!(two_sockets().spread("1,3,9,12,14,15", 3), [(1, 3), (12, 14), (15, 9)]);
}

#[test]
fn performance_cores_come_first_then_efficiency_cores_then_second_threads() {
    let lanes = [(2, 4), (6, 1), (8, 9), (10, 11), (3, 5), (7, 0)];
    for count in 1..=6 {
        assert_eq!(desktop_hybrid().spread("0-11", count), lanes[..count]);
    }
    // With efficiency cores only, none ranks lower.
    assert_eq!(desktop_hybrid().spread("8-11", 2), [(8, 9), (10, 11)]);
}

#[test]
fn cores_are_told_apart_by_capacity_or_by_clock_where_the_kernel_has_no_list() {
    for file in ["cpu_capacity", "cpufreq/cpuinfo_max_freq"] {
        let sysfs = Sysfs::new();
        // Two weak cores, and two strong ones of slightly different strength.
        for (cpu, strength) in [440, 440, 980, 1024].into_iter().enumerate() {
            sysfs.cpu(cpu, file, strength);
        }
        assert_eq!(sysfs.spread("0-3", 2), [(2, 3), (1, 0)], "{file}");
    }
}

#[test]
fn a_lane_stays_on_one_node_and_physical_cores_come_first() {
    let server = two_sockets();
    // The second thread of core 0 is used before CPU 0.
    assert_eq!(server.spread("0-15", 2), [(1, 2), (3, 8)]);
    assert_eq!(server.spread("0-15", 4), [(1, 2), (3, 8), (4, 5), (6, 7)]);
    let all = server.spread("0-15", 8);
    assert_eq!(all[4..], [(9, 10), (12, 13), (14, 15), (11, 0)]);
    let socket = |cpu: usize| cpu % 8 / 4;
    assert!(all.iter().all(|(inside, outside)| socket(*inside) == socket(*outside)), "{all:?}");
}

#[test]
fn a_lane_stays_behind_one_cache_though_cpu_zero_is_left_out() {
    assert_eq!(two_caches().spread("0-7", 3), [(1, 2), (4, 5), (6, 7)]);
    assert_eq!(two_caches().spread("0-7", 4)[3], (3, 0));
}

#[test]
fn more_workers_than_cpus_are_not_pinned_and_neither_are_two_on_the_only_two() {
    for (allowed, lanes) in [("0-2", 2), ("0-1", 1), ("5", 1)] {
        let plan = plan(&small_vm().read(allowed), lanes, AUTO).unwrap();
        assert_eq!(plan.lanes, vec![LaneCpus::default(); lanes]);
        let said = plan.unpinned.unwrap().to_string();
        assert!(said.contains(&format!("{} workers", 2 * lanes)), "{said}");
    }
}

#[test]
fn lists_are_followed_and_start_over() {
    let (inside, outside) = ("2-3".parse().unwrap(), "1".parse().unwrap());
    let wishes = Wishes { auto: true, inside: Some(&inside), outside: Some(&outside) };
    let plan = plan(&small_vm().read("0-3"), 3, wishes).unwrap();
    let lane = |inside, outside| LaneCpus { inside: Some(inside), outside: Some(outside) };
    assert_eq!(plan, Plan { lanes: vec![lane(2, 1), lane(3, 1), lane(2, 1)], unpinned: None });
}

#[test]
fn who_has_no_list_goes_near_who_has_one() {
    let list = "5,9".parse().unwrap();
    let outside = |wishes: Wishes<'_>| {
        let plan = plan(&two_sockets().read("0-15"), 2, wishes).unwrap();
        plan.lanes.iter().map(|lane| lane.outside).collect::<Vec<_>>()
    };
    // Near CPU 5, and near CPU 9, which is the second thread of core 1.
    assert_eq!(outside(Wishes { auto: true, inside: Some(&list), outside: None }), [Some(4), Some(2)]);
    assert_eq!(outside(Wishes { auto: false, inside: Some(&list), outside: None }), [None, None]);
}

#[test]
fn a_list_that_names_a_cpu_we_may_not_use_is_refused_with_those_we_may() {
    let list = "1,4-6".parse().unwrap();
    let wishes = Wishes { auto: false, inside: None, outside: Some(&list) };
    let error = plan(&small_vm().read("0-2,5"), 1, wishes).unwrap_err();
    assert_eq!(
        error.to_string(),
        "LANEWAY_OUTSIDE_CPUS names CPU 4,6, which this process may not use: its affinity and cpuset allow 0-2,5"
    );
    assert!(matches!(error, NotAllowed { variable: "LANEWAY_OUTSIDE_CPUS", .. }));
}

#[test]
fn a_pinned_thread_runs_where_it_was_put() {
    let cpu = Topology::of_this_thread().cpus[0].id;
    let seen =
        std::thread::spawn(move || pin(cpu).then(|| Topology::of_this_thread().list())).join().unwrap();
    assert_eq!(seen, Some(CpuList::of([cpu])));
}

#[test]
fn this_machine_is_read_without_complaint() {
    let topology = Topology::of_this_thread();
    assert!(!topology.cpus.is_empty());
    assert_eq!(Topology::read(Path::new("/nonexistent"), [7]).cpus.len(), 1);
}

proptest! {
    /// On any machine and with any affinity, each worker gets its own CPU, and all of them are allowed.
    #[test]
    fn no_cpu_is_given_twice_or_without_leave(
        cpus in proptest::collection::btree_map(0_usize..40, (0_usize..20, 0_usize..3, 0_usize..2, any::<bool>()), 3..24),
        share in 1_usize..5,
    ) {
        use super::Cpu;
        let cpu = |(id, (core, cache, node, efficient)): (&usize, &(usize, usize, usize, bool))| {
            Cpu { id: *id, core: *core, cache: *cache, node: (*node, *node), efficient: *efficient }
        };
        let topology = Topology { cpus: cpus.iter().map(cpu).collect() };
        let lanes = (topology.cpus.len() / 2).div_ceil(share);
        let plan = plan(&topology, lanes, AUTO).unwrap();
        let mut used: Vec<usize> = plan.lanes.iter().flat_map(|lane| [lane.inside, lane.outside]).flatten().collect();
        prop_assert_eq!(used.len(), 2 * lanes);
        prop_assert!(used.iter().all(|id| cpus.contains_key(id)));
        used.sort_unstable();
        used.dedup();
        prop_assert_eq!(used.len(), 2 * lanes);
    }
}
