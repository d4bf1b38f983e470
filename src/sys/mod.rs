//! The only unsafe code: thin typed wrappers over libc and nix. Every block argues why it is sound.
#![allow(unsafe_code)]

pub mod clock;
pub mod daemon;
pub mod inherited;
pub mod netns;
pub mod seccomp;
pub mod tun;
pub mod udp;
pub mod wake;
