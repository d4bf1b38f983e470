//! Compiles portable code a second time for CPUs with AVX2, so that the compiler can vectorize it for
//! registers twice as wide as the x86-64 baseline's.

use std::arch::is_x86_feature_detected;

/// Proof that this CPU has AVX2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// Returns the proof if this CPU has AVX2. The standard library caches the answer.
    #[inline]
    pub(crate) fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(Avx2(()))
    }

    /// Runs `work`. The parts of it that are inlined here are compiled for AVX2.
    #[allow(clippy::unused_self)] // `self` is the proof that the CPU has AVX2
    #[inline]
    pub(crate) fn run<R>(self, work: impl FnOnce() -> R) -> R {
        // SAFETY: `self` is proof that this CPU has AVX2.
        unsafe { with_avx2(work) }
    }
}

#[target_feature(enable = "avx2")]
fn with_avx2<R>(work: impl FnOnce() -> R) -> R {
    work()
}
