//! What a run has shown.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use super::router::{Life, Router};
use super::world::Recovery;

/// Recoveries by action and side.
#[derive(Default)]
pub struct Report(BTreeMap<(&'static str, &'static str), Vec<Recovery>>);

impl Report {
    pub fn add(&mut self, action: &'static str, side: &'static str, recovery: Recovery) {
        self.0.entry((action, side)).or_default().push(recovery);
    }

    /// Returns how many actions there were.
    pub fn count(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }

    /// Returns a table of how long it took until all traffic passed again, and how many datagrams were lost.
    pub fn table(&self) -> String {
        let mut rows = String::from(
            "| Action | Router | Count | Packets, p50 s | max s | TCP, p50 s | max s | Datagrams lost, p50 | max |\n\
             |---|---|--:|--:|--:|--:|--:|--:|--:|\n",
        );
        for ((action, side), recoveries) in &self.0 {
            let [packets50, packets] = spread(recoveries.iter().map(|one| one.packets));
            let [streams50, streams] = spread(recoveries.iter().map(|one| one.streams));
            let [lost50, lost] = spread(recoveries.iter().map(|one| one.lost));
            let seconds = |time: Duration| format!("{:.2}", time.as_secs_f64());
            let times = [packets50, packets, streams50, streams].map(seconds).join(" | ");
            let _ =
                writeln!(rows, "| {action} | {side} | {} | {times} | {lost50} | {lost} |", recoveries.len());
        }
        rows
    }
}

/// Returns median and maximum.
fn spread<T: Ord + Copy>(values: impl Iterator<Item = T>) -> [T; 2] {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable();
    [values[(values.len() - 1) / 2], values[values.len() - 1]]
}

/// Says what the processes of a router held: the longest life, and the one that has grown most.
pub fn lives(router: &Router) -> String {
    let mut lives = router.lives.clone();
    lives.push(Life { age: router.life.born.elapsed(), ..router.life });
    let growth = |life: &Life| {
        life.warm.zip(life.last).map_or(0, |(warm, last)| last.memory.saturating_sub(warm.memory))
    };
    let describe = |life: &Life| {
        let (age, lanes) = (life.age.as_secs(), life.lanes);
        let held = life.warm.zip(life.last).map_or("not warm".to_owned(), |(warm, last)| {
            format!(
                "memory {} > {} KiB, descriptors {} > {}, threads {} > {}",
                warm.memory, last.memory, warm.descriptors, last.descriptors, warm.threads, last.threads
            )
        });
        format!("{age} s with {lanes} lanes, {held}")
    };
    let longest = lives.iter().max_by_key(|life| life.age).expect("one life");
    let grown = lives.iter().max_by_key(|life| growth(life)).expect("one life");
    format!(
        "{}: {} processes; the longest: {}; the one that grew most: {}",
        router.name,
        lives.len(),
        describe(longest),
        describe(grown)
    )
}
