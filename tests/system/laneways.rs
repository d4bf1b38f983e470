//! Features between two Laneways, and their behaviour with another implementation: a suite of its own, a port per
//! lane, and the faster AEAD, which must be invisible to peers.

use std::net::{IpAddr, UdpSocket};

use crate::support::binary::Laneway;
use crate::support::ping::answers;
use crate::support::tunnel::{self, Family, PORT};
use crate::support::wireguard_go::WireGuardGo;
use crate::support::{bulk, exercise, lab, metrics, require_root, router, settled, wait_until};
use laneway::cli::demo::lab::Side;
use laneway::config::update::{PeerEndpoint, PeerUpdate};
use laneway::config::{Queues, SpreadPorts};
use laneway::router::start::Router;
use laneway::uapi::Device as _;
use laneway::wireguard::aead::Backend;
use laneway::wireguard::suite::Suite;

/// The number of lanes of each router.
const LANES: usize = 4;

/// The number of flows sent at once: enough that each lane of the sender gets some.
const FLOWS: usize = 64;

#[test]
fn two_laneways_set_to_aes_carry_everything() {
    require_root!();
    let lab = lab();
    let _routers =
        router::pair_with(&lab, Family::V4, |config| config.update.peers[0].suite = Some(Suite::Aes256Gcm));
    exercise(&lab);
}

#[test]
fn a_laneway_set_to_aes_and_one_that_is_not_exchange_nothing_and_say_why() {
    require_root!();
    let lab = lab();
    let [_left, right] = router::pair_with(&lab, Family::V4, |config| {
        let is_left = config.addresses.iter().any(|net| net.addr() == Family::V4.inside(1));
        config.update.peers[0].suite = is_left.then_some(Suite::Aes256Gcm);
        if !is_left {
            // MACs of the suite are recognised only where a peer uses it.
            let other = router::peer(router::key().public_key(), &[]);
            config.update.peers.push(PeerUpdate { suite: Some(Suite::Aes256Gcm), ..other });
        }
    });
    assert!(!answers(&lab.left.namespace, Family::V4.inside(2)));
    let refused = [("reason", "suite")];
    wait_until("a refused handshake", || {
        metrics::of(&right).sum("laneway_handshake_messages_dropped_total", &refused) > 0.0
    });
}

#[test]
fn the_fastest_aead_of_this_machine_speaks_with_wireguard_go() {
    require_root!();
    speaks_with_wireguard_go("auto", Backend::fastest());
}

/// Starts Laneway with `LANEWAY_AEAD` set to `choice`, and expects its startup line to name the backend `has`.
fn speaks_with_wireguard_go(choice: &str, has: Backend) {
    let lab = lab();
    let (left, right) = (
        Laneway::start(&lab.left, &[("LANEWAY_AEAD", choice), ("LANEWAY_QUEUES", "2")]),
        WireGuardGo::start(&lab.right),
    );
    tunnel::join(&lab, &left.device, &right.device, Family::V4);
    exercise(&lab);
    let said = left.process.said();
    assert!(said.contains(&format!("aead={has} ")), "{said}");
}

#[test]
fn each_lane_with_a_port_of_its_own_is_received_by_a_lane_of_its_own() {
    require_root!();
    let sides = |spread: &SpreadPorts| {
        let lab = lab();
        let routers = router::pair_with(&lab, Family::V4, |config| {
            config.queues = Queues::Fixed(LANES);
            config.spread_ports = spread.clone();
            config.aead = Backend::fastest();
        });
        wait_until("an echo", || answers(&lab.left.namespace, Family::V4.inside(2)));
        bulk(&lab.left, &lab.right, Family::V4.inside(2), 16, 2 << 20);
        bulk(&lab.right, &lab.left, Family::V6.inside(1), 16, 2 << 20);
        for router in &routers {
            let endpoint = router.device().status().expect("it runs").peers[0].endpoint;
            assert_eq!(endpoint.map(|endpoint| endpoint.port()), Some(PORT), "an endpoint moved");
        }
        (lab, routers)
    };
    let (_lab, routers) = sides(&SpreadPorts::Off);
    assert_eq!(routers.each_ref().map(lanes_that_received), [1, 1], "one pair of ports, one lane");
    let (lab, [left, right]) = sides(&SpreadPorts::All);
    for (from, host, router) in [(&lab.left, 2, &right), (&lab.right, 1, &left)] {
        wait_until("data on each lane", || {
            send_flows(from, Family::V4.inside(host));
            lanes_that_received(router) == LANES
        });
    }
}

#[test]
fn a_peer_with_spread_ports_is_found_when_it_comes_back_on_a_higher_port() {
    require_root!();
    let (lab, keys) = (lab(), [router::key(), router::key()]);
    let start = |own: usize, port: u16| {
        let sides = [&lab.left, &lab.right];
        let mut config = router::config(own as u8 + 1, &keys[own]);
        config.queues = Queues::Fixed(LANES);
        config.spread_ports = SpreadPorts::All;
        config.update.listen_port = Some(port);
        let address = format!("{}/32", Family::V4.inside(2 - own as u8));
        let mut peer = router::peer(keys[1 - own].public_key(), &[&address]);
        if own == 1 {
            peer.endpoint = Some(PeerEndpoint::Address(Family::V4.endpoint(&lab.left)));
        }
        config.update.peers = vec![peer];
        router::start(sides[own], &config)
    };
    let hub = start(0, PORT);
    // The second port is above the first one by less than a router can have lanes.
    for port in [PORT, PORT + 100] {
        let router = start(1, port);
        wait_until("an echo", || answers(&lab.right.namespace, Family::V4.inside(1)));
        let endpoint = hub.device().status().expect("it runs").peers[0].endpoint;
        assert_eq!(endpoint.map(|endpoint| endpoint.port()), Some(port));
        router.stop().expect("a clean stop");
    }
    hub.stop().expect("a clean stop");
}

#[test]
fn a_plain_peer_that_is_sent_to_from_many_ports_still_carries_everything() {
    require_root!();
    let lab = lab();
    let (left, right) = (
        Laneway::start(&lab.left, &[("LANEWAY_SPREAD_PORTS", "all"), ("LANEWAY_QUEUES", "3")]),
        WireGuardGo::start(&lab.right),
    );
    tunnel::join(&lab, &left.device, &right.device, Family::V6);
    exercise(&lab);
}

/// Sends one datagram of each of many flows; nothing has to listen.
fn send_flows(from: &Side, to: IpAddr) {
    from.namespace
        .run(|| {
            for _ in 0..FLOWS {
                let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
                socket.send_to(b"a flow", (to, 9)).expect("send");
            }
        })
        .expect("enter a namespace");
}

/// Returns how many lanes have received data.
fn lanes_that_received(router: &Router) -> usize {
    let segments = || {
        let metrics = metrics::of(router);
        let of = |lane: usize| {
            let lane = lane.to_string();
            let labels = [("queue", lane.as_str()), ("direction", "inbound")];
            metrics.sum("laneway_segments_total", &labels)
        };
        (0..LANES).map(of).collect::<Vec<_>>()
    };
    settled("the counts", segments).into_iter().filter(|segments| *segments > 0.0).count()
}
