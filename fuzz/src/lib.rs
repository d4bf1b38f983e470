//! Fuzz targets: one function per parser of untrusted bytes, which checks a property for all input.
//!
//! The fuzzer calls them (`cargo +nightly fuzz run NAME`), and `tests/fuzz.rs` runs them over the corpus and
//! mutations of it, on any compiler.

#![allow(missing_docs, unreachable_pub, clippy::missing_panics_doc)]

mod inside;
mod outside;
mod rejects;
mod text;

pub use inside::{coalesce, superpacket, views};
pub use outside::{cookie_reply, handshake, open_run};
pub use rejects::rejects;
pub use text::{config_file, environment, exposition, status, uapi};

/// A fuzz target.
pub type Target = fn(&[u8]);

/// All targets, by the names of their corpora.
pub const TARGETS: [(&str, Target); 12] = [
    ("views", views),
    ("superpacket", superpacket),
    ("coalesce", coalesce),
    ("rejects", rejects),
    ("handshake", handshake),
    ("cookie_reply", cookie_reply),
    ("open_run", open_run),
    ("uapi", uapi),
    ("config_file", config_file),
    ("environment", environment),
    ("status", status),
    ("exposition", exposition),
];

/// Takes numbers from the front of the input; zeros once it is exhausted.
struct Taker<'a>(&'a [u8]);

impl<'a> Taker<'a> {
    fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }
}
