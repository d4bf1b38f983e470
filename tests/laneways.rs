//! What is there for two Laneways only, and what becomes of it when the other one is none: a suite of its own,
//! ports of its own for each lane; and the faster AEAD, which nobody else may notice.

mod support;

use std::net::{IpAddr, UdpSocket};

use laneway::cli::demo::lab::Side;
use laneway::config::{Queues, SpreadPorts};
use laneway::router::start::Router;
use laneway::uapi::Device as _;
use laneway::wireguard::aead::Backend;
use laneway::wireguard::suite::Suite;
use support::binary::Laneway;
use support::ping::answers;
use support::tunnel::{self, Family, PORT};
use support::wireguard_go::WireGuardGo;
use support::{bulk, exercise, lab, require_root, routers, settled, wait_until};

/// Lanes of each router.
const LANES: usize = 4;

/// Flows that are sent at once, so that no lane of the sender is left out for long.
const FLOWS: usize = 64;

#[test]
fn two_laneways_set_to_aes_carry_everything() {
    if !require_root() {
        return;
    }
    let lab = lab();
    let _routers = routers::start(&lab, |config| config.update.peers[0].suite = Some(Suite::Aes256Gcm));
    exercise(&lab);
}

#[test]
fn a_laneway_set_to_aes_and_one_that_is_not_exchange_nothing_and_say_why() {
    if !require_root() {
        return;
    }
    let lab = lab();
    let [_left, right] = routers::start(&lab, |config| {
        let is_left = config.addresses.iter().any(|net| net.addr() == Family::V4.inside(1));
        config.update.peers[0].suite = is_left.then_some(Suite::Aes256Gcm);
    });
    assert!(!answers(&lab.left.namespace, Family::V4.inside(2)));
    let refused = [("reason", "suite")];
    wait_until("a refused handshake", || {
        routers::metrics(&right).sum("laneway_handshake_messages_dropped_total", &refused) > 0.0
    });
}

#[test]
fn the_fastest_aead_of_this_machine_speaks_with_wireguard_go() {
    if !require_root() {
        return;
    }
    speaks_with_wireguard_go("auto", Backend::fastest());
}

/// What is asked for, and what its line at the start says it has.
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
    if !require_root() {
        return;
    }
    let sides = |spread: &SpreadPorts| {
        let lab = lab();
        let routers = routers::start(&lab, |config| {
            config.queues = Queues::Fixed(LANES);
            config.spread_ports = spread.clone();
            config.aead = Backend::fastest();
        });
        wait_until("an echo", || answers(&lab.left.namespace, Family::V4.inside(2)));
        bulk(&lab.left, &lab.right, Family::V4.inside(2), 16, 2 << 20);
        bulk(&lab.right, &lab.left, Family::V6.inside(1), 16, 2 << 20);
        for router in &routers {
            let endpoint = router.device().status().expect("it runs").peers[0].endpoint;
            assert_eq!(endpoint.map(|endpoint| endpoint.port()), Some(PORT), "nobody has moved");
        }
        (lab, routers)
    };
    let (_lab, routers) = sides(&SpreadPorts::Off);
    assert_eq!(routers.each_ref().map(lanes_that_received), [1, 1], "one pair of ports, one lane");
    let (lab, [left, right]) = sides(&SpreadPorts::All);
    for (from, host, router) in [(&lab.left, 2, &right), (&lab.right, 1, &left)] {
        wait_until("something for each lane", || {
            send_flows(from, Family::V4.inside(host));
            lanes_that_received(router) == LANES
        });
    }
}

#[test]
fn a_plain_peer_that_is_sent_to_from_many_ports_still_carries_everything() {
    if !require_root() {
        return;
    }
    let lab = lab();
    let (left, right) = (
        Laneway::start(&lab.left, &[("LANEWAY_SPREAD_PORTS", "all"), ("LANEWAY_QUEUES", "3")]),
        WireGuardGo::start(&lab.right),
    );
    tunnel::join(&lab, &left.device, &right.device, Family::V6);
    exercise(&lab);
}

/// Sends a datagram of each of many flows; nobody has to listen.
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

/// How many lanes have received data.
fn lanes_that_received(router: &Router) -> usize {
    let segments = || {
        let metrics = routers::metrics(router);
        let of = |lane: usize| {
            let lane = lane.to_string();
            let labels = [("queue", lane.as_str()), ("direction", "inbound")];
            metrics.sum("laneway_segments_total", &labels)
        };
        (0..LANES).map(of).collect::<Vec<_>>()
    };
    settled("the counts", segments).into_iter().filter(|segments| *segments > 0.0).count()
}
