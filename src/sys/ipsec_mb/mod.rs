//! ChaCha20-Poly1305 of many messages in one call, by Intel's library for multi-buffer cryptography
//! (libipsec-mb). Only with the feature `ipsec-mb`.
//!
//! The library works through messages one after the other, in the widest registers the CPU has. It does
//! that inside the call, allocates only when a [`Manager`] is made, and keeps of a message and a key nothing
//! but their addresses there; the key stream of the last message stays on the stack until the stack is used
//! again. A manager belongs to one thread. The one thing that all of them write is the library's last
//! error, an `int` that is read here only when one is made.
//!
//! What the library offers are macros over a structure of its own, so `shim.c` stands in between.

use std::arch::is_x86_feature_detected;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};

#[cfg(test)]
mod tests;

/// The most messages of one call (`IMB_MAX_BURST_SIZE`).
const MOST: usize = 128;

/// What the library calls a manager: the room it works in.
pub(crate) struct Manager(NonNull<c_void>);

/// Why there is no [`Manager`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The CPU has no AVX2, or not what the library's variants want beside it.
    Cpu,
    /// What the library says.
    Library(&'static CStr),
}

/// The library did not finish every message, so it is not the one this was built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unfinished;

/// A message: where its text is, what it is sealed under, and in the end its tag.
#[repr(C)]
pub(crate) struct Message<'a> {
    text: *mut u8,
    len: usize,
    nonce: [u8; 12],
    tag: [u8; 16],
    borrowed: PhantomData<&'a mut [u8]>,
}

impl<'a> Message<'a> {
    /// `text` is sealed or opened in place.
    pub(crate) fn new(nonce: [u8; 12], text: &'a mut [u8]) -> Self {
        Message { text: text.as_mut_ptr(), len: text.len(), nonce, tag: [0; 16], borrowed: PhantomData }
    }

    /// The tag, once it has been sealed or opened.
    pub(crate) fn tag(&self) -> &[u8; 16] {
        &self.tag
    }
}

impl Manager {
    /// Allocates a manager, some 200 KiB.
    pub(crate) fn new() -> Result<Self, Trouble> {
        // The variant for older CPUs reads some bytes behind a text (seen with 1.3), and is slow.
        if !is_x86_feature_detected!("avx2") {
            return Err(Trouble::Cpu);
        }
        let mut made = ptr::null_mut();
        // SAFETY: it writes one pointer, into `made`.
        let error = unsafe { laneway_imb_new(&raw mut made) };
        match NonNull::new(made) {
            Some(manager) if error == 0 => Ok(Manager(manager)),
            _ if error == libc::ENODEV => Err(Trouble::Cpu),
            // SAFETY: it takes any number, and gives a text that ends with zero and stays.
            _ => Err(Trouble::Library(unsafe { CStr::from_ptr(imb_get_strerror(error)) })),
        }
    }

    /// Seals the messages in place, without associated data.
    pub(crate) fn seal(&mut self, key: &[u8; 32], messages: &mut [Message<'_>]) -> Result<(), Unfinished> {
        self.run(key, true, messages)
    }

    /// Opens the messages in place, without associated data. Whether their tags are the right ones
    /// is for the caller to see.
    pub(crate) fn open(&mut self, key: &[u8; 32], messages: &mut [Message<'_>]) -> Result<(), Unfinished> {
        self.run(key, false, messages)
    }

    fn run(&mut self, key: &[u8; 32], seals: bool, messages: &mut [Message<'_>]) -> Result<(), Unfinished> {
        for lot in messages.chunks_mut(MOST) {
            let count = lot.len() as u32;
            // SAFETY: the manager is alive and, as this is neither `Send` nor `Sync`, this thread's alone. Each
            // message borrows its text exclusively, `count` is the length of `lot`, and all that is
            // handed over outlives the call, in which the library finishes.
            let done =
                unsafe { laneway_imb_run(self.0, key.as_ptr(), seals.into(), lot.as_mut_ptr(), count) };
            if done != count {
                return Err(Unfinished);
            }
        }
        Ok(())
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        // SAFETY: it came from `laneway_imb_new`, and nobody else has it.
        unsafe { laneway_imb_free(self.0) }
    }
}

unsafe extern "C" {
    fn laneway_imb_new(manager: *mut *mut c_void) -> c_int;
    fn laneway_imb_free(manager: NonNull<c_void>);
    fn laneway_imb_run(
        manager: NonNull<c_void>,
        key: *const u8,
        seals: c_int,
        messages: *mut Message<'_>,
        count: u32,
    ) -> u32;
    fn imb_get_strerror(error: c_int) -> *const c_char;
}
