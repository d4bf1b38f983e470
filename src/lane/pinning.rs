//! Which CPU each worker runs on.
//!
//! A lane's two workers hand each other batches all the time, so they get neighbouring CPUs. More
//! workers than CPUs means no pinning at all: two pinned workers on one CPU would wait for each
//! other while another CPU idles, and the scheduler does better. The same holds for two workers on the
//! only two CPUs, where the workload has to share with one of them whichever is busy: TCP through
//! pinned routers was a fifth slower there.

use core_affinity::CoreId;

/// The CPUs of one lane's workers; `None` leaves the choice to the scheduler.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LaneCpus {
    /// The inside worker's.
    pub inside: Option<usize>,
    /// The outside worker's.
    pub outside: Option<usize>,
}

/// The CPUs this process may run on, in ascending order.
pub fn allowed() -> Vec<usize> {
    let mut cpus: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
    cpus.sort_unstable();
    cpus
}

/// Spreads the workers of `lanes` lanes over the `allowed` CPUs, a lane's two next to each other and
/// CPU 0, where interrupts tend to land, last. `None` if there are fewer CPUs than workers, or only
/// two.
pub fn spread(allowed: &[usize], lanes: usize) -> Option<Vec<LaneCpus>> {
    if allowed.len() < 2 * lanes || allowed.len() <= 2 {
        return None;
    }
    let zero_last = allowed.iter().filter(|cpu| **cpu != 0).chain(allowed.iter().filter(|cpu| **cpu == 0));
    let cpus: Vec<usize> = zero_last.copied().collect();
    let lane = |pair: &[usize]| LaneCpus { inside: Some(pair[0]), outside: Some(pair[1]) };
    Some(cpus.chunks_exact(2).take(lanes).map(lane).collect())
}

/// Puts the calling thread on `cpu`; false if the kernel refuses.
pub fn pin(cpu: usize) -> bool {
    core_affinity::set_for_current(CoreId { id: cpu })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(allowed: &[usize], lanes: usize) -> Option<Vec<(usize, usize)>> {
        let pair = |lane: LaneCpus| (lane.inside.unwrap(), lane.outside.unwrap());
        Some(spread(allowed, lanes)?.into_iter().map(pair).collect())
    }

    #[test]
    fn a_lanes_workers_are_neighbours_and_cpu_zero_comes_last() {
        assert_eq!(pairs(&[0, 1, 2, 3], 1), Some(vec![(1, 2)]));
        assert_eq!(pairs(&[0, 1, 2, 3], 2), Some(vec![(1, 2), (3, 0)]));
        assert_eq!(pairs(&[4, 7, 9], 1), Some(vec![(4, 7)]));
    }

    #[test]
    fn more_workers_than_cpus_are_not_pinned_and_neither_are_two_on_the_only_two() {
        assert_eq!(spread(&[0, 1, 2], 2), None);
        assert_eq!(spread(&[0, 1], 1), None);
        assert_eq!(spread(&[], 1), None);
    }

    #[test]
    fn a_pinned_thread_runs_where_it_was_put() {
        let cpu = allowed()[0];
        let seen = std::thread::spawn(move || pin(cpu).then(allowed)).join().unwrap();
        assert_eq!(seen, Some(vec![cpu]));
    }
}
