//! The TUN queue against the kernel: devices, offloads, and what the kernel makes of our writes.
//!
//! Each test runs in a network namespace of its own thread, which the kernel removes with the thread. They need
//! root; `LANEWAY_SKIP_NETNS=1` skips them.

use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::sync::{Arc, Mutex};

use crate::support::{require_root, skip};
use etherparse::{PacketBuilder, TcpHeader};
use laneway::drops::DropReason;
use laneway::offload::{
    Limits, Offload, OpenError, QueueError, Read, Superpacket, SuperpacketKind, TunDevice, VirtioHeader,
    Window, inherit_queue, open_queues,
};
use laneway::shutdown::Shutdown;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};

mod tunnels;

/// Why tests of UDP superpackets are skipped.
const NO_USO: &str = "this kernel (before 6.2) has no USO";

/// Runs `test` in a new network namespace, one test at a time so that it can count descriptors.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    require_root!();
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // A skipped test is reported under the name of its thread.
    let named = std::thread::current().name().map(str::to_owned).unwrap_or_default();
    let thread = std::thread::Builder::new().name(named).spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        test();
    });
    let thread = thread.expect("a thread");
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn ip(words: &str) {
    let status = Command::new("ip").args(words.split(' ')).status().unwrap();
    assert!(status.success(), "ip {words}");
}

fn exists(name: &str) -> bool {
    Command::new("ip").args(["link", "show", name]).output().unwrap().status.success()
}

fn shutdown() -> Arc<Shutdown> {
    Arc::new(Shutdown::new().unwrap())
}

fn open(name: &str, queues: usize, offload: bool) -> TunDevice {
    open_queues(name, queues, offload, &shutdown()).unwrap()
}

/// Waits for the next packet that satisfies `wanted`, and returns its kind and segments. The kernel sends
/// neighbour discovery in between.
fn next(queue: &mut Offload, wanted: impl Fn(&Superpacket<'_>) -> bool) -> (SuperpacketKind, Vec<Vec<u8>>) {
    next_of(std::slice::from_mut(queue), wanted)
}

/// Like [`next`], from whichever queue the kernel picks.
fn next_of(
    queues: &mut [Offload],
    wanted: impl Fn(&Superpacket<'_>) -> bool,
) -> (SuperpacketKind, Vec<Vec<u8>>) {
    loop {
        for queue in &mut *queues {
            match queue.reader.read().unwrap() {
                Read::Packet(superpacket) if wanted(&superpacket) => {
                    return (superpacket.kind(), segments(&superpacket));
                }
                Read::Packet(_) | Read::Empty => {}
                Read::Malformed(reason) => panic!("the kernel wrote a bad packet: {}", reason.label()),
            }
        }
        let mut fds: Vec<_> =
            queues.iter().map(|queue| PollFd::new(queue.reader.as_fd(), PollFlags::POLLIN)).collect();
        let ready = poll(&mut fds, PollTimeout::from(10_000u16)).unwrap();
        assert!(ready > 0, "an expected packet did not arrive");
    }
}

fn segments(superpacket: &Superpacket<'_>) -> Vec<Vec<u8>> {
    let segment = |i| {
        let mut out = vec![0; superpacket.segment_len(i)];
        superpacket.write_segment(i, &mut out);
        out
    };
    (0..superpacket.segments()).map(segment).collect()
}

/// Opens two devices with a route from the first to the second. Packets written to the first come out of the
/// second as segments cut by the kernel, because the second has no offloads.
fn two_devices() -> (TunDevice, TunDevice) {
    let (first, second) = (open("first", 1, true), open("second", 1, false));
    for (name, number) in [("first", 1), ("second", 2)] {
        std::fs::write(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), "0").unwrap();
        ip(&format!("addr add 10.{number}.0.254/24 dev {name}"));
        ip(&format!("addr add fd00:{number}::fe/64 dev {name} nodad"));
        ip(&format!("link set {name} up"));
    }
    std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "0").unwrap();
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").unwrap();
    (first, second)
}

/// A packet routed from the first device to the second.
#[derive(Clone, Copy)]
struct Shape {
    v6: bool,
    ttl: u8,
    id: u16,
    sequence: u32,
    last: bool,
}

impl Shape {
    fn tcp(self, payload: &[u8]) -> Vec<u8> {
        let mut header = TcpHeader::new(1000, 2000, self.sequence, 512);
        (header.ack, header.acknowledgment_number) = (true, 7);
        (header.psh, header.fin) = (self.last, self.last);
        header.set_options_raw(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]).unwrap();
        let mut out = Vec::new();
        self.ip().tcp_header(header).write(&mut out, payload).unwrap();
        out
    }

    fn udp(self, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        self.ip().udp(1000, 2000).write(&mut out, payload).unwrap();
        out
    }

    fn ip(self) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
        let (a, b) = ([0xfd, 0, 0, 1], [0xfd, 0, 0, 2]);
        let v6 = |prefix: [u8; 4]| {
            let mut address = [0; 16];
            address[..4].copy_from_slice(&prefix);
            address[15] = 1;
            address
        };
        if self.v6 {
            PacketBuilder::ipv6(v6(a), v6(b), self.ttl)
        } else {
            let mut header =
                etherparse::Ipv4Header::new(0, self.ttl, 6.into(), [10, 1, 0, 1], [10, 2, 0, 1]).unwrap();
            (header.dont_fragment, header.identification) = (false, self.id);
            PacketBuilder::ip(etherparse::IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default()))
        }
    }

    /// Returns the offset of the transport header.
    fn transport(self) -> usize {
        if self.v6 { 40 } else { 20 }
    }
}

/// Returns whether a packet is routed from the first device, rather than sent by the kernel itself.
fn is_ours(packet: &Superpacket<'_>) -> bool {
    ["10.1.0.1", "fd00:1::1"].contains(&packet.source().to_string().as_str())
}

#[test]
fn every_queue_belongs_to_one_device_and_nobody_else_can_join_it() {
    in_namespace(|| {
        let device = open("lane%d", 3, true);
        assert_eq!(device.name, "lane0");
        assert_eq!(device.queues.len(), 3);
        let second = open_queues("lane0", 1, true, &shutdown());
        assert!(matches!(second, Err(OpenError::Busy { name }) if name == "lane0"));
        assert_eq!(open("lane%d", 1, false).name, "lane1");
        drop(device);
        assert!(!exists("lane0"));
    });
}

#[test]
fn dropping_a_device_leaves_no_descriptor_open() {
    in_namespace(|| {
        let count = || {
            std::fs::read_dir("/proc/self/fd")
                .unwrap()
                .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
                .filter(|target| target.ends_with("net/tun"))
                .count()
        };
        let before = count();
        let device = open("lane0", 4, true);
        assert_eq!(count(), before + 4);
        drop(device);
        assert!(matches!(open_queues("a name", 2, true, &shutdown()), Err(OpenError::Name { .. })));
        ip("tuntap add dev taken mode tun multi_queue");
        assert!(matches!(open_queues("taken", 2, true, &shutdown()), Err(OpenError::Busy { .. })));
        assert_eq!(count(), before);
    });
}

#[test]
fn added_queues_do_not_switch_udp_segmentation_off() {
    in_namespace(|| {
        let mut device = open("lane0", 4, true);
        assert!(device.offloads.tcp);
        if !device.offloads.udp {
            skip::report(NO_USO);
            return;
        }
        ip("addr add 10.1.0.1/24 dev lane0");
        ip("link set lane0 up");
        let payload: Vec<u8> = (0..4321u32).map(|i| i as u8).collect();
        let socket = UdpSocket::bind("10.1.0.1:0").unwrap();
        setsockopt(&socket, UdpGsoSegment, &1000).unwrap();
        socket.send_to(&payload, "10.1.0.2:9").unwrap();

        let (kind, packets) = next_of(&mut device.queues, |p| p.destination().to_string() == "10.1.0.2");
        assert_eq!(kind, SuperpacketKind::Uso4);
        let parts: Vec<_> = packets.iter().map(|packet| &packet[28..]).collect();
        assert_eq!(parts, payload.chunks(1000).collect::<Vec<_>>());
    });
}

#[test]
fn the_kernel_cuts_our_superpackets_into_the_very_segments_that_we_do() {
    in_namespace(|| {
        let (mut first, mut second) = two_devices();
        let (from, to) = (&mut first.queues[0], &mut second.queues[0]);
        let payload: Vec<u8> = (0..20_001u32).map(|i| (i * 13 + i / 256) as u8).collect();
        let size = 1301;
        let uso = first.offloads.udp;
        for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
            if !tcp && !uso {
                skip::report(NO_USO);
                continue;
            }
            let whole = Shape { v6, ttl: 64, id: 0xfffa, sequence: u32::MAX - 3000, last: true };
            let build =
                |shape: Shape, payload: &[u8]| if tcp { shape.tcp(payload) } else { shape.udp(payload) };
            let packet = build(whole, &payload);
            let header = packet.len() - payload.len();
            from.writer.write_gso(&packet[..header], payload.chunks(size), size).unwrap();

            // Our segments of the packet as it is after one hop, which the kernel is.
            let mut hop = build(Shape { ttl: 63, ..whole }, &payload);
            let gso_type = match (tcp, v6) {
                (true, false) => VirtioHeader::GSO_TCPV4,
                (true, true) => VirtioHeader::GSO_TCPV6,
                _ => VirtioHeader::GSO_UDP_L4,
            };
            let virtio = VirtioHeader {
                flags: VirtioHeader::NEEDS_CSUM,
                gso_type,
                gso_size: size as u16,
                csum_start: whole.transport() as u16,
                csum_offset: if tcp { 16 } else { 6 },
                hdr_len: header as u16,
                ..VirtioHeader::default()
            };
            let ours = segments(&Superpacket::parse(virtio, &mut hop).unwrap());
            assert_eq!(ours.len(), 16);
            for (i, expected) in ours.iter().enumerate() {
                let (kind, kernels) = next(to, is_ours);
                assert_eq!(kind, SuperpacketKind::None);
                assert_eq!(&kernels[0], expected, "segment {i}, tcp: {tcp}, v6: {v6}");
            }
        }
        let tally = from.writer.tally().take();
        let of_udp = u64::from(uso);
        assert_eq!(tally.superpackets, [0, 1, 1, of_udp, of_udp, 0]);
        let segments = 32 + 32 * of_udp;
        assert_eq!((tally.packets, tally.coalesced_segments), (segments, segments));
    });
}

#[test]
fn coalesced_packets_come_out_of_the_kernel_as_they_went_in() {
    in_namespace(|| {
        let (mut first, mut second) = two_devices();
        let (from, to) = (&mut first.queues[0], &mut second.queues[0]);
        for v6 in [false, true] {
            let build = |ttl: u8, i: u16| {
                let sequence = u32::from(i) * 1200;
                let shape = Shape { v6, ttl, id: 0xfff0u16.wrapping_add(i), sequence, last: false };
                let payload = vec![i as u8; 1200];
                if i.is_multiple_of(2) { shape.tcp(&payload) } else { shape.udp(&payload) }
            };
            // TCP has gaps in its sequence numbers and stays as it is; UDP has gaps in its identifications over
            // IPv4. So both ways of writing occur.
            let packets: Vec<_> = (0..40).map(|i| build(64, i)).collect();
            let mut window = Window::new(from.writer.limits());
            for packet in &packets {
                window.push(packet);
            }
            window.flush(&mut from.writer);
            let mut came: Vec<_> = (0..40).map(|_| next(to, is_ours).1.remove(0)).collect();
            let mut expected: Vec<_> = (0..40).map(|i| build(63, i)).collect();
            let merged = from.writer.tally().take().superpackets[SuperpacketKind::Uso6 as usize];
            assert_eq!(merged, u64::from(v6 && first.offloads.udp));
            // Two flows: order between flows is not guaranteed.
            came.sort_by_key(|packet| packet[protocol_at(v6)]);
            expected.sort_by_key(|packet| packet[protocol_at(v6)]);
            assert_eq!(came, expected);
        }
    });
}

/// Returns the offset of the protocol number.
fn protocol_at(v6: bool) -> usize {
    if v6 { 6 } else { 9 }
}

#[test]
fn a_superpacket_that_the_kernel_refuses_is_written_packet_by_packet_and_nothing_is_lost() {
    in_namespace(|| {
        let (mut first, mut second) = two_devices();
        let (from, to) = (&mut first.queues[0], &mut second.queues[0]);
        let build =
            |ttl: u8, i: u16| Shape { v6: true, ttl, id: 0, sequence: 0, last: false }.udp(&[i as u8; 100]);
        // More segments than any kernel accepts.
        let packets: Vec<_> = (0..200).map(|i| build(64, i)).collect();
        let mut window = Window::new(Limits { udp_segments: 200, ..Limits::SAFE });
        for packet in &packets {
            window.push(packet);
        }
        window.flush(&mut from.writer);
        for i in 0..200 {
            assert_eq!(next(to, is_ours).1, [build(63, i)], "packet {i}");
        }
        let tally = from.writer.tally().take();
        assert_eq!(tally.fallbacks, 1);
        assert_eq!(tally.errors.of(Errno::EINVAL), 1);
        assert_eq!((tally.packets, tally.coalesced_segments), (200, 0));
        assert_eq!(from.writer.limits(), Limits::NONE);
    });
}

#[test]
fn an_interface_that_is_down_costs_packets_but_not_the_queue() {
    in_namespace(|| {
        let (mut first, mut second) = two_devices();
        let (from, to) = (&mut first.queues[0], &mut second.queues[0]);
        let build = |ttl| Shape { v6: false, ttl, id: 0, sequence: 0, last: false }.udp(b"payload");
        ip("link set first down");
        from.writer.write(&build(64));
        let tally = from.writer.tally().take();
        assert_eq!(tally.drops.of(DropReason::InterfaceDown), 1);
        assert_eq!(tally.errors.of(Errno::EIO), 1);
        assert!(from.reader.read().is_ok());

        ip("link set first up");
        from.writer.write(&build(64));
        assert_eq!(next(to, is_ours).1, [build(63)]);
    });
}

#[test]
fn deleting_the_interface_closes_the_queue() {
    in_namespace(|| {
        let mut device = open("lane0", 2, true);
        ip("link del lane0");
        for queue in &mut device.queues {
            let mut fds = [PollFd::new(queue.reader.as_fd(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut fds, PollTimeout::from(10_000u16)), Ok(1), "the worker did not wake");
            assert!(matches!(queue.reader.read(), Err(QueueError::Closed)));
            queue.writer.write(&[0x45; 20]);
            assert_eq!(queue.writer.tally().drops.of(DropReason::TunWrite), 1);
        }
    });
}

#[test]
fn an_inherited_queue_works_like_one_that_was_opened_here() {
    in_namespace(|| {
        let opened = open("lane0", 1, true);
        let fd: OwnedFd = opened.queues[0].reader.as_fd().try_clone_to_owned().unwrap();
        drop(opened);
        let mut device = inherit_queue(fd, 2, true, &shutdown()).unwrap();
        assert_eq!((device.name.as_str(), device.queues.len()), ("lane0", 2));
        assert!(matches!(device.queues[0].reader.read(), Ok(Read::Empty)), "it does not block");
    });
}

#[test]
fn a_borrowed_read_can_be_written_back_at_once() {
    in_namespace(|| {
        let mut device = open("lane0", 1, true);
        ip("addr add 10.1.0.1/24 dev lane0");
        ip("link set lane0 up");
        let socket = UdpSocket::bind("10.1.0.1:0").unwrap();
        if device.offloads.udp {
            setsockopt(&socket, UdpGsoSegment, &1000).unwrap();
        }
        socket.send_to(&[1; 1400], "10.1.0.2:9").unwrap();
        let Offload { reader, writer, rejecter, .. } = &mut device.queues[0];
        let mut forwarded = 0;
        while forwarded == 0 {
            poll(&mut [PollFd::new(reader.as_fd(), PollFlags::POLLIN)], PollTimeout::from(10_000u16))
                .unwrap();
            if let Read::Packet(superpacket) = reader.read().unwrap()
                && superpacket.destination().to_string() == "10.1.0.2"
            {
                rejecter.self_forward(&superpacket);
                rejecter.write_reject(superpacket.packet());
                writer.write(superpacket.packet());
                forwarded = superpacket.segments() as u64;
            }
        }
        assert_eq!(rejecter.tally().packets, forwarded + 1);
        assert_eq!(writer.tally().packets, 1);
    });
}
