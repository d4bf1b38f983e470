//! Compares the kernel's own segments of superpackets inside UDP tunnels with ours.
//!
//! ```text
//! superpacket ─┬─ "feed" ─ kernel ─ VXLAN or Geneve ─ "under" with offloads ─ write_segment ─┬─ compared
//!              └─ "feed" ─ kernel ─ VXLAN or Geneve ─ "under" without offloads ──────────────┘
//! ```
//!
//! The two paths are in namespaces of their own, with equal devices.

use laneway::netns::Namespace;
use laneway::offload::{Read, SuperpacketKind, TunDevice};
use laneway::packet::checksum::Sum;
use laneway::packet::{Ipv4, ip};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};

use super::device::{self, write};
use super::merged;
use super::random::Random;
use super::same_in_tunnel;
use super::superpacket::Case;
use super::wrapped;
use crate::support::process::output;
use crate::support::{DEADLINE, skip};

/// The number of superpackets compared in each tunnel.
const CASES: usize = 48;

/// The UDP port of both encapsulations here.
const PORT: u16 = 4789;

/// One way of encapsulating.
#[derive(Clone, Copy, Debug)]
struct Tunnel {
    kind: &'static str,
    outer6: bool,
    checksum: bool,
    vlan: bool,
}

/// From a TUN through a tunnel to another TUN.
struct Path {
    _namespace: Namespace,
    feed: TunDevice,
    under: TunDevice,
}

/// Compares `CASES` superpackets in each kind of tunnel.
pub(super) fn compare(random: &mut Random) {
    let probe = Namespace::create().unwrap();
    if !probe.run(|| device::tun("probe", true).offloads.udp_tunnel).unwrap() {
        skip::report("superpackets in UDP tunnels: this kernel (before 6.17) has no UDP tunnel GSO on a TUN");
        return;
    }
    let mut tunnels = Vec::new();
    for kind in ["vxlan", "geneve"].into_iter().filter(|kind| exists(&probe, kind)) {
        for outer6 in [false, true] {
            for checksum in [false, true] {
                tunnels.push(Tunnel { kind, outer6, checksum, vlan: false });
            }
        }
    }
    if exists(&probe, "vlan") {
        tunnels.push(Tunnel { kind: "vxlan", outer6: false, checksum: false, vlan: true });
    }
    let (mut total, count) = (0, tunnels.len());
    for tunnel in tunnels {
        let [mut ours, mut kernels] = [true, false].map(|offload| Path::open(tunnel, offload));
        let mut superpackets = 0;
        for number in 0..CASES {
            let case = Case::any(random, number, true);
            let what = format!("{tunnel:?}, case {number}: {case:?}");
            let frame = case.frame();
            write(&ours.feed, &frame);
            write(&kernels.feed, &frame);
            let (expected, _) = read(&mut kernels.under, case.segments(), &what);
            let (found, seen) = read(&mut ours.under, case.segments(), &what);
            superpackets += seen;
            total += found.len();
            same_in_tunnel(&found, &expected, case.kind, &what);
        }
        // Otherwise the kernel segmented them before they were read, and nothing was compared.
        assert!(superpackets > CASES / 2, "{superpackets} superpackets in {tunnel:?}");
    }
    println!("{} superpackets in {count} tunnels, {total} segments are equal", count * CASES);
    wrapped::compare(random);
    merged::compare(random);
}

/// Returns whether this kernel has interfaces of this kind, and reports them as skipped if not.
fn exists(namespace: &Namespace, kind: &str) -> bool {
    let added = |words: String| {
        let status =
            namespace.run(|| Command::new("ip").args(words.split(' ')).stderr(Stdio::null()).status());
        status.unwrap().unwrap().success()
    };
    let exists = match kind {
        "vlan" => added("link add tag0 link lo type vlan id 9".into()),
        _ => added(format!("link add {kind}0 type {kind} id 9 remote 192.0.2.9 dstport 9")),
    };
    if !exists {
        skip::report(format!("superpackets in {kind}: this kernel has no such interfaces"));
    }
    exists
}

impl Path {
    fn open(tunnel: Tunnel, offload: bool) -> Path {
        let namespace = Namespace::create().unwrap();
        let (feed, under) =
            namespace.run(|| (device::tun("feed", true), device::tun("under", offload))).unwrap();
        let ip = |words: &str| {
            output(&namespace, &[&["ip"], &words.split_whitespace().collect::<Vec<_>>()[..]].concat(), "");
        };
        let write = |file: &str, value: &str| {
            namespace.run(|| std::fs::write(format!("/proc/sys/net/{file}"), value)).unwrap().unwrap();
        };
        for (file, value) in [
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/feed/rp_filter", "0"),
        ] {
            write(file, value);
        }
        ip("link set lo up");
        ip("link set feed up mtu 1420");
        ip("link set under up mtu 1600 txqueuelen 10000");
        ip("address add 192.0.2.1/24 dev under");
        ip("address add 2001:db8::1/64 dev under nodad");
        let (local, remote) =
            if tunnel.outer6 { ("2001:db8::1", "2001:db8::2") } else { ("192.0.2.1", "192.0.2.2") };
        let checksum = match (tunnel.outer6, tunnel.checksum) {
            (false, true) => "udpcsum",
            (false, false) => "noudpcsum",
            (true, true) => "noudp6zerocsumtx",
            (true, false) => "udp6zerocsumtx",
        };
        let source =
            if tunnel.kind == "vxlan" { format!("local {local} srcport 40000 40001") } else { String::new() };
        let kind = tunnel.kind;
        ip(&format!("link add over type {kind} id 7 remote {remote} {source} dstport {PORT} {checksum}"));
        ip("link set over address 02:00:00:00:00:01 mtu 1424 up");
        let inner = if tunnel.vlan {
            ip("link add link over name tagged type vlan id 9");
            "tagged"
        } else {
            "over"
        };
        ip(&format!("link set {inner} mtu 1420 up"));
        ip(&format!("address add 10.9.0.1/24 dev {inner}"));
        ip(&format!("address add fd09::1/64 dev {inner} nodad"));
        ip(&format!("neigh add 10.9.0.2 lladdr 02:00:00:00:00:02 dev {inner}"));
        ip(&format!("neigh add fd09::2 lladdr 02:00:00:00:00:02 dev {inner}"));
        ip(&format!("route add 10.2.0.0/16 via 10.9.0.2 dev {inner}"));
        ip(&format!("route add fd00:2::/32 via fd09::2 dev {inner}"));
        Path { _namespace: namespace, feed, under }
    }
}

/// Reads the next `count` segments. Returns them with outer identifications relative to that of the first, and
/// the number of superpackets that were read.
pub(super) fn read(under: &mut TunDevice, count: usize, what: &str) -> (Vec<Vec<u8>>, usize) {
    let (mut segments, superpackets) = read_unchanged(under, count, what);
    let first = segments.first().map_or(0, |segment| id(segment));
    for segment in &mut segments {
        rebase(segment, first);
    }
    (segments, superpackets)
}

/// Like [`read`], with the identifications and header checksums that the segments have.
pub(super) fn read_unchanged(under: &mut TunDevice, count: usize, what: &str) -> (Vec<Vec<u8>>, usize) {
    let (mut segments, mut superpackets) = (Vec::new(), 0);
    while segments.len() < count {
        let queue = &mut under.queues[0];
        match queue.reader.read().unwrap() {
            Read::Packet(packet) if carries_case(packet.packet()) => {
                superpackets += usize::from(packet.kind() == SuperpacketKind::UdpTunnel);
                for i in 0..packet.segments() {
                    let mut segment = vec![0; packet.segment_len(i)];
                    packet.write_segment(i, &mut segment);
                    segments.push(segment);
                }
            }
            Read::Packet(_) => {}
            Read::Malformed(reason) => {
                panic!("the kernel wrote a bad packet: {}, {what}", reason.label())
            }
            Read::Empty => {
                let mut fds = [PollFd::new(queue.reader.as_fd(), PollFlags::POLLIN)];
                let ready = poll(&mut fds, PollTimeout::try_from(DEADLINE).unwrap()).unwrap();
                assert!(ready > 0, "{} of {count} segments arrived: {what}", segments.len());
            }
        }
    }
    (segments, superpackets)
}

/// Returns whether a packet of the tunnel carries one of a case, rather than one of the kernel's own.
fn carries_case(packet: &[u8]) -> bool {
    let inner = [[10, 1, 0, 1].as_slice(), &[0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]];
    ip::transport(packet).is_some_and(|transport| transport.protocol == 17)
        && inner
            .iter()
            .any(|source| packet[..packet.len().min(180)].windows(source.len()).any(|at| at == *source))
}

/// Returns the outer IPv4 identification; zero for IPv6.
fn id(packet: &[u8]) -> u16 {
    Ipv4::new_checked(packet).map_or(0, |header| header.id())
}

/// Makes the outer IPv4 identification relative to `first`: the kernel chooses that at random. The header checksum
/// must be correct, and is cleared.
fn rebase(packet: &mut [u8], first: u16) {
    let id = id(packet).wrapping_sub(first);
    if packet[0] >> 4 == 4 {
        assert_eq!(Sum::of(&packet[..20]).checksum(), 0, "the outer header checksum");
        packet[4..6].copy_from_slice(&id.to_be_bytes());
        packet[10..12].fill(0);
    }
}
