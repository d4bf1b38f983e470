//! Finds out whether the kernel's TUN takes superpackets inside UDP tunnels.
//!
//! Linux granted the offload in both directions from 6.17 on, but `virtio_net_hdr_tnl_to_skb`
//! (`include/linux/virtio_net.h`) wants room for an Ethernet header before the outer IP header, which a TUN does not
//! have, and refuses such a superpacket with `EINVAL`.

use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::unistd;
use tracing::debug;

use super::assemble::assemble_tunnel;
use super::error::OpenError;
use super::open::{attach, clone_device, os};
use super::virtio::VirtioHeader;
use crate::sys::tun::{self, DeviceFlags, offload};

/// Name of the interface; the kernel replaces `%d` with a number.
const NAME: &str = "lwprobe%d";

/// Headers of TCP in VXLAN. The addresses are loopback's: the kernel drops such packets from any other interface.
#[rustfmt::skip]
const HEADER: [u8; 90] = [
    // Outer IPv4 and UDP, with a checksum.
    0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1,
    0x9c, 0x40, 0x12, 0xb5, 0, 0, 0, 1,
    // VXLAN and Ethernet.
    8, 0, 0, 0, 0, 0, 0, 0,
    2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00,
    // Inner IPv4 and TCP.
    0x45, 0, 0, 0, 0, 1, 0, 0, 64, 6, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1,
    0x9c, 0x40, 0x9c, 0x40, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 2, 0, 0, 0, 0, 0,
];

/// Offset of the inner IP header in [`HEADER`].
const INNER: usize = 50;

/// Payload bytes of a segment.
const SEGMENT: usize = 8;

/// The kernel's answer, which holds for the life of the process, and for processes that continue with its interface.
static ANSWER: OnceLock<bool> = OnceLock::new();

/// Returns whether the kernel takes superpackets inside UDP tunnels; `None` if it was not tried, or did not tell.
pub fn tried_tunnels() -> Option<bool> {
    ANSWER.get().copied()
}

/// Takes the answer that another process got from the same kernel, if any, so that it is not asked again.
pub(super) fn learn(answer: Option<bool>) {
    if let Some(answer) = answer {
        ANSWER.get_or_init(|| answer);
    }
}

/// Returns whether the kernel takes superpackets inside UDP tunnels; `false` if that cannot be found out.
///
/// Writes one to an interface of its own, which is removed at once. The interface is never up, so nothing that is
/// written to it goes further.
pub(super) fn takes_tunnels() -> bool {
    if let Some(answer) = ANSWER.get() {
        return *answer;
    }
    match interface().map(|queue| answer(&queue)) {
        Ok(Some(answer)) => *ANSWER.get_or_init(|| answer),
        Ok(None) => false,
        Err(error) => {
            debug!(%error, "cannot try superpackets inside UDP tunnels; none are written to the TUN");
            false
        }
    }
}

/// Creates an interface with all offloads. It is deleted with its queue.
fn interface() -> Result<OwnedFd, OpenError> {
    let queue = clone_device()?;
    attach(&queue, NAME, DeviceFlags::QUEUE.with(DeviceFlags::EXCLUSIVE))?;
    let all = offload::CSUM | offload::TSO | offload::USO | offload::UDP_TUNNEL;
    tun::set_header_len(&queue, VirtioHeader::LONG)
        .and_then(|()| tun::set_offload(&queue, all))
        .map_err(|errno| os("TUNSETOFFLOAD", errno))?;
    Ok(queue)
}

/// Returns whether a superpacket passes the kernel's checks, or `None` if the kernel does not tell.
fn answer(queue: &OwnedFd) -> Option<bool> {
    let good = superpacket();
    let mut bad = good;
    bad[1] |= VirtioHeader::GSO_UDP_TUNNEL_IPV4 | VirtioHeader::GSO_UDP_TUNNEL_IPV6;
    match [good, bad].map(|frame| passes(unistd::write(queue, &frame))) {
        // Both versions at once are no valid type, so here the kernel has not looked at the headers.
        [_, Some(true)] => None,
        [answer, _] => answer,
    }
}

/// Interprets the result of a write to an interface that is down.
fn passes(written: Result<usize, Errno>) -> Option<bool> {
    match written {
        // The kernel checks headers first, and then whether the interface is up (`tun_get_user` in `drivers/net/tun.c`).
        Ok(_) | Err(Errno::EIO) => Some(true),
        Err(Errno::EINVAL) => Some(false),
        Err(_) => None,
    }
}

/// Returns a superpacket of two segments, with its virtio header.
fn superpacket() -> [u8; VirtioHeader::LONG + HEADER.len() + 2 * SEGMENT] {
    let mut frame = [0; VirtioHeader::LONG + HEADER.len() + 2 * SEGMENT];
    let payloads = [&[0; SEGMENT][..]; 2];
    assemble_tunnel(&mut frame, &HEADER, INNER, payloads, SEGMENT).expect("the headers are valid");
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offload::{Superpacket, SuperpacketKind};

    #[test]
    fn what_is_written_is_a_superpacket_in_a_tunnel() {
        let mut frame = superpacket();
        let (header, packet) = frame.split_first_chunk_mut().unwrap();
        let whole = Superpacket::parse(VirtioHeader::decode_long(header), packet).unwrap();
        assert_eq!((whole.kind(), whole.segments()), (SuperpacketKind::UdpTunnel, 2));
    }

    #[test]
    fn only_a_refusal_of_the_headers_is_a_no() {
        assert_eq!(passes(Err(Errno::EINVAL)), Some(false));
        assert_eq!(passes(Err(Errno::EIO)), Some(true));
        assert_eq!(passes(Ok(100)), Some(true));
        assert_eq!(passes(Err(Errno::ENOBUFS)), None);
    }
}
