//! Routes that lead to a peer's endpoint through the tunnel itself: looped packets are dropped, counted and
//! logged, and tunnels that merely look like loops keep working.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use crate::support::binary::Laneway;
use crate::support::metrics::total;
use crate::support::network::{cable, host, ip, sysctl};
use crate::support::ping::{answers, once};
use crate::support::process::output;
use crate::support::router::{self, DEVICE, config, key, peer};
use crate::support::tunnel::{Family, PORT, address};
use crate::support::wg::{self, KeyPair, Setting};
use crate::support::{bulk, lab, require_root, settled, wait_until};
use laneway::cli::demo::lab::{Lab, Side};
use laneway::config::update::{AllowedIpChange, PeerEndpoint, PeerUpdate};
use laneway::config::{RouterConfig, Table};
use laneway::router::start::Router;
use laneway::wireguard::keys::{PrivateKey, PublicKey};

/// The fwmark of a router whose own datagrams take a separate route.
const MARK: u32 = 7;

fn looped(router: &Router) -> u64 {
    let labels = [("direction", "outbound"), ("reason", "routing_loop")];
    total(router, "laneway_dropped_packets_total", &labels)
}

fn sealed(router: &Router) -> u64 {
    total(router, "laneway_segments_total", &[("direction", "outbound")])
}

fn allow(peer: &mut PeerUpdate, address: IpAddr) {
    peer.allowed_ips.push(AllowedIpChange { net: address.into(), remove: false });
}

/// Starts two routers over this IP version. The left one's allowed IPs include the right one's endpoint.
fn pair(lab: &Lab, outside: Family, mark: u32) -> [Router; 2] {
    let endpoint = outside.endpoint(&lab.right).ip();
    router::pair_of(lab, outside, &[key(), key()], |own, config| {
        config.table = Table::Off;
        if own == 0 {
            config.update.fwmark = Some(mark);
            allow(&mut config.update.peers[0], endpoint);
        }
    })
}

/// Adds or deletes a route into the tunnel.
fn route(side: &Side, what: &str, to: IpAddr) {
    let version = if to.is_ipv4() { "-4" } else { "-6" };
    ip(side, &format!("{version} route {what} {to} dev {DEVICE}"));
}

#[test]
fn datagrams_that_come_back_are_dropped_once_and_counted() {
    const DATAGRAMS: u64 = 200;
    require_root!();
    for outside in Family::ALL {
        let lab = lab();
        let [left, _right] = pair(&lab, outside, 0);
        let endpoint = outside.endpoint(&lab.right).ip();
        once(&lab.left.namespace, Family::V4.inside(2));
        assert_eq!(looped(&left), 0);

        let before = sealed(&left);
        route(&lab.left, "add", endpoint);
        let socket = lab.left.namespace.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
        // Small datagrams loop back whole; the kernel fragments large ones, or refuses them.
        for len in [16, 1392] {
            for _ in 0..DATAGRAMS {
                let _ = socket.send_to(&vec![0; len], (Family::V4.inside(2), 9));
            }
        }
        wait_until("the loop to be seen", || looped(&left) >= DATAGRAMS);
        let (drops, sealed) = settled("the loop to end", || (looped(&left), sealed(&left) - before));
        // Fragments other than the first are sealed once more, and go no further.
        assert!(sealed <= 6 * DATAGRAMS && drops <= sealed, "{drops} of {sealed} segments were dropped");

        route(&lab.left, "del", endpoint);
        wait_until("an echo", || answers(&lab.left.namespace, Family::V4.inside(2)));
        assert_eq!(looped(&left), drops, "packets still loop");
    }
}

#[test]
fn a_handshake_that_comes_back_is_dropped_and_the_log_says_whose_and_what_helps() {
    require_root!();
    let lab = lab();
    let keys = [KeyPair::generate(&lab.left), KeyPair::generate(&lab.right)];
    let left = Laneway::start(&lab.left, &[]);
    let right = Laneway::start(&lab.right, &[]);
    let endpoint = Family::V4.endpoint(&lab.right);
    let setting =
        |host: u8, endpoint| Setting { endpoint, ..Setting::new(&keys[usize::from(host) - 1], host) };
    wg::set(&lab.left, &left.device, &keys[0], &setting(2, Some(endpoint)));
    wg::set(&lab.right, &right.device, &keys[1], &setting(1, None));
    let (device, public) = (left.device.as_str(), keys[1].public.as_str());
    output(&lab.left.namespace, &["wg", "set", device, "peer", public, "allowed-ips", "0.0.0.0/0"], "");
    address(&lab.left, device, 1);
    address(&lab.right, &right.device, 2);
    ip(&lab.left, &format!("route add {} dev {device}", endpoint.ip()));

    assert!(!answers(&lab.left.namespace, Family::V4.inside(2)));
    wait_until("the warning", || left.process.said().contains("a routing loop: "));
    let said = left.process.said();
    let line = said.lines().find(|line| line.contains("a routing loop: ")).unwrap();
    for needed in [public, &endpoint.to_string(), "a route to 192.0.2.2", "fwmark"] {
        assert!(line.contains(needed), "{needed}: {line}");
    }
    let handshakes = left.process.said().matches("a routing loop: ").count();
    assert_eq!(handshakes, 1, "the warning was repeated");
    ip(&lab.left, &format!("route del {} dev {device}", endpoint.ip()));
    wait_until("an echo", || answers(&lab.left.namespace, Family::V4.inside(2)));
}

/// Returns the configuration of a router inside another one's tunnel, with one peer that may have `allowed`.
fn nested(
    device: &str,
    port: u16,
    own: (&str, &PrivateKey),
    other: (PublicKey, &str),
    at: Option<SocketAddr>,
) -> RouterConfig {
    let mut config = config(9, own.1);
    device.clone_into(&mut config.interface);
    // The overhead of two tunnels adds up, and the outer one has 1420.
    config.mtu = 1340;
    config.addresses = vec![own.0.parse().unwrap()];
    config.update.listen_port = Some(port);
    let mut peer = peer(other.0, &[other.1]);
    peer.endpoint = at.map(PeerEndpoint::Address);
    config.update.peers = vec![peer];
    config
}

/// Routes everything for the right one's endpoint through the tunnel, except packets with the mark.
fn lead_unmarked_into_tunnel(side: &Side, endpoint: IpAddr) {
    ip(side, &format!("route add {endpoint} dev {DEVICE} table 77"));
    ip(side, &format!("rule add pref 20 not fwmark {MARK} table 77"));
}

#[test]
fn a_tunnel_inside_of_the_tunnel_may_go_to_the_same_address() {
    const INNER: u16 = PORT + 1;
    require_root!();
    let lab = lab();
    let outer = pair(&lab, Family::V4, MARK);
    let endpoint = Family::V4.endpoint(&lab.right).ip();
    lead_unmarked_into_tunnel(&lab.left, endpoint);
    // The endpoint address of the outer tunnel itself, and another one.
    for at in [endpoint, Family::V4.inside(2)] {
        let keys = [key(), key()];
        let public = |side: usize| keys[side].public_key();
        let at = Some(SocketAddr::new(at, INNER));
        let left = nested("lane1", INNER, ("10.78.0.1/24", &keys[0]), (public(1), "10.78.0.2/32"), at);
        let right = nested("lane1", INNER, ("10.78.0.2/24", &keys[1]), (public(0), "10.78.0.1/32"), None);
        let inner = [router::start(&lab.left, &left), router::start(&lab.right, &right)];
        let inside = IpAddr::from([10, 78, 0, 2]);
        once(&lab.left.namespace, inside);
        let before = sealed(&outer[0]);
        bulk(&lab.left, &lab.right, inside, 2, 4 << 20);
        bulk(&lab.right, &lab.left, IpAddr::from([10, 78, 0, 1]), 2, 4 << 20);
        assert!(sealed(&outer[0]) > before + 1000, "the inner tunnel bypassed the outer one");
        assert_eq!((looped(&outer[0]), looped(&outer[1])), (0, 0));
        for router in inner {
            router.stop().unwrap();
        }
    }
}

/// The strictest case: the inner tunnel uses the same source port and the very same destination socket.
///
/// ```text
///   client 10.5.0.1 ── 10.5.0.254 left 192.0.2.1 ── 192.0.2.2 right
///   client ═══════════ in the tunnel of left and right ═══════════ right
/// ```
#[test]
fn a_peer_behind_us_may_have_a_tunnel_through_ours_between_the_same_ports() {
    require_root!();
    let lab = lab();
    let client = host([10, 5, 0, 1], "::");
    cable((&client, "lan", &["10.5.0.1/24"]), (&lab.left, "lan", &["10.5.0.254/24"]));
    ip(&client, "route add default via 10.5.0.254");
    sysctl(&lab.left, "ipv4/ip_forward", "1");
    let endpoint = Family::V4.endpoint(&lab.right);
    let (keys, of_client) = ([key(), key()], key());
    let [left, right] = router::pair_of(&lab, Family::V4, &keys, |own, config| {
        config.table = Table::Off;
        if own == 0 {
            config.update.fwmark = Some(MARK);
            allow(&mut config.update.peers[0], endpoint.ip());
        } else {
            allow(&mut config.update.peers[0], [10, 5, 0, 1].into());
            config.update.peers.push(peer(of_client.public_key(), &["10.78.0.1/32"]));
            config.addresses.push("10.78.0.2/24".parse().unwrap());
        }
    });
    lead_unmarked_into_tunnel(&lab.left, endpoint.ip());
    ip(&lab.right, &format!("route add 10.5.0.0/24 dev {DEVICE}"));
    let theirs = (keys[1].public_key(), "10.78.0.2/32");
    let config = nested(DEVICE, PORT, ("10.78.0.1/24", &of_client), theirs, Some(endpoint));
    let behind = router::start(&client, &config);

    let inside = IpAddr::from([10, 78, 0, 2]);
    once(&client.namespace, inside);
    let before = sealed(&left);
    bulk(&client, &lab.right, inside, 2, 4 << 20);
    bulk(&lab.right, &client, IpAddr::from([10, 78, 0, 1]), 2, 4 << 20);
    assert!(sealed(&left) > before + 1000, "the inner tunnel bypassed the outer one");
    assert_eq!((looped(&left), looped(&right), looped(&behind)), (0, 0, 0));
}
