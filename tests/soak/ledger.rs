//! What has been found wrong, and what is excused at the moment.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How many findings are printed. The rest is only counted.
const PRINTED: usize = 50;

/// The findings of a run. A line of its log begins with the seconds since the start.
pub struct Ledger {
    start: Instant,
    doing: Mutex<String>,
    broken: Mutex<Vec<String>>,
    /// Until when datagrams may arrive out of order, and connections may end, in milliseconds since the start.
    excused: [AtomicU64; 2],
}

/// What an action may do to traffic that is otherwise an error.
#[derive(Clone, Copy)]
pub enum Excuse {
    /// The relay reorders.
    Order,
    /// Packets have no peer for a time, and are answered with a TCP reset.
    Resets,
}

impl Ledger {
    pub fn new() -> Ledger {
        Ledger {
            start: Instant::now(),
            doing: Mutex::new("warm-up".to_owned()),
            broken: Mutex::default(),
            excused: Default::default(),
        }
    }

    /// Prints a line.
    pub fn say(&self, line: &str) {
        println!("{:8.2} {line}", self.start.elapsed().as_secs_f64());
    }

    /// Sets what runs now, as findings name it.
    pub fn doing(&self, action: &str) {
        action.clone_into(&mut self.doing.lock().unwrap());
    }

    /// Records a broken invariant.
    pub fn broken(&self, what: &str) {
        let finding = format!("BROKEN during {}: {what}", self.doing.lock().unwrap());
        let mut broken = self.broken.lock().unwrap();
        if broken.len() < PRINTED {
            self.say(&finding);
        }
        broken.push(finding);
    }

    /// Returns all findings.
    pub fn findings(&self) -> Vec<String> {
        self.broken.lock().unwrap().clone()
    }

    /// Excuses `what` from now on and for `time`.
    pub fn excuse(&self, what: Excuse, time: Duration) {
        let until = (self.start.elapsed() + time).as_millis() as u64;
        self.excused[what as usize].fetch_max(until, Relaxed);
    }

    /// Excuses `what` for no longer than this.
    pub fn end_excuse(&self, what: Excuse, grace: Duration) {
        self.excused[what as usize].store((self.start.elapsed() + grace).as_millis() as u64, Relaxed);
    }

    pub fn excuses(&self, what: Excuse) -> bool {
        (self.start.elapsed().as_millis() as u64) < self.excused[what as usize].load(Relaxed)
    }
}

/// The `SplitMix64` generator.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Returns a number from `from` to `to` inclusive.
    pub fn range(&mut self, from: u64, to: u64) -> u64 {
        from + self.next() % (to - from + 1)
    }

    /// Returns a time from `from` to `to` milliseconds.
    pub fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.range(from, to))
    }

    /// Returns true `permille` times of a thousand.
    pub fn chance(&mut self, permille: u64) -> bool {
        self.next() % 1000 < permille
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.next() as usize % from.len()]
    }
}

/// Returns the finaliser of `SplitMix64`: a value that depends on every bit of `word`.
pub fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
