//! Replay protection: a sliding window over the received counters of a session (RFC 6479).
//!
//! The window is consulted only after a datagram has been authenticated (whitepaper, section 5.4.6),
//! so only holders of the key can move it.

use super::state::ReplayState;

/// Window per lane, in counters: how far a counter may lie behind the greatest one seen and still be
/// accepted. The sender's lanes share one counter, and a lane that waits for a CPU sends late, so
/// each lane adds this much, up to [`LARGEST`].
pub const WINDOW: u64 = 8192;

/// The largest window, in counters: 16 KiB of memory per session.
pub const LARGEST: u64 = 65_536;

/// Returns the window, in counters, for routers with `lanes` lanes.
pub fn window_for(lanes: usize) -> u64 {
    (WINDOW * lanes.max(1) as u64).min(LARGEST)
}

/// Replay window of one session.
#[derive(Debug)]
pub(super) struct ReplayWindow {
    /// Length of the window, in counters.
    window: u64,
    /// One more than the greatest counter seen; 0 if none has been.
    next: u64,
    /// Circular bitmap of 64-bit words. The number of words is a power of two and exceeds what the
    /// window fills, so that a word cleared for new counters holds none that is still inside it.
    seen: Box<[u64]>,
}

impl ReplayWindow {
    /// Creates a window over `window` counters that has seen none.
    pub(super) fn new(window: u64) -> Self {
        let words = (window.div_ceil(64) + 1).next_power_of_two();
        ReplayWindow { window, next: 0, seen: vec![0; words as usize].into_boxed_slice() }
    }

    /// Returns the window's state.
    pub(super) fn export(&self) -> ReplayState {
        ReplayState { next: self.next, seen: self.seen.to_vec() }
    }

    /// Creates a window over `window` counters that has seen what `state` has. If the state's window was of another
    /// size, the new one refuses all counters below the greatest seen.
    pub(super) fn restored(window: u64, state: &ReplayState) -> Self {
        let mut restored = Self::new(window);
        restored.next = state.next;
        if state.seen.len() == restored.seen.len() {
            restored.seen.copy_from_slice(&state.seen);
        } else if state.next > 0 {
            restored.seen.fill(u64::MAX);
            // `advance` clears the words after this one, and counters above `next` in it are not seen yet.
            let greatest = state.next - 1;
            *restored.word(greatest / 64) = u64::MAX >> (63 - greatest % 64);
        }
        restored
    }

    /// Marks `counter` as seen. Returns whether it is new: not seen before and not behind the window.
    ///
    /// `u64::MAX` is never new; no session reaches it.
    #[inline]
    pub(super) fn accept(&mut self, counter: u64) -> bool {
        if counter >= self.next {
            if counter == u64::MAX {
                return false;
            }
            self.advance(counter);
        } else if self.next - counter > self.window {
            return false;
        }
        let word = self.word(counter / 64);
        let bit = 1 << (counter % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// Makes `greatest` the greatest counter and clears the words that the window moves onto.
    fn advance(&mut self, greatest: u64) {
        // Before the first counter all words are clear, including word 0.
        let reached = if self.next == 0 { 0 } else { (self.next - 1) / 64 };
        let skipped = (greatest / 64 - reached).min(self.seen.len() as u64);
        for word in 1..=skipped {
            *self.word(reached + word) = 0;
        }
        self.next = greatest + 1;
    }

    #[inline]
    fn word(&mut self, number: u64) -> &mut u64 {
        let mask = self.seen.len() - 1;
        &mut self.seen[number as usize & mask]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use proptest::prelude::*;

    /// A direct implementation of the definition.
    struct Model {
        window: u64,
        greatest: Option<u64>,
        seen: HashSet<u64>,
    }

    impl Model {
        fn accept(&mut self, counter: u64) -> bool {
            let in_window = self.greatest.is_none_or(|g| counter > g || g - counter < self.window);
            self.greatest = self.greatest.max(Some(counter));
            in_window && self.seen.insert(counter)
        }
    }

    #[test]
    fn the_window_is_exactly_as_long_as_it_says() {
        for (base, len) in
            [(0, 1), (1, 2), (63, 8), (64, 1), (1 << 40, 3)].map(|(base, lanes)| (base, window_for(lanes)))
        {
            let mut window = ReplayWindow::new(len);
            assert!(window.accept(base + len));
            assert!(!window.accept(base), "one behind the window");
            assert!(window.accept(base + 1), "the last counter inside the window");
            assert!(!window.accept(base + 1), "seen before");
        }
    }

    #[test]
    fn a_jump_over_everything_forgets_everything() {
        let mut window = ReplayWindow::new(WINDOW);
        assert!((0..300).all(|counter| window.accept(counter)));
        assert!(window.accept(u64::MAX - 1));
        assert!(!window.accept(u64::MAX));
        assert!((1..WINDOW).all(|behind| window.accept(u64::MAX - 1 - behind)));
        assert!(!window.accept(299));
    }

    #[test]
    fn a_restored_window_accepts_nothing_twice_and_everything_new() {
        for greatest in [0, 5, 63, 64, 8000, 100_000] {
            let mut before = ReplayWindow::new(WINDOW);
            let gaps = |counter: &u64| !counter.is_multiple_of(3) || *counter == greatest;
            (0..=greatest).filter(gaps).for_each(|counter| assert!(before.accept(counter)));
            let mut same = ReplayWindow::restored(WINDOW, &before.export());
            let mut other = ReplayWindow::restored(window_for(3), &before.export());
            for counter in greatest.saturating_sub(WINDOW - 1)..=greatest {
                assert_eq!(same.accept(counter), !gaps(&counter), "counter {counter} of {greatest}");
                assert!(!other.accept(counter), "counter {counter} of {greatest}");
            }
            for counter in greatest + 1..greatest + 40_000 {
                assert!(same.accept(counter) && other.accept(counter), "counter {counter} of {greatest}");
                assert!(!same.accept(counter) && !other.accept(counter));
            }
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_definition(
            lanes in 0..10_usize,
            start in prop_oneof![Just(0), 0..u64::MAX / 2],
            steps in prop::collection::vec(
                prop_oneof![-64i64..64, -8300i64..8300, -8194i64..-8190, -100_000i64..100_000],
                1..400,
            ),
        ) {
            let mut window = ReplayWindow::new(window_for(lanes));
            let mut model = Model { window: window_for(lanes), greatest: None, seen: HashSet::new() };
            let mut counter = start;
            for step in steps {
                counter = counter.saturating_add_signed(step);
                prop_assert_eq!(window.accept(counter), model.accept(counter), "counter {}", counter);
            }
        }
    }
}
