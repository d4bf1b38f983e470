//! Offloads change how packets travel, not which packets arrive.
//!
//! ```text
//! superpackets ─ "feed" ─ kernel ─ lane0 ─ Laneway ═ UDP ═ Laneway ─ lane0 ─ kernel ─ "plain" ── compared
//! ```
//!
//! The same superpackets, each between two packets of its flow, take this path with all offloads, without those of
//! the TUN device, without those of the UDP socket, and without any.

use laneway::cli::demo::lab::{Lab, Side};
use laneway::config::Switch;
use laneway::config::update::AllowedIpChange;
use laneway::offload::{SuperpacketKind, TunDevice, VIRTIO_HEADER_LEN};
use laneway::packet::ip::transport;
use laneway::router::start::Router;

use super::device::{self, read, write};
use super::random::Random;
use super::superpacket::{Case, DESTINATIONS, SOURCES, occurs};
use super::{MTU, of_flow, same};
use crate::support::metrics::total;
use crate::support::network::{ip, sysctl};
use crate::support::ping::answers;
use crate::support::router::{DEVICE, key, pair_of};
use crate::support::tunnel::Family;
use crate::support::{lab, wait_until};

/// The number of superpackets sent each time.
const CASES: usize = 120;

/// The number of superpackets in flight, one per flow.
const FLOWS: usize = 4;

/// The depth of rings between workers, in batches: no more than that is in flight, so nothing is lost. Without
/// offloads a batch holds a few datagrams.
const INBOX: usize = 512;

/// Whether the offloads of the TUN device and of the socket are on.
const SETTINGS: [(Switch, Switch); 4] = [
    (Switch::Auto, Switch::Auto),
    (Switch::Off, Switch::Auto),
    (Switch::Auto, Switch::Off),
    (Switch::Off, Switch::Off),
];

/// Sends the same cases with each setting, and compares what arrives, byte for byte, with what arrived with all
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

/// Returns the packets with zero TCP checksums in one of their two notations. The kernel writes one when it sums a
/// packet (`skb_checksum_help`), and the other when it cuts a superpacket.
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

/// Two routers, and the devices at both ends of the path.
struct Path {
    tun: Switch,
    udp: Switch,
    uso: bool,
    feed: TunDevice,
    plain: TunDevice,
    routers: [Router; 2],
    // Dropped after its users.
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

    /// Returns what arrives of each case, in order.
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

    /// Asserts that the settings took effect; otherwise identical paths would be compared.
    fn has_kept_its_settings(&self) {
        let [left, right] = &self.routers;
        for kind in &SuperpacketKind::ALL[1..] {
            let label = ("kind", kind.label());
            let read = total(left, "laneway_tun_read_superpackets_total", &[label]);
            let written = total(right, "laneway_tun_write_superpackets_total", &[label]);
            let expected = self.tun.is_on() && occurs(*kind, self.uso);
            assert_eq!((read > 0, written > 0), (expected, expected), "{}", kind.label());
        }
        wait_until("sends grouped as configured", || {
            let of = |suffix| total(left, &format!("laneway_udp_run_segments_{suffix}"), &[]);
            (of("count") < of("sum")) == self.udp.is_on()
        });
    }
}

/// Opens a device at one end of the path.
fn device(side: &Side, name: &str, offload: bool) -> TunDevice {
    let device = side.namespace.run(|| device::tun(name, offload)).expect("enter a namespace");
    ip(side, &format!("link set {name} up mtu {MTU} txqueuelen 10000"));
    device
}
