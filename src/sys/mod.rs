//! All unsafe code: thin typed wrappers over libc and nix, and SIMD code. A comment on each
//! block explains why it is sound.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub mod avx512;
pub mod daemon;
pub mod inherited;
pub mod memory;
pub mod names;
pub mod reuseport;
pub mod rights;
pub mod seccomp;
pub mod signals;
pub mod tun;
pub mod udp;
pub mod wake;
pub mod wipe;
