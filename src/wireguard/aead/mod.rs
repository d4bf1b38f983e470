//! The AEAD of transport data: many datagrams, one key, one call (whitepaper, section 5.4.6).
//!
//! [`TransportKey`] is what a session seals or opens with. Behind it are AWS-LC, datagram by
//! datagram, which knows both suites and runs everywhere, and, if asked for, `eights`, which does
//! ChaCha20-Poly1305 of eight datagrams at a time on CPUs with AVX-512.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use super::messages::{DATA_HEADER, DATA_OVERHEAD, TAG, data_counter};
use super::suite::Suite;
use eights::Eights;

#[cfg(target_arch = "x86_64")]
mod eights;
#[cfg(test)]
mod tests;

/// The most datagrams that one call takes.
pub const MAX_RUN: usize = 128;

/// Which datagrams of a run are authentic: bit i stands for datagram i.
pub(super) type Verdicts = u128;

const _: () = assert!(MAX_RUN == Verdicts::BITS as usize, "one verdict per datagram");

/// What ChaCha20-Poly1305 is computed by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// AWS-LC.
    #[default]
    Portable,
    /// Our own for AVX-512, with AWS-LC for what does not come in eights.
    #[cfg(target_arch = "x86_64")]
    Avx512(crate::sys::avx512::Avx512),
}

impl Backend {
    /// The fastest that this CPU can run.
    pub fn fastest() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(avx512) = crate::sys::avx512::Avx512::detect() {
            return Backend::Avx512(avx512);
        }
        Backend::Portable
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backend::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512(_) => "avx512",
        })
    }
}

/// The key of one direction of a session.
pub struct TransportKey {
    /// Its schedule lives on the heap of AWS-LC, which wipes what it frees.
    single: LessSafeKey,
    eights: Option<Eights>,
}

impl TransportKey {
    /// The key these bytes are. Wiping the argument is up to the caller.
    ///
    /// # Panics
    /// If memory runs out: no other failure is left for a key of the right length.
    pub fn new(key: &[u8; 32], suite: Suite, backend: Backend) -> Self {
        let cipher = match suite {
            Suite::ChaCha20Poly1305 => &CHACHA20_POLY1305,
            Suite::Aes256Gcm => &AES_256_GCM,
        };
        let single = UnboundKey::new(cipher, key).expect("the key has the length of the cipher");
        let eights = match (suite, backend) {
            #[cfg(target_arch = "x86_64")]
            (Suite::ChaCha20Poly1305, Backend::Avx512(avx512)) => Some(Eights::new(avx512, key)),
            _ => None,
        };
        TransportKey { single: LessSafeKey::new(single), eights }
    }

    /// Seals the payloads of `run` in place and writes their tags. The datagrams lie back to back,
    /// each `stride` bytes, the last one maybe shorter; datagram i is sealed under counter
    /// `first + i`. Headers are not touched.
    ///
    /// # Panics
    /// If `stride` or the last datagram is under [`DATA_OVERHEAD`].
    pub(super) fn seal_run(&self, first: u64, run: &mut [u8], stride: usize) {
        let done = self.eights.as_ref().map_or(0, |eights| eights.seal_run(first, run, stride));
        let rest = run.chunks_mut(stride).skip(done);
        for (counter, datagram) in (first + done as u64..).zip(rest) {
            assert!(datagram.len() >= DATA_OVERHEAD, "a datagram has room for header and tag");
            let (payload, tag) =
                datagram[DATA_HEADER..].split_last_chunk_mut::<TAG>().expect("checked above");
            let sealed = self
                .single
                .seal_in_place_separate_tag(nonce(counter), Aad::empty(), payload)
                .expect("a datagram is far shorter than what the cipher can seal");
            tag.copy_from_slice(sealed.as_ref());
        }
    }

    /// Opens the datagrams of `run` in place, under the counters in their headers, and says which
    /// are authentic. Datagrams under [`DATA_OVERHEAD`] bytes are not. Payloads of others that are not
    /// authentic are zeros afterwards, never what came out of the cipher.
    pub(super) fn open_run(&self, run: &mut [u8], stride: usize) -> Verdicts {
        let (done, mut authentic) =
            self.eights.as_ref().map_or((0, 0), |eights| eights.open_run(run, stride));
        for (i, datagram) in run.chunks_mut(stride).enumerate().skip(done) {
            if datagram.len() < DATA_OVERHEAD {
                continue;
            }
            let nonce = nonce(data_counter(datagram));
            let opened = self.single.open_in_place(nonce, Aad::empty(), &mut datagram[DATA_HEADER..]);
            authentic |= Verdicts::from(opened.is_ok()) << i;
        }
        authentic
    }
}

/// There is no such CPU in other families.
#[cfg(not(target_arch = "x86_64"))]
mod eights {
    pub(super) enum Eights {}

    impl Eights {
        pub(super) fn seal_run(&self, _first: u64, _run: &mut [u8], _stride: usize) -> usize {
            match *self {}
        }

        pub(super) fn open_run(&self, _run: &mut [u8], _stride: usize) -> (usize, super::Verdicts) {
            match *self {}
        }
    }
}

/// 32 bits of zeros, then the counter, little-endian (section 5.4.6).
#[inline]
fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}
