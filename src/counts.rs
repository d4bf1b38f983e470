//! Counts of a worker until it publishes them, by a small number: a reason, an errno, a number of datagrams.

use std::mem;

/// `N` counts.
#[derive(Clone, Debug)]
pub(crate) struct Counts<const N: usize> {
    counts: [u64; N],
    /// All counts from here on are zero. Most batches leave most of them so, which [`take`](Self::take) need not find out.
    end: usize,
}

impl<const N: usize> Default for Counts<N> {
    fn default() -> Self {
        Counts { counts: [0; N], end: 0 }
    }
}

impl<const N: usize> Counts<N> {
    /// Adds `n` to the count at `index`.
    ///
    /// # Panics
    /// If `index` is out of bounds.
    #[inline]
    pub(crate) fn add(&mut self, index: usize, n: u64) {
        self.counts[index] += n;
        self.end = self.end.max(index + 1);
    }

    /// Returns the count at `index`.
    ///
    /// # Panics
    /// If `index` is out of bounds.
    pub(crate) fn of(&self, index: usize) -> u64 {
        self.counts[index]
    }

    /// Returns the sum of all counts.
    pub(crate) fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Calls `each` with the index and value of every nonzero count, in order, and resets it to zero.
    #[inline]
    pub(crate) fn take(&mut self, mut each: impl FnMut(usize, u64)) {
        let end = mem::take(&mut self.end);
        for (index, count) in self.counts[..end].iter_mut().enumerate() {
            if *count != 0 {
                each(index, mem::take(count));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_count_is_taken_once() {
        let mut counts = Counts::<4>::default();
        for (index, n) in [(3, 1), (1, 2), (1, 3), (0, 0)] {
            counts.add(index, n);
        }
        assert_eq!((counts.of(1), counts.total()), (5, 6));
        let mut taken = Vec::new();
        counts.take(|index, n| taken.push((index, n)));
        assert_eq!(taken, [(1, 5), (3, 1)]);
        counts.add(0, 1);
        taken.clear();
        counts.take(|index, n| taken.push((index, n)));
        assert_eq!((taken, counts.total()), (vec![(0, 1)], 0));
    }
}
