//! Counters of system call failures by errno, for the `errno` label of the metrics.

use nix::errno::Errno;

use crate::counts::Counts;

/// Errnos that have a counter of their own, each with its value of the `errno` label.
const NAMED: [(Errno, &str); 14] = [
    (Errno::EACCES, "EACCES"),
    (Errno::EADDRNOTAVAIL, "EADDRNOTAVAIL"),
    (Errno::EAFNOSUPPORT, "EAFNOSUPPORT"),
    (Errno::EAGAIN, "EAGAIN"),
    (Errno::ECONNREFUSED, "ECONNREFUSED"),
    (Errno::EHOSTUNREACH, "EHOSTUNREACH"),
    (Errno::EINVAL, "EINVAL"),
    (Errno::EIO, "EIO"),
    (Errno::EMSGSIZE, "EMSGSIZE"),
    (Errno::ENETDOWN, "ENETDOWN"),
    (Errno::ENETUNREACH, "ENETUNREACH"),
    (Errno::ENOBUFS, "ENOBUFS"),
    (Errno::ENOMEM, "ENOMEM"),
    (Errno::EPERM, "EPERM"),
];

/// Counts by errno: one counter for each errno that TUN queues and UDP sockets are known to return,
/// and one shared by all others.
#[derive(Clone, Debug, Default)]
pub struct ErrnoCounts(Counts<{ NAMED.len() + 1 }>);

impl ErrnoCounts {
    /// Returns the value of the `errno` label for each counter, in counter order.
    pub fn labels() -> impl Iterator<Item = &'static str> {
        NAMED.iter().map(|(_, label)| *label).chain(["other"])
    }

    /// Counts one occurrence of `errno`.
    pub fn add(&mut self, errno: Errno) {
        self.0.add(Self::index(errno), 1);
    }

    /// Returns the count of `errno`. For an errno without a label of its own, returns the shared count
    /// (`other`).
    pub fn of(&self, errno: Errno) -> u64 {
        self.0.of(Self::index(errno))
    }

    /// Returns the sum of all counts.
    pub fn total(&self) -> u64 {
        self.0.total()
    }

    /// Calls `each` with every nonzero count and its position in [`labels`](Self::labels), and resets it
    /// to zero.
    #[inline]
    pub fn take(&mut self, each: impl FnMut(usize, u64)) {
        self.0.take(each);
    }

    fn index(errno: Errno) -> usize {
        NAMED.iter().position(|(named, _)| *named == errno).unwrap_or(NAMED.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_errno_is_counted_under_its_own_name_or_under_other() {
        let mut counts = ErrnoCounts::default();
        for errno in [Errno::EIO, Errno::EIO, Errno::EPERM, Errno::EXDEV] {
            counts.add(errno);
        }
        let labels: Vec<_> = ErrnoCounts::labels().collect();
        let mut taken = Vec::new();
        counts.take(|position, n| taken.push((labels[position], n)));
        assert_eq!(taken, [("EIO", 2), ("EPERM", 1), ("other", 1)]);
        assert_eq!(counts.total(), 0);
    }

    #[test]
    fn labels_are_the_names_of_their_errnos() {
        assert!(NAMED.iter().all(|(errno, label)| format!("{errno:?}") == *label));
    }
}
