//! Routing inside and outside: a default route through the tunnel, several addresses, longest prefix match.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use super::{Tunnel, endpoint_of_peer, mobile, reaches};
use crate::support::implementation::Kind;
use crate::support::network::{cable, host, ip};
use crate::support::ping::answers;
use crate::support::process::output;
use crate::support::tunnel::{self, Family, PORT};
use crate::support::wg::{self, KeyPair, Setting};
use crate::support::{bulk, lab, require_root, wait_until};

/// The fwmark of the tunnel's own datagrams.
const MARK: &str = "51820";

/// The implementations at the spokes.
const SPOKES: [Kind; 2] = [Kind::Laneway("1"), Kind::WireGuardGo];

/// Routes everything through the tunnel, as `wg-quick` does: only the tunnel's own datagrams, which have the mark,
/// take the real default route.
#[test]
fn with_a_mark_the_default_route_can_lead_through_the_tunnel() {
    require_root!();
    let lab = lab();
    // The peer is behind the real default route.
    for address in ["198.51.100.2/32", "203.0.113.7/32"] {
        ip(&lab.right, &format!("address add {address} dev lo"));
    }
    ip(&lab.left, &format!("route add default via {}", lab.right.underlay4));
    for other in mobile() {
        let tunnel = Tunnel::new(&lab.left, &lab.right, other, "198.51.100.2:51820");
        let device = tunnel.left.device();
        reaches(&lab.left, 2);
        tunnel.tell_left(&lab.left, &["allowed-ips", "0.0.0.0/0"]);
        output(&lab.left.namespace, &["wg", "set", device, "fwmark", MARK], "");
        ip(&lab.left, &format!("route add default dev {device} table {MARK}"));
        ip(&lab.left, &format!("rule add pref 20 not fwmark {MARK} table {MARK}"));
        ip(&lab.left, "rule add pref 10 table main suppress_prefixlength 0");

        let world = IpAddr::from([203, 0, 113, 7]);
        let sent = || wg::peers(&lab.left, device)[0].sent;
        let before = sent();
        wait_until("an echo", || answers(&lab.left.namespace, world));
        bulk(&lab.left, &lab.right, world, 1, 4 << 20);
        assert!(sent() > before + (4 << 20), "the inner tunnel bypassed the outer one");

        // Without the mark the tunnel's own datagrams would be routed into the tunnel.
        output(&lab.left.namespace, &["wg", "set", device, "fwmark", "0"], "");
        wait_until("the loop", || !answers(&lab.left.namespace, world));
        output(&lab.left.namespace, &["wg", "set", device, "fwmark", MARK], "");
        wait_until("an echo", || answers(&lab.left.namespace, world));
        ip(&lab.left, "rule del pref 20");
        ip(&lab.left, "rule del pref 10");
    }
}

/// The right host has two addresses of each IP version, and two cables. It answers from the address it was asked
/// at.
#[test]
fn a_host_with_several_addresses_answers_from_the_one_that_was_asked() {
    require_root!();
    let left = host([192, 0, 2, 1], "2001:db8::1");
    let right = host([192, 0, 2, 2], "2001:db8::2");
    cable(
        (&left, "one", &["192.0.2.1/24", "2001:db8::1/64"]),
        (&right, "one", &["192.0.2.2/24", "2001:db8::2/64", "192.0.2.22/24", "2001:db8::22/64"]),
    );
    cable(
        (&left, "two", &["198.51.100.1/24", "2001:db8:2::1/64"]),
        (&right, "two", &["198.51.100.2/24", "2001:db8:2::2/64"]),
    );
    let tunnel = Tunnel::new(&left, &right, Kind::Laneway("1"), "192.0.2.2:51820");
    reaches(&left, 2);
    let asked =
        ["192.0.2.22", "198.51.100.2", "192.0.2.2", "[2001:db8::22]", "[2001:db8:2::2]", "[2001:db8::2]"];
    for address in asked {
        let endpoint = format!("{address}:{PORT}");
        tunnel.tell_left(&left, &["endpoint", &endpoint]);
        reaches(&left, 2);
        bulk(&right, &left, Family::V4.inside(1), 1, 1 << 20);
        assert_eq!(
            endpoint_of_peer(&left, tunnel.left.device()),
            endpoint,
            "the answers came from elsewhere"
        );
    }
    // The address in use is removed, then its cable goes down: the next best one takes over, and the peer follows.
    for (gone, endpoint) in [
        ("address del 192.0.2.1/24 dev one", "192.0.2.2:51820"),
        ("link set two down", "[2001:db8::2]:51820"),
    ] {
        tunnel.tell_left(&left, &["endpoint", endpoint]);
        reaches(&left, 2);
        ip(&left, gone);
        if gone.starts_with("address") {
            ip(&left, "address add 192.0.2.77/24 dev one");
        }
        reaches(&left, 2);
        bulk(&left, &right, Family::V4.inside(2), 1, 1 << 20);
    }
}

/// A hub with two spokes that share an inside address: the spoke that receives a datagram shows who owns the
/// address.
#[test]
fn a_packet_goes_to_the_peer_with_the_longest_prefix_whatever_was_there_before() {
    require_root!();
    let hub = host([192, 0, 2, 1], "2001:db8::1");
    let spokes = [host([192, 0, 2, 2], "2001:db8::2"), host([198, 51, 100, 2], "2001:db8:2::2")];
    cable((&hub, "one", &["192.0.2.1/24"]), (&spokes[0], "one", &["192.0.2.2/24"]));
    cable((&hub, "two", &["198.51.100.1/24"]), (&spokes[1], "two", &["198.51.100.2/24"]));
    let at_hub = Kind::Laneway("1").start(&hub);
    let device = at_hub.device();
    let keys = [KeyPair::generate(&hub), KeyPair::generate(&hub), KeyPair::generate(&hub)];
    let words = ["wg", "set", device, "private-key", "/dev/stdin", "listen-port", "51820"];
    output(&hub.namespace, &words, &keys[0].private);
    tunnel::address(&hub, device, 1);
    for words in ["10.88.0.0/16", "fd88::/16"] {
        ip(&hub, &format!("route add {words} dev {device}"));
    }
    let shared: [IpAddr; 2] =
        [Ipv4Addr::new(10, 88, 0, 9).into(), Ipv6Addr::new(0xfd88, 0, 0, 0, 0, 0, 0, 9).into()];
    let mut running = Vec::new();
    let mut ears: Vec<Vec<UdpSocket>> = vec![Vec::new(), Vec::new()];
    for (number, other) in SPOKES.into_iter().enumerate() {
        let (spoke, host_number) = (&spokes[number], number as u8 + 2);
        let peer = other.start(spoke);
        wg::set(spoke, peer.device(), &keys[number + 1], &Setting::new(&keys[0], 1));
        tunnel::address(spoke, peer.device(), host_number);
        for address in shared {
            let whole = if address.is_ipv4() { 32 } else { 128 };
            spoke.address(peer.device(), address, whole).expect("an address");
            let ear = spoke.namespace.run(|| UdpSocket::bind((address, 9999))).expect("enter");
            let ear = ear.expect("a socket");
            ear.set_nonblocking(true).expect("an option");
            ears[number].push(ear);
        }
        let endpoint = format!("{}:{PORT}", spoke.underlay4);
        let allowed = tunnel::allowed_ips(host_number);
        let public = &keys[number + 1].public;
        let words = ["wg", "set", device, "peer", public, "endpoint", &endpoint, "allowed-ips", &allowed];
        output(&hub.namespace, &words, "");
        reaches(&hub, host_number);
        running.push(peer);
    }
    let allow = |spoke: usize, more: &str| {
        let allowed = format!("{}{more}", tunnel::allowed_ips(spoke as u8 + 2));
        output(
            &hub.namespace,
            &["wg", "set", device, "peer", &keys[spoke + 1].public, "allowed-ips", &allowed],
            "",
        );
    };
    let mouth = hub.namespace.run(|| UdpSocket::bind("[::]:0")).expect("enter").expect("a socket");
    // A datagram goes to one peer only, so the one that receives it is the owner.
    let mut number = 0_u64;
    let mut hears = |expected: usize| {
        for (family, address) in shared.iter().enumerate() {
            let to = match address {
                IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), 9999),
                IpAddr::V6(_) => SocketAddr::new(*address, 9999),
            };
            number += 1;
            let mut room = [0; 8];
            let ear = &ears[expected][family];
            wait_until(&format!("{address} at spoke {expected}"), || {
                mouth.send_to(&number.to_be_bytes(), to).expect("send");
                ear.recv(&mut room).is_ok() && u64::from_be_bytes(room) == number
            });
        }
    };
    allow(0, ",0.0.0.0/0,::/0");
    hears(0);
    allow(1, ",10.88.0.0/16,fd88::/16");
    hears(1);
    allow(0, ",0.0.0.0/0,::/0,10.88.0.0/24,fd88::/64");
    hears(0);
    allow(1, ",10.88.0.9/32,fd88::9/128");
    hears(1);
    // The same prefix moves, and its old owner does not get it back when the new one loses it.
    allow(0, ",0.0.0.0/0,::/0,10.88.0.9/32,fd88::9/128");
    hears(0);
    allow(0, "");
    allow(1, ",0.0.0.0/0,::/0");
    hears(1);
    for host_number in [2, 3] {
        reaches(&hub, host_number);
    }
}
