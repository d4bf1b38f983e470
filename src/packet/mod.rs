//! Views of packet headers and the arithmetic that belongs to them. This module knows bytes and
//! nothing else: no device, no socket, no clock. Everything on the data path stands on it.
//!
//! A view is made by `new_checked`, which tests once that the header is complete and says what it
//! claims to be. After that every getter and setter is a plain load or store at a constant place.
//! No view panics on bytes that passed `new_checked`; changing the bytes underneath so that they
//! would not pass any more is the only way to break that promise.

pub mod checksum;
pub mod flow;
pub mod ip;
mod ipv4;
mod ipv6;
pub mod reject;
mod tcp;
mod udp;

pub use ipv4::Ipv4;
pub use ipv6::Ipv6;
pub use tcp::{Flags, Tcp};
pub use udp::Udp;

/// Protocol numbers (IANA, "Assigned Internet Protocol Numbers").
pub mod protocol {
    /// IPv6 hop-by-hop options (RFC 8200, section 4.3).
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP (RFC 792).
    pub const ICMP: u8 = 1;
    /// TCP (RFC 9293).
    pub const TCP: u8 = 6;
    /// UDP (RFC 768).
    pub const UDP: u8 = 17;
    /// IPv6 routing header (RFC 8200, section 4.4).
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header (RFC 8200, section 4.5).
    pub const FRAGMENT: u8 = 44;
    /// Authentication header (RFC 4302).
    pub const AUTHENTICATION: u8 = 51;
    /// `ICMPv6` (RFC 4443).
    pub const ICMPV6: u8 = 58;
    /// IPv6 destination options (RFC 8200, section 4.6).
    pub const DESTINATION_OPTIONS: u8 = 60;
}

/// The big-endian number at `at`.
#[inline]
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

/// The big-endian number at `at`.
#[inline]
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Stores `value` at `at`, big-endian.
#[inline]
fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Stores `value` at `at`, big-endian.
#[inline]
fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}
