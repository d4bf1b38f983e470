//! ChaCha20-Poly1305 (RFC 8439, section 2.8) without associated data, as in WireGuard's transport
//! data.

use core::arch::x86_64::{__m512i, _mm512_setzero_si512};

use zeroize::Zeroize as _;

use super::bulk::{self, AHEAD, CHUNK};
use super::chacha20::{Streams, split, squares};
use super::messages::{Messages, Tags};
use super::poly1305::{Authenticators, transposed};
use super::{Avx512, LANES};

// `self` is the proof that the CPU can run the methods.
#[allow(clippy::unused_self)]
impl Avx512 {
    /// Encrypts `messages` in place, message i under `counters[i]`, and returns their tags. `key`
    /// holds little-endian words.
    pub(crate) fn seal(self, key: &[u32; 8], counters: [u64; LANES], messages: Messages<'_>) -> Tags {
        // SAFETY: an `Avx512` exists only if this CPU has every feature the function enables.
        unsafe { run(Direction::Seal, key, counters, messages) }
    }

    /// Decrypts `messages` in place and returns the expected tags. The caller must compare the tags in
    /// constant time and discard messages whose tag differs.
    pub(crate) fn open(self, key: &[u32; 8], counters: [u64; LANES], messages: Messages<'_>) -> Tags {
        // SAFETY: an `Avx512` exists only if this CPU has every feature the function enables.
        unsafe { run(Direction::Open, key, counters, messages) }
    }

    /// Overwrites the stack area that [`seal`](Self::seal) and [`open`](Self::open) use when called
    /// from the same function. The compiler spills copies of the key, the key stream and the
    /// authenticator keys there.
    pub(crate) fn wipe(self) {
        // SAFETY: an `Avx512` exists only if this CPU has every feature the function enables.
        unsafe { wipe() }
    }
}

/// Bytes of stack to wipe: a quarter more than [`run`] and its callees use. Debug builds use far more.
const DEPTH: usize = if cfg!(debug_assertions) { 64 } else { 12 } * 1024;

// Not inlined, so that its frame overlaps the one that `run` had.
#[inline(never)]
#[target_feature(enable = "avx512f")]
#[allow(clippy::large_stack_arrays)]
fn wipe() {
    let mut below = [_mm512_setzero_si512(); DEPTH / size_of::<__m512i>()];
    below.zeroize();
}

#[derive(Clone, Copy)]
enum Direction {
    Seal,
    Open,
}

// One function for both directions, so that the cipher has a single caller and stays in registers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
fn run(direction: Direction, key: &[u32; 8], counters: [u64; LANES], mut messages: Messages<'_>) -> Tags {
    let len = messages.len();
    let streams = Streams::new(key, counters);
    let words = streams.blocks(0);
    // Block 0 holds the authenticator keys (section 2.6).
    let mut authenticators = Authenticators::new(&words);
    // Blocks `number` and `number + 1` of every stream, not yet added to the text.
    let mut number = 0;
    let mut stream = squares(&words);
    // Bytes of each message already authenticated, and the following ones, transposed.
    let mut done = 0;
    let mut ahead = [[_mm512_setzero_si512(); 2]; 4];
    let mut tags = None;
    loop {
        // The ciphertext is authenticated: text after it has been sealed, or before it is opened.
        let end = (number as usize + 1) * 64;
        let wire = match direction {
            Direction::Seal => end,
            Direction::Open => len,
        };
        if end < len && done + AHEAD + CHUNK <= wire {
            if done == 0 {
                ahead = transposed(&messages.at(0));
            }
            number += 2;
            bulk::chunk(&streams, number, &mut stream, &mut messages, &mut authenticators, &mut ahead, done);
            done += CHUNK;
            continue;
        }
        if let Direction::Open = direction
            && tags.is_none()
        {
            tags = Some(authenticators.tags(&messages, done));
        }
        let [first, second] = split(&stream);
        if number > 0 {
            messages.add(end - 128, &first);
        }
        messages.add(end - 64, &second);
        if end >= len {
            break;
        }
        number += 2;
        stream = squares(&streams.blocks(number));
    }
    tags.unwrap_or_else(|| authenticators.tags(&messages, done))
}
