//! Which counters of a session were seen: a sliding window as in RFC 6479, over 8192 counters.
//!
//! Consulted only after a packet has been authenticated (whitepaper, section 5.4.6), so nobody
//! without the key can move it.

/// How far a counter may lie behind the greatest one seen and still be taken.
pub(super) const WINDOW: u64 = 8192;

/// Words in the ring: one more than the window fills, so that the word being cleared for new
/// counters never holds one that is still inside the window.
const WORDS: u64 = WINDOW / 64 + 1;

/// The counters of one session that were seen.
#[derive(Debug)]
pub(super) struct ReplayWindow {
    /// One more than the greatest counter seen; 0 if none was.
    next: u64,
    seen: [u64; WORDS as usize],
}

impl Default for ReplayWindow {
    fn default() -> Self {
        ReplayWindow { next: 0, seen: [0; WORDS as usize] }
    }
}

impl ReplayWindow {
    /// Marks `counter` as seen. Says whether it is new: false if it was seen before, or lies too
    /// far back to tell.
    ///
    /// The last counter there is, `u64::MAX`, is never new; no session gets that far.
    #[inline]
    pub(super) fn accept(&mut self, counter: u64) -> bool {
        if counter >= self.next {
            if counter == u64::MAX {
                return false;
            }
            self.advance(counter);
        } else if self.next - counter > WINDOW {
            return false;
        }
        let word = &mut self.seen[(counter / 64 % WORDS) as usize];
        let bit = 1 << (counter % 64);
        let new = *word & bit == 0;
        *word |= bit;
        new
    }

    /// Makes `greatest` the greatest counter, and clears the words that new counters come to use.
    fn advance(&mut self, greatest: u64) {
        // Nothing was seen yet: all words are clear, and the first may already be in use.
        let reached = if self.next == 0 { 0 } else { (self.next - 1) / 64 };
        let skipped = (greatest / 64 - reached).min(WORDS);
        for word in 1..=skipped {
            self.seen[((reached + word) % WORDS) as usize] = 0;
        }
        self.next = greatest + 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use proptest::prelude::*;

    /// The definition, without any cleverness.
    #[derive(Default)]
    struct Model {
        greatest: Option<u64>,
        seen: HashSet<u64>,
    }

    impl Model {
        fn accept(&mut self, counter: u64) -> bool {
            let in_window = self.greatest.is_none_or(|g| counter > g || g - counter < WINDOW);
            self.greatest = self.greatest.max(Some(counter));
            in_window && self.seen.insert(counter)
        }
    }

    #[test]
    fn the_window_is_exactly_as_long_as_it_says() {
        for base in [0, 1, 63, 64, 1 << 40] {
            let mut window = ReplayWindow::default();
            assert!(window.accept(base + WINDOW));
            assert!(!window.accept(base), "just behind the window");
            assert!(window.accept(base + 1), "the last place inside");
            assert!(!window.accept(base + 1), "seen before");
        }
    }

    #[test]
    fn a_jump_over_everything_forgets_everything() {
        let mut window = ReplayWindow::default();
        assert!((0..300).all(|counter| window.accept(counter)));
        assert!(window.accept(u64::MAX - 1));
        assert!(!window.accept(u64::MAX));
        assert!((1..WINDOW).all(|behind| window.accept(u64::MAX - 1 - behind)));
        assert!(!window.accept(299));
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_definition(
            start in prop_oneof![Just(0), 0..u64::MAX / 2],
            steps in prop::collection::vec(
                prop_oneof![-64i64..64, -8300i64..8300, -8194i64..-8190, -100_000i64..100_000],
                1..400,
            ),
        ) {
            let mut window = ReplayWindow::default();
            let mut model = Model::default();
            let mut counter = start;
            for step in steps {
                counter = counter.saturating_add_signed(step);
                prop_assert_eq!(window.accept(counter), model.accept(counter), "counter {}", counter);
            }
        }
    }
}
