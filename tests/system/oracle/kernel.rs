//! Compares the kernel's own segments of a superpacket with what comes through a router.
//!
//! ```text
//! out   superpacket ─┬─ "feed-a" ─ kernel ─ lane0 ─ Laneway ─ UDP ─ boringtun ── compared
//!                    └─ "feed-b" ─ kernel ─ "plain", without offloads ─────────┘
//! back  segments ─┬─ boringtun ─ UDP runs ─ Laneway ─ lane0 ─ kernel ─ "plain" ── compared
//!                 └────────────────────────── one hop later ────────────────────┘
//! ```
//!
//! Both ways out are one hop long, so even the TTL is equal.

use etherparse::Ipv4Header;
use laneway::netns::Namespace;
use laneway::offload::{SuperpacketKind, TunDevice};
use laneway::packet::Ipv4;
use laneway::router::start::Router;

use super::device::{self, read, write};
use super::peer::Peer;
use super::random::Random;
use super::superpacket::{Case, occurs};
use super::{MTU, of_flow, same};
use crate::support::metrics::total;
use crate::support::process::output;
use crate::support::router::DEVICE;

/// The number of superpackets compared each way.
const CASES: usize = 400;

/// The number of superpackets whose segments come back once more, interleaved.
const FLOWS: usize = 3;

/// The devices, the router, and its peer.
pub(super) struct Oracle {
    through_router: TunDevice,
    through_kernel: TunDevice,
    plain: TunDevice,
    router: Router,
    peer: Peer,
}

impl Oracle {
    /// Sets everything up; must be called inside `namespace`.
    pub(super) fn new(namespace: &Namespace) -> Oracle {
        let ip = |words: String| {
            output(namespace, &[&["ip"], &words.split(' ').collect::<Vec<_>>()[..]].concat(), "")
        };
        ip("link set lo up".into());
        let tun = |name: &str, offload| {
            let device = device::tun(name, offload);
            ip(format!("link set {name} up mtu {MTU} txqueuelen 10000"));
            device
        };
        let (through_router, through_kernel) = (tun("feed-a", true), tun("feed-b", true));
        let plain = tun("plain", false);
        let (router, peer) = Peer::join();
        // Superpackets longer than one UDP send must be correct too.
        ip(format!("link set {DEVICE} gso_max_segs 65535"));

        for (file, value) in
            [("ipv4/conf/all/rp_filter", "0"), ("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")]
        {
            std::fs::write(format!("/proc/sys/net/{file}"), value).unwrap();
        }
        for name in ["feed-a", "feed-b", DEVICE] {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), "0").unwrap();
        }
        for family in ["-4", "-6"] {
            ip(format!("{family} route add default dev {DEVICE} table 101"));
            ip(format!("{family} route add default dev plain table 102"));
            for (device, table) in [("feed-a", 101), ("feed-b", 102), (DEVICE, 102)] {
                ip(format!("{family} rule add iif {device} lookup {table}"));
            }
        }
        Oracle { through_router, through_kernel, plain, router, peer }
    }

    pub(super) fn compare(mut self, mut random: Random) {
        let uso = self.through_kernel.offloads.udp;
        let (mut segments, mut bytes) = (0, 0);
        let mut flows = Vec::new();
        for number in 0..CASES {
            let case = Case::any(&mut random, number, uso);
            let what = format!("case {number}: {case:?}");
            let frame = case.frame();
            write(&self.through_kernel, &frame);
            let kernels = read(&mut self.plain.queues[0], case.segments(), &format!("out, {what}"));
            write(&self.through_router, &frame);
            let ours = self.peer.open(case.segments(), &what);
            same(&ours, &kernels, &format!("out, {what}"));

            self.peer.send(&kernels);
            let back = format!("back, {what}");
            let expected: Vec<_> = kernels.iter().cloned().map(one_hop_later).collect();
            same(&read(&mut self.plain.queues[0], kernels.len(), &back), &expected, &back);
            segments += expected.len();
            bytes += expected.iter().map(Vec::len).sum::<usize>();
            flows.push(Flow { sent: kernels, expected });
            if flows.len() == FLOWS {
                self.compare_mixed(&flows, &format!("mixed, the last of them {what}"));
                flows.clear();
            }
        }
        println!("{CASES} superpackets, {segments} segments, {bytes} bytes are equal, each way");
        for kind in SuperpacketKind::ALL {
            let of = |family| total(&self.router, family, &[("kind", kind.label())]);
            let read = of("laneway_tun_read_superpackets_total");
            let written = of("laneway_tun_write_superpackets_total");
            println!("{}: the router read {read} and wrote {written}", kind.label());
            // Otherwise the kernel cut them before the router read them, and nothing was compared.
            assert_eq!((read > 0, written > 0), (occurs(kind, uso), occurs(kind, uso)), "{}", kind.label());
        }
    }

    /// Sends the segments of several flows back interleaved, each in its own datagram. Order between flows is not
    /// guaranteed.
    fn compare_mixed(&mut self, flows: &[Flow], what: &str) {
        let longest = flows.iter().map(|flow| flow.sent.len()).max().unwrap_or_default();
        for turn in 0..longest {
            for flow in flows {
                if let Some(packet) = flow.sent.get(turn) {
                    self.peer.send(std::slice::from_ref(packet));
                }
            }
        }
        let count = flows.iter().map(|flow| flow.sent.len()).sum();
        let written = read(&mut self.plain.queues[0], count, what);
        for flow in flows {
            same(&of_flow(&flow.expected[0], &written), &flow.expected, what);
        }
    }
}

/// The segments of one superpacket, and how they come back.
struct Flow {
    sent: Vec<Vec<u8>>,
    expected: Vec<Vec<u8>>,
}

/// Returns a packet as it is after one more router.
pub(super) fn one_hop_later(mut packet: Vec<u8>) -> Vec<u8> {
    if packet[0] >> 4 == 6 {
        packet[7] -= 1;
        return packet;
    }
    packet[8] -= 1;
    let header_len = Ipv4::new_checked(&packet[..]).unwrap().header_len();
    let checksum = Ipv4Header::from_slice(&packet[..header_len]).unwrap().0.calc_header_checksum();
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet
}
