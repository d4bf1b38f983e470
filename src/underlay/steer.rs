//! Which of the sockets on one port gets a datagram, where the sender spreads its lanes over ports.

use std::os::fd::AsFd as _;

use super::socket::UdpSocket;
use crate::sys::reuseport;

/// Makes lane i of a sender that sends from consecutive ports meet a socket of its own among `sockets`, which share
/// a port: one to one if there are as many sockets as lanes, in turn if not. The kernel's hash would, of four lanes
/// and four sockets, leave a socket without any nine times in ten. A sender with one port meets one socket,
/// as by the hash.
///
/// A kernel that refuses goes on with its hash, and the log says so.
pub fn steer(sockets: &[UdpSocket]) {
    let [first, _, ..] = sockets else { return };
    if let Err(error) = reuseport::pick_by_source(first.as_fd(), sockets.len() as u32) {
        tracing::info!("the kernel's hash picks the lane of what arrives: {error}");
    }
}
