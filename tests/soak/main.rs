//! The soak test: two routers carry checked traffic for as long as is asked, while everything around them changes.
//!
//! ```sh
//! tests/soak/run 60                    # an hour; prints a seed, a line for each action, and tables at the end
//! tests/soak/run 60 --seed 42          # the same actions in the same order
//! tests/soak/run 5 --only reload,port  # names of actions, see `actions.rs`; a part of the name is enough
//! tests/soak/run 1 --break clear       # breaks an invariant on purpose, see `plan.rs`; must end with 1
//! tests/soak/run 60 --logs FOLDER      # keeps the logs of all router processes
//! ```
//!
//! Without arguments, as in `cargo test`, it runs for 20 s.
//!
//! What must hold all the time:
//!
//! - TCP carries the right bytes, and no connection ends except while a router has no peer for it and rejects.
//! - Numbered datagrams carry the right bytes, arrive once, and in order except while the relay reorders, an endpoint
//!   changes or a router starts. How many are lost is in the table; take-overs, reloads, scrapes and the like lose none.
//! - No packet of the tunnel's inside is on the underlay: neither the marker that is in all of them nor an inner address.
//! - Pings, datagrams in both directions and TCP pass again after each action.
//! - No router ends or panics, and all stay healthy. Memory, descriptors and threads stay as they are once it is warm.

// Items of modules are for the other modules.
#![allow(unreachable_pub)]

#[path = "../support/mod.rs"]
mod support;

mod actions;
mod flows;
mod ledger;
mod pings;
mod plan;
mod relay;
mod report;
mod router;
mod streams;
mod watcher;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use actions::{ACTIONS, Action};
use ledger::{Excuse, Ledger};
use plan::{Plan, Sabotage};
use report::Report;
use support::require_root;
use world::World;

/// The findings after which a run ends.
const ENOUGH: usize = 200;

/// Parts of the run in which the processes of one router live on, so that memory can be seen to be flat: from and to.
const CALM: [[f64; 2]; 2] = [[0.10, 0.50], [0.55, 0.95]];

#[test]
fn everything_holds_whatever_happens() {
    require_root!();
    let (plan, ledger) = (Plan::from_environment(), Arc::new(Ledger::new()));
    ledger.say(&format!("seed {}, {} s", plan.seed, plan.time.as_secs()));
    let mut world = World::new(&plan, &ledger);
    world.recover();
    thread::sleep(plan.warm_up);
    world.recover();
    ledger.say("warm");
    let mut report = Report::default();
    let run = catch_unwind(AssertUnwindSafe(|| run(&plan, &mut world, &mut report)));
    if let Err(panic) = run {
        let what = panic.downcast_ref::<String>().cloned();
        let what = what.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        ledger.broken(&format!("the run ended early: {}", what.unwrap_or_default()));
    }
    finish(&plan, world, &report, &ledger);
}

/// Runs one action after the other until the time is over.
fn run(plan: &Plan, world: &mut World, report: &mut Report) {
    let chosen: Vec<_> = ACTIONS
        .iter()
        .filter(|action| {
            plan.only.is_empty() || plan.only.iter().any(|name| action.name.contains(name.as_str()))
        })
        .collect();
    assert!(!chosen.is_empty(), "no action is called {:?}", plan.only);
    let start = Instant::now();
    while start.elapsed() < plan.time && world.ledger.findings().len() < ENOUGH {
        let part = start.elapsed().as_secs_f64() / plan.time.as_secs_f64();
        let (action, index) = choose(&chosen, part, world);
        let side = world.routers[index].name;
        world.ledger.doing(&format!("{} ({side})", action.name));
        let begin = Instant::now();
        world.set_mark();
        let marked = world.mark_time();
        (action.run)(world, index);
        if world.mark_time() == marked {
            world.set_mark();
        }
        let took = begin.elapsed();
        let recovery = world.recover();
        world.ledger.say(&format!(
            "{} ({side}), {:.2} s; packets {:.2} s, TCP {:.2} s, {} lost",
            action.name,
            took.as_secs_f64(),
            recovery.packets.as_secs_f64(),
            recovery.streams.as_secs_f64(),
            recovery.lost
        ));
        if recovery.lost > 0 && !action.costs {
            world.ledger.broken(&format!("{} datagrams were lost", recovery.lost));
        }
        report.add(action.name, side, recovery);
        world.check();
        if plan.sabotage == Some(Sabotage::Death) {
            world.routers[index].process().signal(Signal::SIGTERM);
        }
    }
}

/// Chooses an action and a router.
fn choose<'a>(chosen: &[&'a Action], part: f64, world: &mut World) -> (&'a Action, usize) {
    let all: u64 = chosen.iter().map(|action| action.weight).sum();
    loop {
        let (mut at, index) = (world.random.range(0, all - 1), world.random.range(0, 1) as usize);
        let action = chosen.iter().find(|action| {
            let found = at < action.weight;
            at = at.saturating_sub(action.weight);
            found
        });
        let action = action.expect("less than all");
        let [from, to] = CALM[index];
        if !(action.fatal && part > from && part < to) || chosen.iter().all(|action| action.fatal) {
            return (action, index);
        }
    }
}

/// Ends everything and prints what was seen.
///
/// # Panics
/// If anything was found.
fn finish(plan: &Plan, mut world: World, report: &Report, ledger: &Ledger) {
    thread::sleep(Duration::from_millis(500));
    println!("\n{}", report.table());
    for router in &world.routers {
        println!("{}", report::lives(router));
    }
    let [sent, lost] = world.flows.totals();
    println!("UDP: {sent} datagrams sent, {lost} lost");
    for stream in &world.streams {
        let [bytes, connections] = stream.totals();
        println!("{}: {bytes} bytes verified over {connections} connections", stream.name);
    }
    println!("pings answered: {}", world.pings.iter().map(pings::Ping::count).sum::<u64>());
    println!("{}", world.relay.report());
    let [seen, missed] = world.watcher.take().expect("a watcher").stop();
    println!("watchers: {seen} packets seen, {missed} not");
    ledger.doing("the end");
    ledger.excuse(Excuse::Resets, Duration::from_secs(600));
    for router in &mut world.routers {
        let status = router.end(Signal::SIGTERM);
        if status != Some(0) {
            ledger.broken(&format!("{} has ended with {status:?}", router.name));
        }
    }
    drop(world);
    let findings = ledger.findings();
    println!("{} actions, {} findings, seed {}", report.count(), findings.len(), plan.seed);
    assert!(
        findings.is_empty(),
        "seed {}: {} findings, the first: {}",
        plan.seed,
        findings.len(),
        findings[0]
    );
}
