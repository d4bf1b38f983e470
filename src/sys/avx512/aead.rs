//! The AEAD (RFC 8439, section 2.8) without associated data, as WireGuard's transport data uses it.

use super::chacha20::{Streams, split};
use super::messages::{Messages, Tags};
use super::poly1305::Authenticators;
use super::{Avx512, LANES};

// The proof is what the methods are about; it has nothing inside.
#[allow(clippy::unused_self)]
impl Avx512 {
    /// Encrypts `messages` in place, message i under `counters[i]`, and returns their tags. `key`
    /// is in little-endian words.
    pub(crate) fn seal(self, key: &[u32; 8], counters: [u64; LANES], messages: Messages<'_>) -> Tags {
        // SAFETY: there is an `Avx512` only if this CPU has every feature the function names.
        unsafe { run(Direction::Seal, key, counters, messages) }
    }

    /// Decrypts `messages` in place and returns what their tags should be. Whoever calls compares,
    /// in constant time, and does not look at a message whose tag is another.
    pub(crate) fn open(self, key: &[u32; 8], counters: [u64; LANES], messages: Messages<'_>) -> Tags {
        // SAFETY: there is an `Avx512` only if this CPU has every feature the function names.
        unsafe { run(Direction::Open, key, counters, messages) }
    }
}

#[derive(Clone, Copy)]
enum Direction {
    Seal,
    Open,
}

// One function for both, so that the cipher has one caller and stays in registers.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512ifma,avx512vbmi2")]
fn run(direction: Direction, key: &[u32; 8], counters: [u64; LANES], mut messages: Messages<'_>) -> Tags {
    let streams = Streams::new(key, counters);
    let (mut sealed, mut tags) = (None, Tags::default());
    let mut at = 0;
    for number in (0..).step_by(2) {
        let words = streams.blocks(number);
        let (first, second) = split(&words);
        if number == 0 {
            // Block 0 is the authenticator's (section 2.6). What it authenticates is what is on the wire.
            let authenticators = Authenticators::new(&words);
            match direction {
                Direction::Seal => sealed = Some(authenticators),
                Direction::Open => tags = authenticators.tags(&messages),
            }
        } else {
            messages.add(at, &first);
            at += 64;
        }
        messages.add(at, &second);
        at += 64;
        if at >= messages.len() {
            break;
        }
    }
    match sealed {
        Some(authenticators) => authenticators.tags(&messages),
        None => tags,
    }
}
