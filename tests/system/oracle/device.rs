//! TUN devices at the ends of the path: what is written to one comes out of another.

use std::os::fd::AsFd as _;
use std::sync::Arc;

use laneway::netns::Namespace;
use laneway::offload::{Offload, Read, TunDevice, VIRTIO_HEADER_LEN, VirtioHeader, open_queues};
use laneway::shutdown::Shutdown;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::superpacket::is_ours;
use crate::support::{DEADLINE, skip};

/// Opens a device with one queue in the namespace of this thread.
pub(super) fn tun(name: &str, offload: bool) -> TunDevice {
    open_queues(name, 1, offload, &Arc::new(Shutdown::new().unwrap())).unwrap()
}

/// Returns whether this kernel takes UDP superpackets (Linux 6.2 and later), and reports them as skipped if not.
pub(super) fn has_uso() -> bool {
    let namespace = Namespace::create().unwrap();
    let uso = namespace.run(|| tun("probe", true).offloads.udp).unwrap();
    if !uso {
        skip::report("UDP superpackets: this kernel (before 6.2) has no USO");
    }
    uso
}

/// Writes a frame built by [`Case::frame`](super::superpacket::Case::frame), whose virtio header is short.
pub(super) fn write(device: &TunDevice, frame: &[u8]) {
    let (header, packet) = frame.split_at(VIRTIO_HEADER_LEN);
    let more = if device.offloads.udp_tunnel { VirtioHeader::LONG - VIRTIO_HEADER_LEN } else { 0 };
    let frame = [header, &vec![0; more], packet].concat();
    let written = nix::unistd::write(device.queues[0].reader.as_fd(), &frame);
    assert_eq!(written, Ok(frame.len()), "the kernel refused a superpacket");
}

/// Reads the next `count` packets from a device without offloads.
pub(super) fn read(queue: &mut Offload, count: usize, what: &str) -> Vec<Vec<u8>> {
    let mut packets = Vec::with_capacity(count);
    while packets.len() < count {
        match queue.reader.read().unwrap() {
            Read::Packet(packet) => {
                packets.extend(is_ours(packet.packet()).then(|| packet.packet().to_vec()));
            }
            Read::Malformed(reason) => panic!("the kernel wrote a bad packet: {}", reason.label()),
            Read::Empty => {
                let mut fds = [PollFd::new(queue.reader.as_fd(), PollFlags::POLLIN)];
                let ready = poll(&mut fds, PollTimeout::try_from(DEADLINE).unwrap()).unwrap();
                assert!(ready > 0, "{} of {count} packets arrived: {what}", packets.len());
            }
        }
    }
    packets
}
