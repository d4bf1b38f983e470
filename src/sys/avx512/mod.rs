//! ChaCha20-Poly1305 of eight messages at a time, for CPUs with AVX-512 and its 52-bit multiplier
//! (IFMA). Each instruction works on all eight messages, so neither cipher nor authenticator stalls
//! on its own dependency chain.
//!
//! The code is constant-time by construction: branches and addresses depend only on the lengths and
//! the number of messages, never on key, counter or payload.
//!
//! - [`chacha20`]: the key stream, two blocks of each of eight messages per call;
//! - [`poly1305`]: eight authenticators, one in each 64-bit lane;
//! - [`messages`]: the messages to seal or open, as ranges of a buffer;
//! - [`aead`]: cipher and authenticator combined;
//! - [`bulk`]: the same for the middle of long messages, interleaved to keep the CPU busy.
//!
//! Only loads, stores, the entry points and [`held`] are unsafe; arithmetic in vector registers is
//! safe.

// Matrix rows are named by single letters.
#![allow(clippy::many_single_char_names)]

use core::arch::asm;
use core::arch::x86_64::{
    __m512i, _mm512_loadu_si512, _mm512_mask_storeu_epi8, _mm512_maskz_loadu_epi8, _mm512_storeu_si512,
};
use std::arch::is_x86_feature_detected;

/// Applies [`held`] in place.
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

/// Maximum number of messages per call: one in each 64-bit lane of a register.
pub(crate) const LANES: usize = 8;

/// Proof that this CPU can run the code in this module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Avx512(());

impl Avx512 {
    /// Returns the proof if the CPU has the required features and the kernel saves AVX-512 registers.
    pub fn detect() -> Option<Self> {
        let all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512ifma")
            && is_x86_feature_detected!("avx512vbmi2");
        all.then_some(Avx512(()))
    }
}

/// Returns the same value, opaque to the compiler. The value is computed before everything held later
/// in the source, and its uses come after everything held earlier; without this, the compiler
/// separates interleaved work again. Emits no instructions.
#[inline]
#[target_feature(enable = "avx512f")]
fn held(mut register: __m512i) -> __m512i {
    // SAFETY: the assembly is only a comment and changes nothing.
    unsafe { asm!("/* {0} */", inout(zmm_reg) register, options(nomem, nostack, preserves_flags)) };
    register
}

/// Loads 64 bytes into a register.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(block: &[u8; 64]) -> __m512i {
    // SAFETY: reads the 64 bytes of the array; no alignment is required.
    unsafe { _mm512_loadu_si512(block.as_ptr().cast()) }
}

/// Stores a register to 64 bytes.
#[inline]
#[target_feature(enable = "avx512f")]
fn store(block: &mut [u8; 64], value: __m512i) {
    // SAFETY: writes the 64 bytes of the array; no alignment is required.
    unsafe { _mm512_storeu_si512(block.as_mut_ptr().cast(), value) }
}

/// Loads fewer than 64 bytes into a register, padded with zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load_part(part: &[u8]) -> __m512i {
    // SAFETY: the mask has a bit for each byte of the slice, and other bytes are not read.
    unsafe { _mm512_maskz_loadu_epi8(mask(part.len()), part.as_ptr().cast()) }
}

/// Stores the first `part.len()` bytes of a register, fewer than 64.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn store_part(part: &mut [u8], value: __m512i) {
    // SAFETY: the mask has a bit for each byte of the slice, and other bytes are not written.
    unsafe { _mm512_mask_storeu_epi8(part.as_mut_ptr().cast(), mask(part.len()), value) }
}

/// Returns a mask of the low `len` bits, fewer than 64.
#[inline]
fn mask(len: usize) -> u64 {
    assert!(len < 64, "a full register needs no mask");
    (1 << len) - 1
}
