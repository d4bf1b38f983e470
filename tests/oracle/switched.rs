//! Offloads change how packets travel and nothing about which ones arrive.
//!
//! ```text
//! superpackets ─ "feed" ─ kernel ─ lane0 ─ Laneway ═ UDP ═ Laneway ─ lane0 ─ kernel ─ "plain" ── compared
//! ```
//!
//! The same superpackets, each between two packets of its flow, go that way with all offloads, without those of the
//! TUN, without those of the UDP socket, and without any.

use laneway::cli::demo::lab::{Lab, Side};
use laneway::config::Switch;
use laneway::config::update::AllowedIpChange;
use laneway::offload::{SuperpacketKind, TunDevice, VIRTIO_HEADER_LEN};
use laneway::packet::ip::transport;
use laneway::router::start::Router;

use super::device::{self, read, write};
use super::random::Random;
use super::superpacket::{Case, DESTINATIONS, SOURCES, occurs};
use super::support::network::{ip, sysctl};
use super::support::ping::answers;
use super::support::router::{DEVICE, key, pair_of, total};
use super::support::tunnel::Family;
use super::support::{lab, wait_until};
use super::{MTU, of_flow, same};

/// Superpackets that are sent each time.
const CASES: usize = 120;

/// Superpackets on their way at one time, of a flow each.
const FLOWS: usize = 4;

/// Batches that wait between two workers: more than that is never on its way, so nothing is lost. Without offloads a
/// batch holds a few datagrams.
const INBOX: usize = 512;

/// Whether the TUN's offloads are on, and the socket's.
const SETTINGS: [(Switch, Switch); 4] = [
    (Switch::Auto, Switch::Auto),
    (Switch::Off, Switch::Auto),
    (Switch::Auto, Switch::Off),
    (Switch::Off, Switch::Off),
];

/// Sends the same cases with each setting, and compares byte for byte what arrives with what arrived with all
/// offloads.
pub(super) fn compare(random: &mut Random) {
    let uso = device::has_uso();
    let case = |number| Case::any(random, number, uso).with_neighbours();
    let cases: Vec<_> = (0..CASES).map(case).collect();
    let mut arrived = SETTINGS.map(|(tun, udp)| Path::new(tun, udp, uso).carry(&cases)).into_iter();
    let with_all = arrived.next().expect("four settings");
    for (flows, setting) in arrived.zip(&SETTINGS[1..]) {
        for ((flow, expected), case) in flows.iter().zip(&with_all).zip(&cases) {
            let [flow, expected] = [flow, expected].map(|packets| with_one_zero(packets));
            same(&flow, &expected, &format!("{setting:?}: {case:?}"));
        }
    }
    let packets: usize = with_all.iter().map(Vec::len).sum();
    println!("{CASES} flows, {packets} packets are equal with each of {} settings", SETTINGS.len());
}

/// The packets, with each TCP checksum that is zero in one of its two notations in the same one. The kernel
/// writes the one when it sums a packet (`skb_checksum_help`) and the other when it cuts a superpacket.
fn with_one_zero(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    const TCP: u8 = 6;
    const CHECKSUM: usize = 16;
    let mut packets = packets.to_vec();
    for packet in &mut packets {
        let transport = transport(packet).expect("a whole packet");
        if transport.protocol == TCP && packet[transport.offset + CHECKSUM..].starts_with(&[0xff; 2]) {
            packet[transport.offset + CHECKSUM..][..2].fill(0);
        }
    }
    packets
}

/// Two routers, and the devices at the ends of the way.
struct Path {
    tun: Switch,
    udp: Switch,
    uso: bool,
    feed: TunDevice,
    plain: TunDevice,
    routers: [Router; 2],
    // After its users.
    _lab: Lab,
}

impl Path {
    fn new(tun: Switch, udp: Switch, uso: bool) -> Path {
        let lab = lab();
        let routers = pair_of(&lab, Family::V4, &[key(), key()], |own, config| {
            (config.tun_offload, config.udp_offload) = (tun, udp);
            config.inbox_depth = Some(INBOX);
            let beyond = if own == 0 { DESTINATIONS } else { SOURCES };
            let allow = |net: &str| AllowedIpChange { net: net.parse().expect("a prefix"), remove: false };
            config.update.peers[0].allowed_ips.extend(beyond.map(allow));
        });
        for side in [&lab.left, &lab.right] {
            for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                sysctl(side, setting, "1");
            }
            for name in ["all", "default", DEVICE] {
                sysctl(side, &format!("ipv4/conf/{name}/rp_filter"), "0");
            }
        }
        let (feed, plain) = (device(&lab.left, "feed", true), device(&lab.right, "plain", false));
        for net in DESTINATIONS {
            ip(&lab.left, &format!("route replace {net} dev {DEVICE}"));
            ip(&lab.right, &format!("route replace {net} dev plain"));
        }
        wait_until("a session", || answers(&lab.left.namespace, Family::V4.inside(2)));
        Path { tun, udp, uso, feed, plain, routers, _lab: lab }
    }

    /// What comes of each case, in order.
    fn carry(mut self, cases: &[[Case; 3]]) -> Vec<Vec<Vec<u8>>> {
        let mut flows = Vec::with_capacity(cases.len());
        for together in cases.chunks(FLOWS) {
            for part in 0..3 {
                for case in together {
                    write(&self.feed, &case[part].frame());
                }
            }
            let count = together.iter().flatten().map(Case::segments).sum();
            let packets = read(&mut self.plain.queues[0], count, &format!("{together:?}"));
            for case in together {
                let one = &case[0].frame()[VIRTIO_HEADER_LEN..];
                flows.push(of_flow(one, &packets));
            }
        }
        self.has_kept_its_settings();
        flows
    }

    /// Otherwise the same is compared with the same.
    fn has_kept_its_settings(&self) {
        let [left, right] = &self.routers;
        for kind in &SuperpacketKind::ALL[1..] {
            let label = format!("kind=\"{}\"", kind.label());
            let read = total(left, "laneway_tun_read_superpackets_total", &[&label]);
            let written = total(right, "laneway_tun_write_superpackets_total", &[&label]);
            let expected = self.tun.is_on() && occurs(*kind, self.uso);
            assert_eq!((read > 0, written > 0), (expected, expected), "{label}");
        }
        wait_until("as many sends as datagrams, or fewer", || {
            let of = |suffix| total(left, &format!("laneway_udp_run_segments_{suffix}"), &[]);
            (of("count") < of("sum")) == self.udp.is_on()
        });
    }
}

/// A device at an end of the way.
fn device(side: &Side, name: &str, offload: bool) -> TunDevice {
    let device = side.namespace.run(|| device::tun(name, offload)).expect("enter a namespace");
    ip(side, &format!("link set {name} up mtu {MTU} txqueuelen 10000"));
    device
}
