//! Pings of several sizes.

use std::net::IpAddr;

use laneway::netns::Namespace;

use super::DEADLINE;
use super::process::{attempt, output};

/// Payload sizes in bytes that matter at a tunnel MTU of 1,420: empty, odd, block-aligned, the largest that fits
/// IPv4, and one that has to be fragmented.
pub const SIZES: [u16; 5] = [0, 17, 1024, 1392, 4000];

/// Pings `address` from `namespace` with each of [`SIZES`] until three echoes have returned. `ping` itself
/// compares the payload.
///
/// # Panics
/// If echoes are missing or altered; the message contains the output of `ping`.
pub fn ping(namespace: &Namespace, address: IpAddr) {
    let (address, patience) = (address.to_string(), DEADLINE.as_secs().to_string());
    for size in SIZES {
        let size = size.to_string();
        // Not -W: `ping` ignores it after the first echo, and counts echoes that a busy machine delays as lost.
        let words = ["ping", "-n", "-c", "3", "-i", "0.05", "-w", &patience, "-s", &size, &address];
        let said = output(namespace, &words, "");
        assert!(!said.contains("wrong data"), "{said}");
    }
}

/// Sends one echo request to `address` and waits for the answer until the deadline.
///
/// # Panics
/// If there is no answer; the message contains the output of `ping`.
pub fn once(namespace: &Namespace, address: IpAddr) {
    let (address, patience) = (address.to_string(), DEADLINE.as_secs().to_string());
    output(namespace, &["ping", "-n", "-c", "1", "-W", &patience, &address], "");
}

/// Returns whether `address` answers an echo request within a second: for polling, and for asserting that it does
/// not.
pub fn answers(namespace: &Namespace, address: IpAddr) -> bool {
    attempt(namespace, &["ping", "-n", "-c", "1", "-W", "1", &address.to_string()], "").is_ok()
}
