//! Runs a fuzz target without a fuzzer, on its corpus and on mutations of it. `LANEWAY_FUZZ_SEED` repeats a run and
//! `LANEWAY_FUZZ_RUNS` extends it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::{env, fs};

/// Calls a target `runs` times with mutations of its corpus, and mutations of those.
pub(crate) fn mutate(name: &str, target: fn(&[u8]), runs: u64) {
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

fn run(name: &str, target: fn(&[u8]), seed: u64, bytes: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(bytes))) {
        eprintln!("{name} failed; LANEWAY_FUZZ_SEED={seed} LANEWAY_FUZZ_RUNS=1 repeats it. Its bytes:");
        eprintln!("{bytes:02x?}");
        std::panic::resume_unwind(panic);
    }
}

/// Returns the files of a target's corpus, sorted by name.
pub(crate) fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} is empty", folder.display());
    paths.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

pub(crate) fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}: a number")))
}

/// `SplitMix64` (Steele, Lea, Flood 2014): sufficient to choose mutations, and each seed gives its own stream.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
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
