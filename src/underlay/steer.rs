//! Assignment of datagrams to the sockets on one port, for senders that use one source port per lane.

use std::os::fd::AsFd as _;

use super::socket::UdpSocket;
use crate::sys::reuseport;

/// Makes the kernel select a socket among `sockets`, which share a port, by the datagram's source port
/// (offset by a hash of the source address) instead of by a hash of both addresses and ports.
///
/// If the lanes of a sender use consecutive source ports, each lane maps to a socket of its own, or
/// round robin if there are fewer sockets than lanes. With four lanes and four sockets, the kernel's hash
/// would leave at least one socket idle nine times in ten. A sender with one port maps to one socket, as
/// with the hash.
///
/// If the kernel refuses, logs so and leaves the hash in place.
pub fn steer(sockets: &[UdpSocket]) {
    let [first, _, ..] = sockets else { return };
    if let Err(error) = reuseport::pick_by_source(first.as_fd(), sockets.len() as u32) {
        tracing::info!("cannot select receive lanes by source port, using the kernel's hash: {error}");
    }
}
