//! Whole runs of datagrams, by [`crate::sys::ipsec_mb`].
//!
//! The library wants a manager to work in, which belongs to one thread; each thread that seals or opens has one, from
//! its start ([`prepare_thread`]) to its end.

use std::cell::RefCell;

use arrayvec::ArrayVec;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::{Backend, Suite, TransportKey, Unavailable, Verdicts, nonce};
use crate::sys::ipsec_mb::{Manager, Message, Trouble};
use crate::wireguard::messages::{DATA_HEADER, DATA_OVERHEAD, TAG, data_counter};

/// Datagrams in one call. The library keeps 200 bytes for each, which are in the cache if there are few.
const LOT: usize = 16;

/// The library was tried before anybody could have a key for it.
const FINISHES: &str = "libipsec-mb finishes every message";

thread_local! {
    static MANAGER: RefCell<Option<Manager>> = const { RefCell::new(None) };
}

/// Makes this thread's manager, if it has none yet.
pub(super) fn prepare_thread() -> Result<(), Unavailable> {
    MANAGER.with_borrow_mut(|manager| {
        if manager.is_none() {
            *manager = Some(Manager::new().map_err(|trouble| match trouble {
                Trouble::Cpu => Unavailable::Cpu,
                Trouble::Library(says) => Unavailable::Library(says.to_string_lossy().into_owned()),
            })?);
        }
        Ok(())
    })
}

/// Makes this thread's manager, and sees whether it seals as AWS-LC does: the library is found when the
/// program starts, and its structures change from version to version.
pub(super) fn try_out() -> Result<(), Unavailable> {
    const LEN: usize = 1000;
    prepare_thread()?;
    let key = [7; 32];
    let mut datagram = [0x5a; LEN];
    TransportKey::new(&key, Suite::ChaCha20Poly1305, Backend::Portable).seal_run(9, &mut datagram, LEN);
    let mut text = [0x5a; LEN - DATA_OVERHEAD];
    let mut messages = [Message::new(nonce(9), &mut text)];
    let sealed = with_manager(|manager| manager.seal(&key, &mut messages));
    let tag = *messages[0].tag();
    let right = sealed.is_ok() && datagram[DATA_HEADER..] == *[&text[..], &tag].concat();
    if right { Ok(()) } else { Err(Unavailable::Wrong) }
}

/// A ChaCha20-Poly1305 key for whole runs.
pub(super) struct WholeRuns {
    /// Where it is not moved, which would leave a copy that nobody wipes.
    key: Box<Zeroizing<[u8; 32]>>,
}

impl WholeRuns {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        let mut kept = Box::new(Zeroizing::new([0; 32]));
        kept.copy_from_slice(key);
        WholeRuns { key: kept }
    }

    /// Seals all of `run`; of how many datagrams it is.
    pub(super) fn seal_run(&self, first: u64, run: &mut [u8], stride: usize) -> usize {
        let mut counters = first..;
        for lot in run.chunks_mut(LOT * stride) {
            let mut messages = ArrayVec::<_, LOT>::new();
            let mut tags = ArrayVec::<_, LOT>::new();
            for (datagram, counter) in lot.chunks_mut(stride).zip(&mut counters) {
                let (payload, tag) = parts(datagram).expect("a datagram has room for header and tag");
                messages.push(Message::new(nonce(counter), payload));
                tags.push(tag);
            }
            with_manager(|manager| manager.seal(&self.key, &mut messages)).expect(FINISHES);
            for (tag, message) in tags.into_iter().zip(&messages) {
                *tag = *message.tag();
            }
        }
        run.len().div_ceil(stride)
    }

    /// Opens all of `run`; of how many datagrams it is, and which of them are authentic.
    pub(super) fn open_run(&self, run: &mut [u8], stride: usize) -> (usize, Verdicts) {
        let mut authentic = 0;
        for (start, lot) in (0..).step_by(LOT).zip(run.chunks_mut(LOT * stride)) {
            let mut messages = ArrayVec::<_, LOT>::new();
            let mut tags = ArrayVec::<_, LOT>::new();
            for datagram in lot.chunks_mut(stride) {
                // All are as long as the first one, but for the last one of the run.
                if datagram.len() < DATA_OVERHEAD {
                    break;
                }
                let nonce = nonce(data_counter(datagram));
                let (payload, tag) = parts(datagram).expect("checked above");
                messages.push(Message::new(nonce, payload));
                tags.push(u128::from_ne_bytes(*tag));
            }
            with_manager(|manager| manager.open(&self.key, &mut messages)).expect(FINISHES);
            for (i, (came, message)) in tags.into_iter().zip(&messages).enumerate() {
                let right = u128::from_ne_bytes(*message.tag());
                authentic |= Verdicts::from(came.ct_eq(&right).unwrap_u8()) << (start + i);
            }
        }
        (run.len().div_ceil(stride), authentic)
    }
}

/// A datagram's payload and its tag, or the place for them, if it is long enough.
fn parts(datagram: &mut [u8]) -> Option<(&mut [u8], &mut [u8; TAG])> {
    datagram.get_mut(DATA_HEADER..)?.split_last_chunk_mut()
}

/// # Panics
/// If the thread had no manager and memory runs out: the library was found to work at the start.
fn with_manager<R>(work: impl FnOnce(&mut Manager) -> R) -> R {
    MANAGER.with_borrow_mut(|manager| {
        work(manager.get_or_insert_with(|| Manager::new().expect("libipsec-mb has worked before")))
    })
}
