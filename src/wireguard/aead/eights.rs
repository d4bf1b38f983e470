//! Splits runs into groups of eight datagrams for [`crate::sys::avx512`].
//!
//! A group costs the same however many of its lanes are in use, so a remainder of a few datagrams,
//! and a shorter last datagram, are left to the cipher that handles datagrams one by one.

use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::{MAX_RUN, Verdicts};
use crate::sys::avx512::{Avx512, LANES, Messages, TAG};
use crate::wireguard::messages::{DATA_HEADER, DATA_OVERHEAD, data_counter};

/// Returns the number of datagrams from which a partial group is faster than one by one. The
/// threshold grows with `stride`, in bytes, because AWS-LC is more efficient on long datagrams.
const fn worth_it(stride: usize) -> usize {
    match stride {
        ..160 => 2,
        160..256 => 3,
        256..2560 => 4,
        _ => 5,
    }
}

/// A ChaCha20-Poly1305 key for groups of datagrams.
pub(super) struct Eights {
    avx512: Avx512,
    /// The key as little-endian words. Boxed, so that moving it leaves no copy.
    key: Box<Zeroizing<[u32; 8]>>,
}

impl Eights {
    pub(super) fn new(avx512: Avx512, key: &[u8; 32]) -> Self {
        let mut words = Box::new(Zeroizing::new([0; 8]));
        for (word, bytes) in words.iter_mut().zip(key.as_chunks().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        Eights { avx512, key: words }
    }

    /// Seals the datagrams at the front of `run` that form groups and returns their number.
    pub(super) fn seal_run(&self, first: u64, run: &mut [u8], stride: usize) -> usize {
        let end = in_lots(run.len(), stride);
        for (start, count) in lots(end) {
            let lot = &mut run[start * stride..][..count * stride];
            let counters = std::array::from_fn(|lane| first + (start + lane) as u64);
            let tags = self.avx512.seal(&self.key, counters, messages(lot, stride, count));
            for (datagram, tag) in lot.chunks_exact_mut(stride).zip(tags) {
                datagram[stride - TAG..].copy_from_slice(&tag);
            }
        }
        if end > 0 {
            self.avx512.wipe();
        }
        end
    }

    /// Opens the datagrams at the front of `run` that form groups. Returns their number and which of
    /// them are authentic.
    pub(super) fn open_run(&self, run: &mut [u8], stride: usize) -> (usize, Verdicts) {
        let end = in_lots(run.len(), stride);
        let mut authentic = 0;
        for (start, count) in lots(end) {
            let lot = &mut run[start * stride..][..count * stride];
            let mut counters = [0; LANES];
            for (counter, datagram) in counters.iter_mut().zip(lot.chunks_exact(stride)) {
                *counter = data_counter(datagram);
            }
            let tags = self.avx512.open(&self.key, counters, messages(lot, stride, count));
            for (lane, (datagram, tag)) in lot.chunks_exact_mut(stride).zip(tags).enumerate() {
                let [came, right] = [&datagram[stride - TAG..], &tag[..]]
                    .map(|tag| u128::from_ne_bytes(tag.try_into().expect("a tag is 16 bytes")));
                let same = came.ct_eq(&right).unwrap_u8();
                authentic |= Verdicts::from(same) << (start + lane);
                if same == 0 {
                    // The payload was decrypted before the tag was checked.
                    datagram[DATA_HEADER..stride - TAG].fill(0);
                }
            }
        }
        if end > 0 {
            self.avx512.wipe();
        }
        (end, authentic)
    }
}

/// Returns the payloads of a group.
fn messages(lot: &mut [u8], stride: usize, count: usize) -> Messages<'_> {
    Messages::new(&mut lot[DATA_HEADER..], stride, stride - DATA_OVERHEAD, count)
}

/// Returns how many datagrams at the front of a run of `len` bytes are handled in groups.
fn in_lots(len: usize, stride: usize) -> usize {
    let whole = if stride < DATA_OVERHEAD { 0 } else { (len / stride).min(MAX_RUN) };
    let rest = whole % LANES;
    // In a run of one partial group, the group also has to pay for the wipe.
    let enough = worth_it(stride) + usize::from(whole < LANES);
    if rest < enough { whole - rest } else { whole }
}

/// Returns the groups of the first `end` datagrams, each as its first datagram and its length.
fn lots(end: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..end).step_by(LANES).map(move |start| (start, LANES.min(end - start)))
}
