//! Where the threads of a `laneway` process really run, as the kernel says.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;

use laneway::cpus::topology::Topology;
use support::binary::{Laneway, command};
use support::process::Process;
use support::{device_name, lab, require_root};

/// The CPUs that each thread may use, by its name.
fn affinities(laneway: &Laneway) -> BTreeMap<String, String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", laneway.process.id())).unwrap();
    let field = |status: &str, name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} in {status}")).trim().to_owned()
    };
    // Threads that were there for the start only may end meanwhile.
    let affinity = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        Some((field(&status, "Name:"), field(&status, "Cpus_allowed_list:")))
    };
    tasks.filter_map(|task| affinity(task.unwrap())).collect()
}

#[test]
fn workers_run_where_the_lists_say_and_the_other_threads_where_they_like() {
    if !require_root() {
        return;
    }
    let lab = lab();
    let topology = Topology::of_this_thread();
    let (first, last) = (topology.cpus[0].id.to_string(), topology.cpus.last().unwrap().id.to_string());
    let variables =
        [("LANEWAY_QUEUES", "2"), ("LANEWAY_INSIDE_CPUS", &first), ("LANEWAY_OUTSIDE_CPUS", &last)];
    let found = affinities(&Laneway::start(&lab.left, &variables));
    for lane in 0..2 {
        assert_eq!(found[&format!("inside-{lane}")], first);
        assert_eq!(found[&format!("outside-{lane}")], last);
    }
    let all = topology.list().unwrap().to_string();
    assert_eq!((&found["peers"], &found["admin"]), (&all, &all));
}

#[test]
fn workers_are_pinned_by_themselves_where_there_are_cpus_enough_and_nowhere_else() {
    if !require_root() {
        return;
    }
    let lab = lab();
    let topology = Topology::of_this_thread();
    let laneway = Laneway::start(&lab.left, &[("LANEWAY_QUEUES", "1")]);
    let found = affinities(&laneway);
    let (inside, outside) = (&found["inside-0"], &found["outside-0"]);
    if topology.cpus.len() > 2 {
        assert!(inside != outside && inside.parse::<usize>().is_ok(), "{inside} {outside}");
    } else {
        let all = topology.list().unwrap().to_string();
        assert_eq!((inside, outside), (&all, &all));
        assert_eq!(laneway.process.said().matches("left to the scheduler").count(), 1);
    }
}

#[test]
fn a_list_that_names_a_cpu_that_is_not_allowed_is_refused_before_anything_is_made() {
    if !require_root() {
        return;
    }
    let lab = lab();
    let name = device_name("lw");
    let mut refused = command(&lab.left, &["-f", &name], &[("LANEWAY_INSIDE_CPUS", "0,1023")]);
    let mut process = Process::start_quietly(refused.stdout(Stdio::null()));
    assert_eq!(process.wait(), Some(2));
    let said = process.said();
    let allowed = Topology::of_this_thread().list().unwrap();
    assert!(said.contains("LANEWAY_INSIDE_CPUS names CPU") && said.contains("1023"), "{said}");
    assert!(said.contains(&format!("allow {allowed}")), "{said}");
}
