//! Compares the kernel's own segments of superpackets inside UDP tunnels with ours, for encapsulations that the kernel
//! need not have an interface for: the test encapsulates, and the kernel only routes.
//!
//! ```text
//! superpacket ─┬─ TAP "feed" ─ kernel ─ "under" with offloads ─ write_segment ─┬─ compared
//!              └─ TAP "feed" ─ kernel ─ "under" without offloads ──────────────┘
//! ```
//!
//! Not a TUN: Linux 6.18 refuses superpackets in tunnels without an Ethernet header.

use std::fs::{File, OpenOptions};
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;

use laneway::netns::Namespace;
use laneway::offload::{TunDevice, VIRTIO_HEADER_LEN, VirtioHeader};
use laneway::packet::checksum::{Sum, pseudo_header_between};
use laneway::packet::protocol;
use laneway::sys::tun;
use nix::errno::Errno;

use super::device;
use super::random::Random;
use super::same_in_tunnel;
use super::superpacket::Case;
use super::tunnelled::read;
use crate::support::process::output;

/// The number of superpackets compared with each encapsulation.
const CASES: usize = 24;

/// The TAP's hardware address.
pub(super) const FEED: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// The longest packet in bytes: that of an IPv4 header's length.
const LONGEST: usize = 65_535;

/// What is between the outer UDP header and the inner IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrap {
    /// Geneve (RFC 8926) with this many bytes of options, and Ethernet.
    Geneve(usize),
    /// VXLAN (RFC 7348), and Ethernet with this many VLAN tags.
    VxlanTagged(usize),
    /// VXLAN-GPE, without Ethernet.
    VxlanGpe,
    /// GUE, without Ethernet.
    Gue,
}

const WRAPS: [Wrap; 6] = [
    Wrap::Geneve(0),
    Wrap::Geneve(60),
    Wrap::VxlanTagged(1),
    Wrap::VxlanTagged(2),
    Wrap::VxlanGpe,
    Wrap::Gue,
];

/// An encapsulation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tunnel {
    pub(super) wrap: Wrap,
    pub(super) outer6: bool,
    pub(super) checksum: bool,
}

/// From the TAP to a TUN.
pub(super) struct Path {
    _namespace: Namespace,
    pub(super) feed: File,
    pub(super) under: TunDevice,
}

/// Compares `CASES` superpackets in each kind of tunnel. The kernel must have UDP tunnel GSO.
pub(super) fn compare(random: &mut Random) {
    let [mut ours, mut kernels] = [true, false].map(Path::open);
    let (mut total, mut tunnels) = (0, 0);
    for wrap in WRAPS {
        for (outer6, checksum) in [(false, false), (false, true), (true, false), (true, true)] {
            let tunnel = Tunnel { wrap, outer6, checksum };
            let mut superpackets = 0;
            for number in 0..CASES {
                let (case, frame) = tunnel.case(random, number);
                let what = format!("{tunnel:?}, case {number}: {case:?}");
                for path in [&ours, &kernels] {
                    let written = nix::unistd::write(&path.feed, &frame);
                    assert_eq!(written, Ok(frame.len()), "the kernel refused a superpacket: {what}");
                }
                let (expected, _) = read(&mut kernels.under, case.segments(), &what);
                let (found, count) = read(&mut ours.under, case.segments(), &what);
                superpackets += count;
                total += found.len();
                same_in_tunnel(&found, &expected, case.kind, &what);
            }
            // Otherwise the kernel segmented them before they were read, and nothing was compared.
            assert_eq!(superpackets, CASES, "{tunnel:?}");
            tunnels += 1;
        }
    }
    println!(
        "{} superpackets in {tunnels} tunnels made by hand, {total} segments are equal",
        tunnels * CASES
    );
}

impl Tunnel {
    /// Returns a case of several segments, and the frame that carries it.
    pub(super) fn case(self, random: &mut Random, number: usize) -> (Case, Vec<u8>) {
        loop {
            let case = Case::any(random, number, true);
            let frame = self.frame(&case, random);
            if let Some(frame) = frame.filter(|_| case.segments() > 1) {
                return (case, frame);
            }
        }
    }

    /// Returns the virtio header, Ethernet, and the encapsulated superpacket. Returns `None` if it is too long.
    fn frame(self, case: &Case, random: &mut Random) -> Option<Vec<u8>> {
        let inner = case.frame();
        let (virtio, packet) = inner.split_at(VIRTIO_HEADER_LEN);
        let inner6 = packet[0] >> 4 == 6;
        let wrap = self.wrap.bytes(inner6);
        let udp_len = 8 + wrap.len() + packet.len();
        if self.outer_len() + udp_len > LONGEST {
            return None;
        }
        let (from, to): (IpAddr, IpAddr) = if self.outer6 {
            ("2001:db8:1::1".parse().unwrap(), "2001:db8:2::1".parse().unwrap())
        } else {
            ([198, 51, 100, 1].into(), [203, 0, 113, 1].into())
        };
        // As with the inner checksum, the field holds the sum of the pseudo header.
        let sum = pseudo_header_between(from, to, protocol::UDP, udp_len as u32).fold();
        let mut frame = [&FEED[..], &[2, 0, 0, 0, 0, 9]].concat();
        frame.extend(if self.outer6 { [0x86, 0xdd] } else { [0x08, 0x00] });
        let ip = frame.len();
        frame.extend(self.outer_header(from, to, udp_len as u16, random));
        let transport = frame.len();
        frame.extend([0x9c, 0x40]);
        frame.extend(self.wrap.port().to_be_bytes());
        frame.extend((udp_len as u16).to_be_bytes());
        frame.extend(if self.checksum { sum.to_be_bytes() } else { [0; 2] });
        frame.extend(wrap);
        let network = frame.len();
        frame.extend(packet);
        debug_assert_eq!(transport - ip, self.outer_len(), "the length of the outer IP header");

        let short = VirtioHeader::decode(virtio.try_into().unwrap());
        let of_tunnel =
            if self.outer6 { VirtioHeader::GSO_UDP_TUNNEL_IPV6 } else { VirtioHeader::GSO_UDP_TUNNEL_IPV4 };
        let sums = if self.checksum { VirtioHeader::UDP_TUNNEL_CSUM } else { 0 };
        let virtio = VirtioHeader {
            flags: short.flags | sums,
            gso_type: short.gso_type | of_tunnel,
            hdr_len: short.hdr_len + network as u16,
            csum_start: short.csum_start + network as u16,
            outer_transport: transport as u16,
            inner_network: network as u16,
            ..short
        };
        Some([&virtio.encode_long()[..], &frame].concat())
    }

    fn outer_len(self) -> usize {
        if self.outer6 { 40 } else { 20 }
    }

    fn outer_header(self, from: IpAddr, to: IpAddr, udp_len: u16, random: &mut Random) -> Vec<u8> {
        let octets = |address: IpAddr| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let class = random.next() as u8;
        if self.outer6 {
            let mut header = vec![0x60 | class >> 4, class << 4, 0, 0];
            header.extend(udp_len.to_be_bytes());
            header.extend([protocol::UDP, 64]);
            header.extend([octets(from), octets(to)].concat());
            return header;
        }
        let mut header = vec![0x45, class];
        header.extend((20 + udp_len).to_be_bytes());
        header.extend((random.next() as u16).to_be_bytes());
        header.extend([if random.one_in(2) { 0x40 } else { 0 }, 0, 64, protocol::UDP, 0, 0]);
        header.extend([octets(from), octets(to)].concat());
        let sum = Sum::of(&header).checksum();
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    }
}

impl Wrap {
    /// Returns the UDP port of the encapsulation.
    fn port(self) -> u16 {
        match self {
            Wrap::Geneve(_) => 6081,
            Wrap::VxlanTagged(_) => 4789,
            Wrap::VxlanGpe => 4790,
            Wrap::Gue => 6080,
        }
    }

    fn bytes(self, inner6: bool) -> Vec<u8> {
        let ethertype: [u8; 2] = if inner6 { [0x86, 0xdd] } else { [0x08, 0x00] };
        let macs = [2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 3];
        match self {
            Wrap::Geneve(options) => {
                let mut bytes = vec![(options / 4) as u8, 0, 0x65, 0x58, 0, 0, 7, 0];
                bytes.extend((0..options).map(|at| at as u8));
                [&bytes[..], &macs, &ethertype].concat()
            }
            Wrap::VxlanTagged(tags) => {
                let tag = [0x81, 0x00, 0x20, 0x09].repeat(tags);
                [&[8, 0, 0, 0, 0, 0, 7, 0], &macs[..], &tag, &ethertype].concat()
            }
            Wrap::VxlanGpe => vec![0x0c, 0, 0, if inner6 { 2 } else { 1 }, 0, 0, 7, 0],
            Wrap::Gue => vec![0, if inner6 { 41 } else { 4 }, 0, 0],
        }
    }
}

impl Path {
    pub(super) fn open(offload: bool) -> Path {
        let namespace = Namespace::create().unwrap();
        let (feed, under) = namespace.run(|| (tap("feed"), device::tun("under", offload))).unwrap();
        let ip = |words: &str| {
            output(&namespace, &[&["ip"], &words.split(' ').collect::<Vec<_>>()[..]].concat(), "");
        };
        for (file, value) in [
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/feed/rp_filter", "0"),
        ] {
            let write = || std::fs::write(format!("/proc/sys/net/{file}"), value);
            namespace.run(write).unwrap().unwrap();
        }
        ip("link set lo up");
        ip("link set feed address 02:00:00:00:00:01 up");
        ip("link set under up mtu 1600 txqueuelen 10000");
        for (network, device) in [
            ("198.51.100.0/24", "feed"),
            ("203.0.113.0/24", "under"),
            ("2001:db8:1::/48", "feed"),
            ("2001:db8:2::/48", "under"),
        ] {
            ip(&format!("route add {network} dev {device}"));
        }
        ip("address add 192.0.2.1/32 dev feed");
        Path { _namespace: namespace, feed, under }
    }
}

/// Opens a TAP that takes superpackets in UDP tunnels.
#[allow(unsafe_code)]
fn tap(name: &str) -> File {
    let file = OpenOptions::new().read(true).write(true).open("/dev/net/tun").unwrap();
    // `struct ifreq`: the name in 16 bytes, the flags.
    let mut request = [0_u8; size_of::<libc::ifreq>()];
    request[..name.len()].copy_from_slice(name.as_bytes());
    let flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as u16;
    request[16..18].copy_from_slice(&flags.to_ne_bytes());
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, whose size `request` has.
    let attached = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, request.as_mut_ptr()) };
    Errno::result(attached).unwrap();
    tun::set_header_len(&file, VirtioHeader::LONG).unwrap();
    let all = tun::offload::CSUM | tun::offload::TSO | tun::offload::USO | tun::offload::UDP_TUNNEL;
    tun::set_offload(&file, all).unwrap();
    file
}
