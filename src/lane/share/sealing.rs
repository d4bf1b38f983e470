//! Sealing as a job: the runs of a batch that have their counters but are not sealed yet.

use std::sync::Arc;

use arrayvec::ArrayVec;

use crate::faults::{self, Stage};
use crate::lane::bounds::BATCH_RUNS;
use crate::wireguard::session::Session;

/// The runs of a batch that are still to be sealed.
#[derive(Debug, Default)]
pub struct Unsealed(ArrayVec<UnsealedRun, BATCH_RUNS>);

#[derive(Debug)]
struct UnsealedRun {
    start: u32,
    len: u32,
    stride: u16,
    /// The first of the run's counters, which were reserved in order.
    first: u64,
    session: Arc<Session>,
}

impl Unsealed {
    /// Adds a run of `len` bytes at `start`, with datagrams of `stride` bytes, whose counters begin at
    /// `first`.
    ///
    /// # Panics
    /// If there are more runs than a batch holds.
    #[inline]
    pub fn push(&mut self, start: usize, len: usize, stride: usize, first: u64, session: Arc<Session>) {
        self.0.push(UnsealedRun {
            start: start as u32,
            len: len as u32,
            stride: stride as u16,
            first,
            session,
        });
    }

    /// Seals all runs, in `data`.
    pub fn seal(&mut self, data: &mut [u8]) {
        for UnsealedRun { start, len, stride, first, session } in self.0.drain(..) {
            faults::point(Stage::SealJob);
            let run = &mut data[start as usize..(start + len) as usize];
            session.seal_run(first, run, usize::from(stride));
        }
    }

    /// Forgets all runs.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}
