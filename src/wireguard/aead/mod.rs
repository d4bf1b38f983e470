//! The AEAD of transport data: many datagrams, one key, one call (whitepaper, section 5.4.6).
//!
//! [`TransportKey`] is what a session seals or opens with. Behind it are AWS-LC, datagram by
//! datagram, which knows both suites and runs everywhere, and, if asked for, what does ChaCha20-Poly1305
//! of many datagrams in one call: `eights`, our own for eight at a time on CPUs with AVX-512, or
//! `whole_runs`, Intel's library, which the feature `ipsec-mb` brings.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use super::messages::{DATA_HEADER, DATA_OVERHEAD, TAG, data_counter};
use super::suite::Suite;

#[cfg(target_arch = "x86_64")]
mod eights;
#[cfg(test)]
mod tests;
#[cfg(feature = "ipsec-mb")]
mod whole_runs;

/// The most datagrams that one call takes.
pub const MAX_RUN: usize = 128;

/// Which datagrams of a run are authentic: bit i stands for datagram i.
pub(super) type Verdicts = u128;

const _: () = assert!(MAX_RUN == Verdicts::BITS as usize, "one verdict per datagram");

/// What ChaCha20-Poly1305 is computed by. To have one is proof that it can run here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// AWS-LC.
    #[default]
    Portable,
    /// Our own for AVX-512, with AWS-LC for what does not come in eights.
    #[cfg(target_arch = "x86_64")]
    Avx512(crate::sys::avx512::Avx512),
    /// Intel's library, which has been tried. See [`Backend::ipsec_mb`].
    #[cfg(feature = "ipsec-mb")]
    IpsecMb(Tried),
}

/// Proof that Intel's library does here what it should.
#[cfg(feature = "ipsec-mb")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tried(());

/// Why Intel's library cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// The feature was off when this was built.
    #[error(
        "this program was built without it; build it with `--features ipsec-mb`, or choose `portable` or `auto`"
    )]
    NotBuilt,
    /// It wants another CPU.
    #[error("libipsec-mb is for CPUs with AVX2, AES and PCLMULQDQ; choose `portable` or `auto`")]
    Cpu,
    /// The library's own words.
    #[error("libipsec-mb: {0}")]
    Library(String),
    /// It does not compute ChaCha20-Poly1305.
    #[error(
        "this libipsec-mb seals other than it should; build for the version that is installed, or choose another"
    )]
    Wrong,
}

impl Backend {
    /// The fastest of our own that this CPU can run.
    pub fn fastest() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(avx512) = crate::sys::avx512::Avx512::detect() {
            return Backend::Avx512(avx512);
        }
        Backend::Portable
    }

    /// Intel's library, if this was built for it and it does here what it should.
    ///
    /// # Errors
    /// See [`Unavailable`].
    pub fn ipsec_mb() -> Result<Self, Unavailable> {
        #[cfg(feature = "ipsec-mb")]
        {
            whole_runs::try_out()?;
            Ok(Backend::IpsecMb(Tried(())))
        }
        #[cfg(not(feature = "ipsec-mb"))]
        Err(Unavailable::NotBuilt)
    }

    /// All that run here, the portable one first.
    pub fn all() -> impl Iterator<Item = Self> {
        let fastest = Some(Self::fastest()).filter(|&fastest| fastest != Backend::Portable);
        [Some(Backend::Portable), fastest, Self::ipsec_mb().ok()].into_iter().flatten()
    }

    /// Makes what the calling thread needs to seal and open. It is made at the first use otherwise.
    ///
    /// # Panics
    /// If memory runs out.
    pub fn prepare_thread(self) {
        #[cfg(feature = "ipsec-mb")]
        if let Backend::IpsecMb(_) = self {
            whole_runs::prepare_thread().expect("libipsec-mb has worked before");
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Backend::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512(_) => "avx512",
            #[cfg(feature = "ipsec-mb")]
            Backend::IpsecMb(_) => "ipsec-mb",
        })
    }
}

/// The key of one direction of a session.
pub struct TransportKey {
    /// Its schedule lives on the heap of AWS-LC, which wipes what it frees.
    single: LessSafeKey,
    many: Option<Many>,
}

/// What takes many datagrams in one call.
enum Many {
    #[cfg(target_arch = "x86_64")]
    Eights(eights::Eights),
    #[cfg(feature = "ipsec-mb")]
    WholeRuns(whole_runs::WholeRuns),
}

// Where there is none, nobody looks at the arguments.
#[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
impl Many {
    fn new(key: &[u8; 32], backend: Backend) -> Option<Self> {
        match backend {
            Backend::Portable => None,
            #[cfg(target_arch = "x86_64")]
            Backend::Avx512(avx512) => Some(Many::Eights(eights::Eights::new(avx512, key))),
            #[cfg(feature = "ipsec-mb")]
            Backend::IpsecMb(_) => Some(Many::WholeRuns(whole_runs::WholeRuns::new(key))),
        }
    }

    /// Seals the datagrams at the front of `run` that it takes; how many.
    fn seal_run(&self, first: u64, run: &mut [u8], stride: usize) -> usize {
        match *self {
            #[cfg(target_arch = "x86_64")]
            Many::Eights(ref eights) => eights.seal_run(first, run, stride),
            #[cfg(feature = "ipsec-mb")]
            Many::WholeRuns(ref whole) => whole.seal_run(first, run, stride),
        }
    }

    /// Opens the datagrams at the front of `run` that it takes; how many, and which of them are
    /// authentic.
    fn open_run(&self, run: &mut [u8], stride: usize) -> (usize, Verdicts) {
        match *self {
            #[cfg(target_arch = "x86_64")]
            Many::Eights(ref eights) => eights.open_run(run, stride),
            #[cfg(feature = "ipsec-mb")]
            Many::WholeRuns(ref whole) => whole.open_run(run, stride),
        }
    }
}

impl TransportKey {
    /// The key these bytes are. Wiping the argument is up to the caller.
    ///
    /// # Panics
    /// If memory runs out: no other failure is left for a key of the right length.
    pub fn new(key: &[u8; 32], suite: Suite, backend: Backend) -> Self {
        let (cipher, many) = match suite {
            Suite::ChaCha20Poly1305 => (&CHACHA20_POLY1305, Many::new(key, backend)),
            Suite::Aes256Gcm => (&AES_256_GCM, None),
        };
        let single = UnboundKey::new(cipher, key).expect("the key has the length of the cipher");
        TransportKey { single: LessSafeKey::new(single), many }
    }

    /// Seals the payloads of `run` in place and writes their tags. The datagrams lie back to back,
    /// each `stride` bytes, the last one maybe shorter; datagram i is sealed under counter
    /// `first + i`. Headers are not touched.
    ///
    /// # Panics
    /// If `stride` or the last datagram is under [`DATA_OVERHEAD`].
    pub(super) fn seal_run(&self, first: u64, run: &mut [u8], stride: usize) {
        let done = self.many.as_ref().map_or(0, |many| many.seal_run(first, run, stride));
        let rest = run.chunks_mut(stride).skip(done);
        for (counter, datagram) in (first + done as u64..).zip(rest) {
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
                .expect("a datagram is far shorter than what the cipher can seal");
            tag.copy_from_slice(sealed.as_ref());
        }
    }

    /// Opens the datagrams of `run` in place, under the counters in their headers, and says which
    /// are authentic. Datagrams under [`DATA_OVERHEAD`] bytes are not. Payloads of others that are not
    /// authentic are zeros afterwards, never what came out of the cipher.
    pub(super) fn open_run(&self, run: &mut [u8], stride: usize) -> Verdicts {
        let (done, mut authentic) = self.many.as_ref().map_or((0, 0), |many| many.open_run(run, stride));
        for (i, datagram) in run.chunks_mut(stride).enumerate().skip(done) {
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

/// 32 bits of zeros, then the counter, little-endian (section 5.4.6).
#[inline]
fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    nonce
}
