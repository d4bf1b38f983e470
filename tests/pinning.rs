//! The CPU affinity of the threads of a `laneway` process, as the kernel reports it.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::process::Stdio;

use laneway::cpus::topology::Topology;
use support::binary::{Laneway, command};
use support::process::Process;
use support::{device_name, lab, require_root, wait_until};

/// Returns the CPUs that each thread may use, by thread name.
fn affinities(laneway: &Laneway) -> BTreeMap<String, String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", laneway.process.id())).unwrap();
    let field = |status: &str, name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} in {status}")).trim().to_owned()
    };
    // Threads that only serve the start may end meanwhile.
    let affinity = |task: fs::DirEntry| {
        let status = fs::read_to_string(task.path().join("status")).ok()?;
        Some((field(&status, "Name:"), field(&status, "Cpus_allowed_list:")))
    };
    tasks.filter_map(|task| affinity(task.unwrap())).collect()
}

/// Waits until each thread may use exactly its expected CPUs. A worker names and pins itself, possibly after
/// the control socket already answers.
fn await_affinities(laneway: &Laneway, expected: &[(&str, &str)]) {
    for (thread, cpus) in expected {
        wait_until(&format!("{thread} on {cpus}"), || {
            affinities(laneway).get(*thread).is_some_and(|found| found == cpus)
        });
    }
}

#[test]
fn workers_run_where_the_lists_say_and_the_other_threads_where_they_like() {
    require_root!();
    let lab = lab();
    let topology = Topology::of_this_thread();
    let (first, last) = (topology.cpus[0].id.to_string(), topology.cpus.last().unwrap().id.to_string());
    let all = topology.list().unwrap().to_string();
    let variables =
        [("LANEWAY_QUEUES", "2"), ("LANEWAY_INSIDE_CPUS", &first), ("LANEWAY_OUTSIDE_CPUS", &last)];
    let laneway = Laneway::start(&lab.left, &variables);
    let [first, last, all] = [&*first, &*last, &*all];
    let workers = [("inside-0", first), ("inside-1", first), ("outside-0", last), ("outside-1", last)];
    await_affinities(&laneway, &workers);
    await_affinities(&laneway, &[("peers", all), ("admin", all)]);
}

#[test]
fn workers_are_pinned_by_themselves_where_there_are_cpus_enough_and_nowhere_else() {
    require_root!();
    let lab = lab();
    let topology = Topology::of_this_thread();
    let laneway = Laneway::start(&lab.left, &[("LANEWAY_QUEUES", "1"), ("LANEWAY_LOG", "debug")]);
    if topology.cpus.len() > 2 {
        wait_until("workers on a CPU of their own", || {
            let found = affinities(&laneway);
            let cpu = |thread| found.get(thread).and_then(|list| list.parse::<usize>().ok());
            let (inside, outside) = (cpu("inside-0"), cpu("outside-0"));
            inside.is_some() && outside.is_some() && inside != outside
        });
    } else {
        let all = topology.list().unwrap().to_string();
        await_affinities(&laneway, &[("inside-0", &all), ("outside-0", &all)]);
        let left = || laneway.process.said().matches("left to the scheduler").count();
        wait_until("the log line", || left() > 0);
        assert_eq!(left(), 1);
    }
}

#[test]
fn a_list_that_names_a_cpu_that_is_not_allowed_is_refused_before_anything_is_made() {
    require_root!();
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
