//! An overlay over the tunnel, as Kubernetes networks build one: on each node a bridge, two pods in namespaces of
//! their own, and a VXLAN device whose datagrams cross the tunnel.
//!
//! ```text
//! pod ─┐                                                         ┌─ pod
//! pod ─┴─ bridge ─ VXLAN ─ TUN ─ router ─ cable ─ router ─ TUN ─ VXLAN ─ bridge ─┴─ pod
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use crate::support::binary::Laneway;
use crate::support::metrics::total;
use crate::support::network::{cable, host, ip};
use crate::support::ping::once;
use crate::support::process::{attempt, output};
use crate::support::router::{DEVICE, pair, pair_with};
use crate::support::tunnel::{Family, join};
use crate::support::{DEADLINE, bulk, lab, require_root, skip, wait_until};
use laneway::cli::demo::lab::{CABLE, Lab, Side};
use laneway::offload::open_queues;
use laneway::router::start::Router;
use laneway::shutdown::Shutdown;
use nix::sys::socket::{setsockopt, sockopt};

/// Payload bytes of each UDP datagram.
const DATAGRAM: usize = 1200;

/// A node's pods.
type Pods = [Side; 2];

/// How the nodes encapsulate.
#[derive(Clone, Copy, Debug)]
struct Overlay {
    outer: Family,
    /// Words for `ip link add`.
    options: &'static str,
    /// The MTU that the kernel gives the VXLAN device.
    mtu: usize,
}

const OVERLAYS: [Overlay; 4] = [
    Overlay { outer: Family::V4, options: "noudpcsum", mtu: 1370 },
    Overlay { outer: Family::V4, options: "udpcsum", mtu: 1370 },
    Overlay { outer: Family::V6, options: "udp6zerocsumtx udp6zerocsumrx", mtu: 1350 },
    Overlay { outer: Family::V6, options: "noudp6zerocsumtx", mtu: 1350 },
];

impl Overlay {
    /// Adds bridge, VXLAN device and pods to a node whose router runs. The VXLAN device's MTU stays what the kernel
    /// makes of the tunnel's.
    fn add(self, node: &Side, number: u8) -> Pods {
        self.add_over(DEVICE, node, number)
    }

    /// Like [`add`](Self::add), over another tunnel device.
    fn add_over(self, device: &str, node: &Side, number: u8) -> Pods {
        let Overlay { outer, options, .. } = self;
        let (local, remote) = (outer.inside(number), outer.inside(3 - number));
        ip(
            node,
            &format!(
                "link add vx type vxlan id 7 dstport 4789 local {local} remote {remote} dev {device} {options}"
            ),
        );
        ip(node, "link add bridge type bridge");
        ip(node, "link set vx master bridge up");
        let shown = output(&node.namespace, &["ip", "-oneline", "link", "show", "vx"], "");
        assert!(shown.contains(&format!(" mtu {} ", self.mtu)), "{self:?}: {shown}");
        let pods = [0, 1].map(|pod| {
            let addresses = Family::ALL.map(|inner| pod_address(inner, number, pod));
            let side = host([0; 4], "::");
            let [v4, v6] = addresses.map(|address| address.to_string());
            let port = format!("port{pod}");
            cable((node, &port, &[]), (&side, "eth0", &[&format!("{v4}/16"), &format!("{v6}/64")]));
            ip(node, &format!("link set {port} master bridge mtu {}", self.mtu));
            ip(&side, &format!("link set eth0 mtu {}", self.mtu));
            side
        });
        ip(node, "link set bridge up");
        pods
    }

    /// Removes what [`add`](Self::add) added to both nodes.
    fn remove(lab: &Lab) {
        for node in [&lab.left, &lab.right] {
            for device in ["vx", "port0", "port1", "bridge"] {
                ip(node, &format!("link del {device}"));
            }
        }
    }
}

fn pod_address(inner: Family, node: u8, pod: u8) -> IpAddr {
    match inner {
        Family::V4 => Ipv4Addr::new(10, 244, node, 10 + pod).into(),
        Family::V6 => Ipv6Addr::new(0xfd24, 0, 0, 0, 0, 0, node.into(), u16::from(pod) + 0x10).into(),
    }
}

#[test]
fn pods_of_two_nodes_reach_each_other_over_tcp_and_udp() {
    require_root!();
    let lab = lab();
    let routers = pair(&lab, Family::V4);
    let granted = has_tunnel_gso(&lab);
    for overlay in OVERLAYS {
        let (read, written) = (read(&routers), written(&routers));
        let pods = [overlay.add(&lab.left, 1), overlay.add(&lab.right, 2)];
        for (from, to) in [(0, 1), (1, 0)] {
            for inner in Family::ALL {
                let pod = usize::from(inner == Family::V6);
                let (sender, receiver) = (&pods[from][pod], &pods[to][1 - pod]);
                let address = pod_address(inner, to as u8 + 1, 1 - pod as u8);
                once(&sender.namespace, address);
                bulk(sender, receiver, address, 2, 8 << 20);
                datagrams(sender, receiver, address);
            }
        }
        let superpackets = self::read(&routers) - read;
        assert!(!granted || superpackets > 100, "{overlay:?}: {superpackets} superpackets in tunnels");
        let merged = self::written(&routers) - written;
        assert!(merged > 100, "{overlay:?}: {merged} merged datagrams written");
        Overlay::remove(&lab);
    }
}

#[test]
fn the_switch_leaves_datagrams_without_checksum_as_they_are() {
    require_root!();
    let lab = lab();
    let routers = pair_with(&lab, Family::V4, |config| config.tunnel_merge = laneway::config::Switch::Off);
    let [plain, sums, ..] = OVERLAYS;
    for (overlay, merges) in [(plain, false), (sums, true)] {
        let before = written(&routers);
        let pods = [overlay.add(&lab.left, 1), overlay.add(&lab.right, 2)];
        let address = pod_address(Family::V4, 2, 0);
        bulk(&pods[0][0], &pods[1][0], address, 1, 8 << 20);
        assert_eq!(written(&routers) > before, merges, "{overlay:?}");
        Overlay::remove(&lab);
    }
}

/// Superpackets of pods have more segments than fit one UDP send. With the limit that local TCP profits from, the kernel
/// would segment them before they are read.
#[test]
fn an_overlay_lifts_the_limit_of_segments() {
    require_root!();
    let lab = lab();
    if !has_tunnel_gso(&lab) {
        return;
    }
    let routers = [&lab.left, &lab.right].map(|side| Laneway::start(side, &[]));
    let [left, right] = [0, 1].map(|at: usize| &*routers[at].device);
    join(&lab, left, right, Family::V4);
    once(&lab.left.namespace, Family::V4.inside(2));
    let limit = || output(&lab.left.namespace, &["ip", "-details", "link", "show", left], "");
    assert!(limit().contains("gso_max_segs 45 "), "{}", limit());
    let pods = [OVERLAYS[0].add_over(left, &lab.left, 1), OVERLAYS[0].add_over(right, &lab.right, 2)];
    wait_until("the limit to be lifted", || {
        bulk(&pods[0][0], &pods[1][0], pod_address(Family::V4, 2, 0), 1, 1 << 20);
        limit().contains("gso_max_segs 65535 ")
    });
}

/// An outer IPv6 packet, and an outer IPv4 one with "don't fragment", must not be fragmented. The router answers such a
/// packet, and the kernel's VXLAN passes the answer on to the pod.
#[test]
fn a_pod_hears_that_the_path_has_narrowed() {
    const BYTES: u64 = 8 << 20;
    // The cable's MTU leaves less than the tunnel's MTU: 1450 - 60 for WireGuard, UDP and IPv4.
    const CABLE_MTU: usize = 1450;
    const PATH: usize = CABLE_MTU - 60;
    require_root!();
    let lab = lab();
    let routers = pair(&lab, Family::V4);
    let [plain, _, _, v6] = OVERLAYS;
    for (overlay, overhead) in [(Overlay { options: "noudpcsum df set", ..plain }, 50), (v6, 70)] {
        let pods = [overlay.add(&lab.left, 1), overlay.add(&lab.right, 2)];
        for inner in Family::ALL {
            let (pod, address) = (&pods[0][0], pod_address(inner, 2, 0));
            for side in [&lab.left, &lab.right] {
                ip(side, &format!("link set {CABLE} mtu 1500"));
            }
            once(&pod.namespace, address);
            bulk(pod, &pods[1][0], address, 1, BYTES);
            for side in [&lab.left, &lab.right] {
                ip(side, &format!("link set {CABLE} mtu {CABLE_MTU}"));
            }
            // A connection that begins with the long segments that no longer fit.
            bulk(pod, &pods[1][0], address, 1, BYTES);
            let expected = format!("mtu {}", PATH - overhead);
            let size = if inner == Family::V4 { 28 } else { 48 };
            let size = (overlay.mtu - size).to_string();
            let words = ["ping", "-n", "-c", "1", "-W", "1", "-M", "do", "-s", &size, &address.to_string()];
            wait_until("an answer to the pod", || {
                let _ = attempt(&pod.namespace, &words, "");
                let route = ["ip", "route", "get", &address.to_string()];
                output(&pod.namespace, &route, "").contains(&expected)
            });
        }
        Overlay::remove(&lab);
    }
    assert!(total(&routers[0], "laneway_rejects_total", &[("kind", "too_big")]) > 0);
}

/// Returns how many superpackets in tunnels the routers have read.
fn read(routers: &[Router; 2]) -> u64 {
    routers
        .iter()
        .map(|router| total(router, "laneway_tun_read_superpackets_total", &[("kind", "udp_tunnel")]))
        .sum()
}

/// Returns how many UDP superpackets the routers have written.
fn written(routers: &[Router; 2]) -> u64 {
    let of = |router, kind| total(router, "laneway_tun_write_superpackets_total", &[("kind", kind)]);
    routers.iter().map(|router| of(router, "uso4") + of(router, "uso6")).sum()
}

/// Returns whether this kernel has UDP tunnel GSO on a TUN, and reports superpackets in tunnels as skipped if not.
fn has_tunnel_gso(lab: &Lab) -> bool {
    let open = || open_queues("probe", 1, true, &Arc::new(Shutdown::new().unwrap())).unwrap();
    let granted = lab.left.namespace.run(|| open().offloads.udp_tunnel).unwrap();
    if !granted {
        skip::report("superpackets in tunnels: this kernel (before 6.17) has no UDP tunnel GSO on a TUN");
    }
    granted
}

/// Sends runs of UDP datagrams (UDP GSO), each numbered and with bytes that follow from its number. Each run must arrive
/// whole, in order and unchanged.
fn datagrams(from: &Side, to: &Side, address: IpAddr) {
    const RUN: u32 = 20;
    const RUNS: u32 = 50;
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let bind = |side: &Side| {
        let socket = side.namespace.run(|| UdpSocket::bind(any)).unwrap().unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket
    };
    let (here, there) = (bind(from), bind(to));
    let grouped =
        setsockopt(&here, sockopt::UdpGsoSegment, &i32::try_from(DATAGRAM).expect("a small number")).is_ok();
    here.connect((address, there.local_addr().unwrap().port())).unwrap();
    let datagram = |number: u32| {
        let mut bytes = vec![number as u8; DATAGRAM];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        bytes
    };
    let mut buffer = vec![0; 2 * DATAGRAM];
    for run in 0..RUNS {
        let numbers = run * RUN..(run + 1) * RUN;
        let bytes: Vec<u8> = numbers.clone().flat_map(datagram).collect();
        for part in bytes.chunks(if grouped { bytes.len() } else { DATAGRAM }) {
            here.send(part).unwrap();
        }
        for number in numbers {
            let len = there.recv(&mut buffer).expect("every datagram of the run");
            assert_eq!(buffer[..len], datagram(number), "datagram {number} to {address}");
        }
    }
    there.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    assert!(there.recv(&mut buffer).is_err(), "a datagram arrived twice");
}
