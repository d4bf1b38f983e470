//! Plain code, compiled once more for CPUs with AVX2: registers twice as wide as those that every
//! x86-64 has, and the compiler fills them by itself.

use std::arch::is_x86_feature_detected;

/// Proof that this CPU has AVX2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// Asks the CPU, once: the standard library remembers the answer.
    #[inline]
    pub(crate) fn detect() -> Option<Self> {
        is_x86_feature_detected!("avx2").then_some(Avx2(()))
    }

    /// Does `work`. What of it the compiler inlines here, it compiles for AVX2.
    #[allow(clippy::unused_self)] // the proof
    #[inline]
    pub(crate) fn run<R>(self, work: impl FnOnce() -> R) -> R {
        // SAFETY: whoever has a `self` has asked the CPU.
        unsafe { with_avx2(work) }
    }
}

#[target_feature(enable = "avx2")]
fn with_avx2<R>(work: impl FnOnce() -> R) -> R {
    work()
}
