//! AEAD for transport data: a whole run of datagrams under one key per call (whitepaper, section
//! 5.4.6).
//!
//! A session seals and opens with a [`TransportKey`]. AWS-LC, one datagram at a time, supports both
//! suites and every CPU. A [`Backend`] can speed up ChaCha20-Poly1305 with several datagrams per call:
//! `eights` handles eight at a time on CPUs with AVX-512.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use super::messages::{DATA_HEADER, DATA_OVERHEAD, TAG, data_counter};
use super::suite::Suite;
use crate::sys::wipe;

#[cfg(target_arch = "x86_64")]
mod eights;
#[cfg(test)]
mod tests;

/// Maximum number of datagrams per call.
pub const MAX_RUN: usize = 128;

/// Bytes of stack that AWS-LC and its callers may use. AWS-LC copies the key there.
const STACK: usize = if cfg!(debug_assertions) { 8192 } else { 2048 };

/// Which datagrams of a run are authentic, one bit each: bit i stands for datagram i.
pub type Verdicts = u128;

const _: () = assert!(MAX_RUN == Verdicts::BITS as usize, "one verdict per datagram");

/// An implementation of ChaCha20-Poly1305. A value is proof that it runs on this machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// AWS-LC, one datagram at a time.
    #[default]
    Portable,
    /// Laneway's AVX-512 implementation, eight datagrams at a time, with AWS-LC for the remainder.
    #[cfg(target_arch = "x86_64")]
    Avx512(crate::sys::avx512::Avx512),
}

impl Backend {
    /// Returns the fastest backend that this CPU supports.
    pub fn fastest() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(avx512) = crate::sys::avx512::Avx512::detect() {
            return Backend::Avx512(avx512);
        }
        Backend::Portable
    }

    /// Returns the backends that run on this machine, the portable one first.
    pub fn all() -> impl Iterator<Item = Self> {
        let fastest = Some(Self::fastest()).filter(|&fastest| fastest != Backend::Portable);
        [Some(Backend::Portable), fastest].into_iter().flatten()
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

/// The key for one direction of a session.
pub struct TransportKey {
    /// The key schedule lives on AWS-LC's heap, which is zeroized when freed.
    single: LessSafeKey,
    many: Option<Many>,
}

/// An implementation that handles several datagrams per call.
enum Many {
    #[cfg(target_arch = "x86_64")]
    Eights(eights::Eights),
}

// Without an implementation for the target, the arguments are unused.
#[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
impl Many {
    fn new(key: &[u8; 32], backend: Backend) -> Option<Self> {
        match backend {
            Backend::Portable => None,
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512(avx512) => Some(Many::Eights(eights::Eights::new(avx512, key))),
        }
    }

    /// Seals as many datagrams at the front of `run` as it can and returns their number.
    fn seal_run(&self, first: u64, run: &mut [u8], stride: usize) -> usize {
        match *self {
            #[cfg(target_arch = "x86_64")]
            Many::Eights(ref eights) => eights.seal_run(first, run, stride),
        }
    }

    /// Opens as many datagrams at the front of `run` as it can. Returns their number and which of
    /// them are authentic.
    fn open_run(&self, run: &mut [u8], stride: usize) -> (usize, Verdicts) {
        match *self {
            #[cfg(target_arch = "x86_64")]
            Many::Eights(ref eights) => eights.open_run(run, stride),
        }
    }
}

impl TransportKey {
    /// Creates a key from its bytes. The caller zeroizes its own copy. `backend` applies to
    /// ChaCha20-Poly1305 only.
    ///
    /// # Panics
    /// Panics if AWS-LC cannot allocate memory; nothing else can fail for a key of this length.
    pub fn new(key: &[u8; 32], suite: Suite, backend: Backend) -> Self {
        let (cipher, many) = match suite {
            Suite::ChaCha20Poly1305 => (&CHACHA20_POLY1305, Many::new(key, backend)),
            Suite::Aes256Gcm => (&AES_256_GCM, None),
        };
        let single = UnboundKey::new(cipher, key).expect("the key is as long as the cipher requires");
        TransportKey { single: LessSafeKey::new(single), many }
    }

    /// Seals the payloads of `run` in place and writes their tags. The datagrams lie back to back,
    /// each `stride` bytes, the last one possibly shorter; datagram i is sealed under counter
    /// `first + i`. Headers are left unchanged.
    ///
    /// # Panics
    /// Panics if `stride` or the last datagram is shorter than [`DATA_OVERHEAD`] bytes.
    pub(super) fn seal_run(&self, first: u64, run: &mut [u8], stride: usize) {
        let done = self.many.as_ref().map_or(0, |many| many.seal_run(first, run, stride));
        if done * stride >= run.len() {
            return;
        }
        self.seal_singly(first + done as u64, &mut run[done * stride..], stride);
        wipe::stack::<STACK>();
    }

    // Not inlined, so that the caller can wipe its frame.
    #[inline(never)]
    fn seal_singly(&self, first: u64, run: &mut [u8], stride: usize) {
        for (counter, datagram) in (first..).zip(run.chunks_mut(stride)) {
            assert!(datagram.len() >= DATA_OVERHEAD, "a datagram has room for header and tag");
            let (payload, tag) =
                datagram[DATA_HEADER..].split_last_chunk_mut::<TAG>().expect("checked above");
            let sealed = self
                .single
                .seal_in_place_separate_tag(
                    Nonce::assume_unique_for_key(nonce(counter)),
                    Aad::empty(),
                    payload,
                )
                .expect("a datagram is shorter than the cipher's limit");
            tag.copy_from_slice(sealed.as_ref());
        }
    }

    /// Opens the datagrams of `run` in place, under the counters in their headers, and returns which
    /// are authentic. Datagrams shorter than [`DATA_OVERHEAD`] bytes are not. The payloads of other
    /// datagrams that fail authentication are overwritten with zeros.
    pub(super) fn open_run(&self, run: &mut [u8], stride: usize) -> Verdicts {
        let (done, mut authentic) = self.many.as_ref().map_or((0, 0), |many| many.open_run(run, stride));
        if done * stride < run.len() {
            authentic |= self.open_singly(&mut run[done * stride..], stride) << done;
            wipe::stack::<STACK>();
        }
        authentic
    }

    // Not inlined, so that the caller can wipe its frame.
    #[inline(never)]
    fn open_singly(&self, run: &mut [u8], stride: usize) -> Verdicts {
        let mut authentic = 0;
        for (i, datagram) in run.chunks_mut(stride).enumerate() {
            if datagram.len() < DATA_OVERHEAD {
                continue;
            }
            let nonce = Nonce::assume_unique_for_key(nonce(data_counter(datagram)));
            let opened = self.single.open_in_place(nonce, Aad::empty(), &mut datagram[DATA_HEADER..]);
            authentic |= Verdicts::from(opened.is_ok()) << i;
        }
        authentic
    }
}

/// Returns the nonce of `counter`: 32 zero bits, then the counter, little-endian (section 5.4.6).
#[inline]
fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    nonce
}
