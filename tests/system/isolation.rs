//! Packets that wait for a handshake reach the peer they are for, or nobody.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use crate::support::metrics::total;
use crate::support::router::{self, peer};
use crate::support::skip::require_root;
use crate::support::tunnel::{Family, PORT};
use crate::support::{lab, wait_until};
use laneway::cli::demo::lab::Lab;
use laneway::config::update::{AllowedIpChange, DeviceUpdate, PeerEndpoint, PeerUpdate};
use laneway::router::start::Router;
use laneway::uapi::Device as _;
use laneway::wireguard::keys::{PrivateKey, PublicKey};

/// A port of the other host that nobody listens on.
const NOBODY: u16 = 9;

/// The UDP port inside the tunnel.
const INNER: u16 = 4000;

/// The marks of datagrams: sent while the first peer was configured, and after that.
const BEFORE: u8 = 1;
const AFTER: u8 = 2;

/// How many packets wait.
const WAITING: u64 = 3;

/// The left router with a peer that does not answer, the right one with the key `right`.
struct Scene {
    lab: Lab,
    left: Router,
    _right: Router,
    right: PublicKey,
    from: UdpSocket,
    to: UdpSocket,
}

/// Starts both, with `absent` as the left one's only peer, and leaves packets for that one staged.
fn staged_for(absent: impl FnOnce(PublicKey) -> PublicKey) -> Scene {
    let lab = lab();
    let [left_key, right_key] = [router::key(), router::key()];
    let absent = absent(right_key.public_key());
    let mut left = router::config(1, &left_key);
    left.update.peers = vec![at(&lab, absent, &["10.77.0.2/32"], NOBODY)];
    let mut right = router::config(2, &right_key);
    right.update.peers = vec![peer(left_key.public_key(), &["10.77.0.1/32"])];
    let (left, running) = (router::start(&lab.left, &left), router::start(&lab.right, &right));
    let socket = |side: &laneway::cli::demo::lab::Side, host| {
        let address: SocketAddr = (Family::V4.inside(host), INNER).into();
        side.namespace.run(|| UdpSocket::bind(address)).unwrap().unwrap()
    };
    let (from, to) = (socket(&lab.left, 1), socket(&lab.right, 2));
    from.connect(to.local_addr().unwrap()).unwrap();
    for _ in 0..WAITING {
        from.send(&[BEFORE]).unwrap();
    }
    wait_until("the packets to be read", || {
        total(&left, "laneway_tun_read_superpackets_total", &[]) >= WAITING
    });
    Scene { lab, left, _right: running, right: right_key.public_key(), from, to }
}

/// A peer at a port of the right host.
fn at(lab: &Lab, key: PublicKey, allowed_ips: &[&str], port: u16) -> PeerUpdate {
    let mut endpoint = Family::V4.endpoint(&lab.right);
    endpoint.set_port(port);
    PeerUpdate { endpoint: Some(PeerEndpoint::Address(endpoint)), ..peer(key, allowed_ips) }
}

impl Scene {
    fn apply(&self, peers: Vec<PeerUpdate>) {
        self.left.device().apply(DeviceUpdate { peers, ..DeviceUpdate::default() }).unwrap();
    }

    fn dropped(&self, reason: &str) -> u64 {
        total(&self.left, "laneway_dropped_packets_total", &[("direction", "outbound"), ("reason", reason)])
    }

    /// The marks that arrive until one of `last` does.
    fn arrive_until(&self, last: u8) -> Vec<u8> {
        self.to.set_read_timeout(Some(crate::support::DEADLINE)).unwrap();
        let mut marks = Vec::new();
        while marks.last() != Some(&last) {
            let mut datagram = [0];
            self.to.recv(&mut datagram).expect("a datagram");
            marks.push(datagram[0]);
        }
        marks
    }
}

fn remove(key: PublicKey) -> PeerUpdate {
    PeerUpdate { remove: true, ..PeerUpdate::new(key) }
}

/// A key that nobody has.
fn stranger(_: PublicKey) -> PublicKey {
    PrivateKey::public_key(&router::key())
}

#[test]
fn packets_for_a_removed_peer_do_not_go_to_the_one_that_takes_its_place() {
    require_root!();
    for requests in [1, 2] {
        let mut removed = None;
        let scene = staged_for(|right| *removed.insert(stranger(right)));
        let heir = at(&scene.lab, scene.right, &["10.77.0.2/32"], PORT);
        let gone = remove(removed.unwrap());
        if requests == 1 {
            scene.apply(vec![gone, heir]);
        } else {
            scene.apply(vec![gone]);
            scene.apply(vec![heir]);
        }
        scene.from.send(&[AFTER]).unwrap();
        assert_eq!(scene.arrive_until(AFTER), [AFTER], "in {requests} requests");
        assert_eq!(scene.dropped("peer_removed"), WAITING);
    }
}

#[test]
fn a_removal_drops_what_waits_at_once() {
    require_root!();
    let mut removed = None;
    let scene = staged_for(|right| *removed.insert(stranger(right)));
    scene.apply(vec![remove(removed.unwrap())]);
    wait_until("the packets to be dropped", || scene.dropped("peer_removed") == WAITING);
}

#[test]
fn packets_whose_prefix_has_moved_wait_for_the_new_owner() {
    require_root!();
    // The right router is the first owner, at an address where nobody answers yet.
    let scene = staged_for(|right| right);
    let heir = at(&scene.lab, stranger(scene.right), &["10.77.0.2/32"], NOBODY);
    // Now it can be reached, and still has a prefix.
    let first = at(&scene.lab, scene.right, &["10.77.0.9/32"], PORT);
    scene.apply(vec![heir, PeerUpdate { persistent_keepalive: Some(1), ..first }]);
    wait_until("a handshake with the first owner", || {
        total(&scene.left, "laneway_handshakes_total", &[]) > 0
    });
    scene.to.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    assert!(scene.to.recv(&mut [0]).is_err(), "delivered to the peer that has lost the prefix");
    // They wait for the heir, and go where the prefix goes.
    let back = AllowedIpChange { net: "10.77.0.2/32".parse().unwrap(), remove: false };
    scene.apply(vec![PeerUpdate { allowed_ips: vec![back], ..PeerUpdate::new(scene.right) }]);
    scene.from.send(&[AFTER]).unwrap();
    assert_eq!(scene.arrive_until(AFTER), [BEFORE, BEFORE, BEFORE, AFTER]);
}
