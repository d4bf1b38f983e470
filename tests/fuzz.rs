//! Runs the fuzz targets without a fuzzer: each on its corpus, and on a bounded number of mutations of it. A
//! failure prints its seed; `LANEWAY_FUZZ_SEED` repeats a run and `LANEWAY_FUZZ_RUNS` extends it.

#[path = "../fuzz/src/lib.rs"]
mod parsers;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::{env, fs};

use parsers::{TARGETS, Target};

/// The number of mutations of each target's corpus.
const RUNS: u64 = 3_000;

/// The number for targets whose runs compute a key agreement, which takes milliseconds.
const KEY_RUNS: u64 = 1_000;

#[test]
fn every_target_has_a_corpus_and_takes_it() {
    for (name, target) in TARGETS {
        for seed in corpus(name) {
            target(&seed);
        }
    }
}

#[test]
fn views_of_packets_hold_for_any_bytes() {
    mutate("views", RUNS);
}

#[test]
fn superpackets_are_refused_or_cut_into_whole_packets() {
    mutate("superpacket", RUNS);
}

#[test]
fn what_is_coalesced_and_cut_again_is_what_it_was() {
    mutate("coalesce", RUNS);
}

#[test]
fn a_dropped_packet_is_answered_at_most_once() {
    mutate("rejects", RUNS);
}

#[test]
fn strange_handshake_messages_neither_succeed_nor_stand_in_the_way() {
    mutate("handshake", KEY_RUNS);
}

#[test]
fn strange_cookies_are_not_kept_and_do_not_stand_in_the_way() {
    mutate("cookie_reply", KEY_RUNS);
}

#[test]
fn only_what_was_sealed_is_opened() {
    mutate("open_run", RUNS);
}

#[test]
fn any_lines_may_come_at_the_control_socket() {
    mutate("uapi", RUNS);
}

#[test]
fn any_text_may_be_in_the_configuration_file() {
    mutate("config_file", RUNS);
}

#[test]
fn any_bytes_may_be_in_the_environment() {
    mutate("environment", RUNS);
}

#[test]
fn any_bytes_may_be_the_answer_to_a_question_for_the_status() {
    mutate("status", RUNS);
}

#[test]
fn any_text_may_stand_in_the_place_of_metrics() {
    mutate("exposition", RUNS);
}

/// Calls a target `runs` times with mutations of its corpus, and mutations of those.
fn mutate(name: &str, runs: u64) {
    let (_, target) = TARGETS.into_iter().find(|(other, _)| *other == name).expect("a target");
    let corpus = corpus(name);
    let first = number("LANEWAY_FUZZ_SEED").unwrap_or_else(|| u64::from(std::process::id()) << 32);
    for seed in first..first + number("LANEWAY_FUZZ_RUNS").unwrap_or(runs) {
        let mut dice = Dice(seed);
        let mut bytes = corpus[dice.below(corpus.len())].clone();
        for _ in 0..=dice.below(8) {
            dice.change(&mut bytes, &corpus);
        }
        run(name, target, seed, &bytes);
    }
}

fn run(name: &str, target: Target, seed: u64, bytes: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(bytes))) {
        eprintln!("{name} failed; LANEWAY_FUZZ_SEED={seed} LANEWAY_FUZZ_RUNS=1 repeats it. Its bytes:");
        eprintln!("{bytes:02x?}");
        std::panic::resume_unwind(panic);
    }
}

/// Returns the files of a target's corpus, sorted by name.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", folder.display());
    paths.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}: a number")))
}

/// `SplitMix64` (Steele, Lea, Flood 2014): sufficient to choose mutations, and each seed gives its own stream.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, end: usize) -> usize {
        (self.roll() % end as u64) as usize
    }

    /// Applies one change: flips a bit, sets a byte to a boundary value, or removes, duplicates or inserts a
    /// piece.
    fn change(&mut self, bytes: &mut Vec<u8>, corpus: &[Vec<u8>]) {
        if bytes.is_empty() {
            bytes.push(self.roll() as u8);
        }
        let at = self.below(bytes.len());
        let end = at + 1 + self.below((bytes.len() - at).min(64));
        match self.below(6) {
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, self.roll() as u8][self.below(6)],
            2 => drop(bytes.drain(at..end)),
            3 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            4 => {
                let other = &corpus[self.below(corpus.len())];
                let from = self.below(other.len() + 1);
                let piece = other[from..other.len().min(from + 64)].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => bytes.truncate(at),
        }
    }
}
