//! ChaCha20-Poly1305 of eight messages at a time, for CPUs with AVX-512 and its 52-bit multiplier
//! (IFMA). It gains by interleaving: what is done to one message is done to eight in the same
//! instruction, so neither cipher nor authenticator ever waits for itself.
//!
//! Constant in time by construction: no branch and no address depends on key, counter or payload, only on
//! lengths and on how many messages there are.
//!
//! - [`chacha20`]: the key stream, two blocks of each of eight messages per call;
//! - [`poly1305`]: eight authenticators, one in each 64-bit lane;
//! - [`messages`]: what is sealed and opened, as places in a buffer;
//! - [`aead`]: the two put together;
//! - [`bulk`]: the same for the middle of long messages, interleaved so that the CPU is busy.
//!
//! Only the loads, the stores, the way in and [`held`] are unsafe; arithmetic in vector registers is
//! not.

// The rows of a square, which have no better names.
#![allow(clippy::many_single_char_names)]

use core::arch::asm;
use core::arch::x86_64::{
    __m512i, _mm512_loadu_si512, _mm512_mask_storeu_epi8, _mm512_maskz_loadu_epi8, _mm512_storeu_si512,
};
use std::arch::is_x86_feature_detected;

/// [`held`], in place.
macro_rules! hold {
    ($($register:expr),*) => { $($register = $crate::sys::avx512::held($register);)* };
}

mod aead;
mod bulk;
mod chacha20;
#[cfg(test)]
mod memory;
mod messages;
mod poly1305;
#[cfg(test)]
mod tests;

pub(crate) use messages::{Messages, TAG};

/// Messages in one call, at the most: one in each 64-bit lane of a register.
pub(crate) const LANES: usize = 8;

/// Proof that this CPU can run what is in here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx512(());

impl Avx512 {
    /// Asks the CPU, and whether the kernel saves its large registers.
    pub fn detect() -> Option<Self> {
        let all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512ifma")
            && is_x86_feature_detected!("avx512vbmi2");
        all.then_some(Avx512(()))
    }
}

/// The same value, of which the compiler knows nothing: it is computed before everything that is held
/// later in the source, and what is computed from it comes after everything that was held earlier.
/// Otherwise the compiler sorts interleaved work apart again. There are no instructions in this.
#[inline]
#[target_feature(enable = "avx512f")]
fn held(mut register: __m512i) -> __m512i {
    // SAFETY: it is a comment in the assembly, which leaves everything as it is.
    unsafe { asm!("/* {0} */", inout(zmm_reg) register, options(nomem, nostack, preserves_flags)) };
    register
}

/// 64 bytes as one register.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(block: &[u8; 64]) -> __m512i {
    // SAFETY: it reads the 64 bytes of the array, which need no alignment.
    unsafe { _mm512_loadu_si512(block.as_ptr().cast()) }
}

/// The opposite of [`load`].
#[inline]
#[target_feature(enable = "avx512f")]
fn store(block: &mut [u8; 64], value: __m512i) {
    // SAFETY: it writes the 64 bytes of the array, which need no alignment.
    unsafe { _mm512_storeu_si512(block.as_mut_ptr().cast(), value) }
}

/// Under 64 bytes as one register, zeros behind them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load_part(part: &[u8]) -> __m512i {
    // SAFETY: the mask has a bit for each byte of the slice, and what is masked out is not read.
    unsafe { _mm512_maskz_loadu_epi8(mask(part.len()), part.as_ptr().cast()) }
}

/// The opposite of [`load_part`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn store_part(part: &mut [u8], value: __m512i) {
    // SAFETY: the mask has a bit for each byte of the slice, and what is masked out is not written.
    unsafe { _mm512_mask_storeu_epi8(part.as_mut_ptr().cast(), mask(part.len()), value) }
}

/// A bit for each of `len` bytes, fewer than 64.
#[inline]
fn mask(len: usize) -> u64 {
    assert!(len < 64, "a whole register needs no mask");
    (1 << len) - 1
}
