//! Ping, with sizes: an echo comes back only if its bytes did.

use std::net::IpAddr;

use laneway::netns::Namespace;

use super::DEADLINE;
use super::process::{attempt, output};

/// Payload sizes in bytes worth asking for at a tunnel MTU of 1,420: empty, odd, block-aligned, the largest
/// that fits IPv4, and one that has to be fragmented.
pub const SIZES: [u16; 5] = [0, 17, 1024, 1392, 4000];

/// Pings `address` from `namespace` with each of [`SIZES`] until three echoes have come back. `ping` itself
/// compares the payload.
///
/// # Panics
/// When echoes do not come back or come back changed; the message holds what `ping` said.
pub fn ping(namespace: &Namespace, address: IpAddr) {
    let (address, patience) = (address.to_string(), DEADLINE.as_secs().to_string());
    for size in SIZES {
        let size = size.to_string();
        // Not -W: it is forgotten with the first echo, and what a busy machine holds up then counts as lost.
        let words = ["ping", "-n", "-c", "3", "-i", "0.05", "-w", &patience, "-s", &size, &address];
        let said = output(namespace, &words, "");
        assert!(!said.contains("wrong data"), "{said}");
    }
}

/// Sends one echo request to `address` and waits for the answer as long as that takes.
///
/// # Panics
/// When it does not come; the message holds what `ping` said.
pub fn once(namespace: &Namespace, address: IpAddr) {
    let (address, patience) = (address.to_string(), DEADLINE.as_secs().to_string());
    output(namespace, &["ping", "-n", "-c", "1", "-W", &patience, &address], "");
}

/// Whether one echo comes back from `address` within a second: for what is tried again and again, and for what must
/// not come back.
pub fn answers(namespace: &Namespace, address: IpAddr) -> bool {
    attempt(namespace, &["ping", "-n", "-c", "1", "-W", "1", &address.to_string()], "").is_ok()
}
