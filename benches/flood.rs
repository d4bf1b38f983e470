//! Cost of a handshake flood to live traffic: bulk TCP through two routers, alternating between none and 20,000
//! bad handshakes per second at the receiving router. Needs root, for namespaces.
//!
//! The flood's sender shares this machine's CPUs, a cost that a real router does not have. Its CPU time is printed.

#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use laneway::cli::demo::lab::Lab;
use laneway::cli::demo::traffic::{self, Limit, PATIENCE, TrafficPlan};
use laneway::netns::may_administer;
use laneway::router::start::Router;
use support::flood::{Flood, target};
use support::tunnel::Family;
use support::{lab, metrics, ping::ping, router};

/// Length of each measurement.
const SECONDS: Duration = Duration::from_secs(5);

/// Pairs of measurements, with and without, for each flood.
const ROUNDS: usize = 3;

fn main() {
    // Only `cargo bench` passes `--bench`. `cargo test --benches` must not take minutes.
    let measures = std::env::args().any(|argument| argument == "--bench");
    if !measures || !may_administer().is_ok_and(|may| may) {
        println!("skipped: needs `cargo bench`, and root for namespaces");
        return;
    }
    let lab = lab();
    Flood::prepare(&lab.left, &lab.right);
    let keys = [router::key(), router::key()];
    let victim = keys[1].public_key();
    let routers = router::pair_of(&lab, Family::V4, &keys, |_, _| {});
    ping(&lab.left.namespace, Family::V4.inside(2));
    for flood in Flood::ALL {
        let mut ratios = Vec::new();
        for _ in 0..ROUNDS {
            let alone = bulk(&lab);
            let over = AtomicBool::new(false);
            let before = cpu();
            let (flooded, sent) = thread::scope(|scope| {
                let sender = scope.spawn(|| flood.run(&lab.left, target(&lab.right), &victim, &over));
                let flooded = bulk(&lab);
                over.store(true, Relaxed);
                (flooded, sender.join().expect("the flood"))
            });
            ratios.push(flooded / alone);
            println!(
                "{flood:?}: {alone:.2} Gbit/s alone, {flooded:.2} under {} per second; CPU: {}",
                sent / SECONDS.as_secs(),
                share(&before, &cpu()),
            );
        }
        ratios.sort_by(f64::total_cmp);
        println!("{flood:?}: {:.0} % of the throughput is left (median)", 100.0 * ratios[ROUNDS / 2]);
        outcome(&routers[1]);
    }
}

/// Returns the rate of TCP through the tunnel in Gbit/s.
fn bulk(lab: &Lab) -> f64 {
    let (from, to) = (&lab.left.namespace, &lab.right.namespace);
    let limit = Limit::Time(SECONDS);
    let plan = TrafficPlan { from, to, address: Family::V4.inside(2), streams: 2, limit, patience: PATIENCE };
    let outcome = traffic::run(&plan, &AtomicBool::new(false), |_| {});
    outcome.unwrap_or_else(|error| panic!("{error}")).gbit_per_second
}

/// Prints the handshake messages dropped so far, by reason.
fn outcome(router: &Router) {
    let metrics = router.metrics_text();
    let family = "laneway_handshake_messages_dropped_total";
    for line in metrics.lines().filter(|line| line.starts_with(family) && !line.ends_with(" 0")) {
        println!("    {line}");
    }
    let full = metrics::of(router).sum("laneway_dropped_packets_total", &[("reason", "peer_inbox_full")]);
    println!("    {full} dropped because the channel to the peer actor was full");
}

/// Returns the CPU time of each thread in clock ticks, by name (`proc_pid_stat(5)`).
fn cpu() -> Vec<(String, u64)> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("/proc").filter_map(Result::ok);
    let mut threads = Vec::new();
    for task in tasks {
        let Ok(stat) = std::fs::read_to_string(task.path().join("stat")) else { continue };
        let Some((name, rest)) = stat.split_once('(').and_then(|(_, rest)| rest.split_once(')')) else {
            continue;
        };
        let ticks = rest.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok());
        threads.push((format!("{name} {}", task.file_name().to_string_lossy()), ticks.sum()));
    }
    threads
}

/// Returns the share of a CPU that each thread used between two moments.
fn share(before: &[(String, u64)], after: &[(String, u64)]) -> String {
    const TICKS: f64 = 100.0;
    let mut shares = Vec::new();
    for (name, ticks) in after {
        let earlier = before.iter().find(|(other, _)| other == name).map_or(0, |(_, ticks)| *ticks);
        let share = (ticks - earlier) as f64 / TICKS / SECONDS.as_secs_f64();
        let short = name.split(' ').next().unwrap_or_default();
        if share > 0.005 {
            shares.push(format!("{short} {:.0} %", 100.0 * share));
        }
    }
    shares.join(", ")
}
