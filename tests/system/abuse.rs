//! An attacker on the path replays, alters and truncates datagrams, sends from forged addresses, or is a peer that
//! lies about its identity. The sans-IO tests of `laneway::wireguard` cover this message by message; these use
//! real sockets, where it also matters where an answer goes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crate::support::metrics::total;
use crate::support::network::ip;
use crate::support::ping::{self, answers};
use crate::support::router::{self, DEVICE};
use crate::support::tunnel::{Family, PORT};
use crate::support::{Finally, lab, require_root, settled, wait_until};
use laneway::cli::demo::lab::{CABLE, Lab, Side};
use laneway::config::update::{DeviceUpdate, PeerEndpoint, PeerUpdate};
use laneway::router::start::Router;
use laneway::uapi::Device as _;
use laneway::wireguard::keys::PrivateKey;
use laneway::wireguard::messages::{DATA_HEADER, DATA_OVERHEAD, Kind};

/// Two routers with an attacker between them that sees and forwards every datagram. The left router has the
/// attacker's address as its peer's endpoint and initiates; the right one learns that address as its peer's
/// endpoint.
struct Tapped {
    lab: Lab,
    left: Router,
    right: Router,
    keys: [PrivateKey; 2],
    tap: UdpSocket,
    /// The datagrams seen, in order, and whether each went to the right.
    seen: Mutex<Vec<(bool, Vec<u8>)>>,
}

impl Tapped {
    fn new() -> Tapped {
        let lab = lab();
        let tap = bind(&lab.left, "192.0.2.1:4000");
        tap.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        let keys = [router::key(), router::key()];
        let endpoints = [Some(PeerEndpoint::Address(tap.local_addr().expect("bound"))), None];
        let [left, right] = router::pair_of(&lab, Family::V4, &keys, |own, config| {
            config.update.peers[0].endpoint.clone_from(&endpoints[own]);
        });
        Tapped { lab, left, right, keys, tap, seen: Mutex::default() }
    }

    /// Changes the endpoint of the router's peer that has the key of this index.
    fn tell(&self, router: &Router, peer: usize, endpoint: PeerEndpoint) {
        let peer = PeerUpdate { endpoint: Some(endpoint), ..PeerUpdate::new(self.keys[peer].public_key()) };
        let update = DeviceUpdate { peers: vec![peer], ..DeviceUpdate::default() };
        router.device().apply(update).expect("an endpoint");
    }

    fn right_endpoint(&self) -> SocketAddr {
        Family::V4.endpoint(&self.lab.right)
    }

    /// Forwards everything until `scene` returns.
    fn play<T>(&self, scene: impl FnOnce() -> T) -> T {
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| self.carry(&over));
            // A failing scene must not leave the forwarding thread running.
            let _end = Finally(&over);
            scene()
        })
    }

    fn carry(&self, over: &AtomicBool) {
        let (left, right) = (Family::V4.endpoint(&self.lab.left), self.right_endpoint());
        let mut room = vec![0; 65_536];
        while !over.load(Relaxed) {
            let Ok((len, from)) = self.tap.recv_from(&mut room) else { continue };
            let to_right = from == left;
            self.seen.lock().expect("no panic").push((to_right, room[..len].to_vec()));
            let _ = self.tap.send_to(&room[..len], if to_right { right } else { left });
        }
    }

    fn left_reaches_right(&self) -> bool {
        answers(&self.lab.left.namespace, Family::V4.inside(2))
    }

    /// Returns the number of handshakes that the right router has answered.
    fn handshakes(&self) -> u64 {
        total(&self.right, "laneway_handshakes_total", &[("role", "responder")])
    }

    /// Returns the endpoint that the right router has for the left one.
    fn learned(&self) -> Option<SocketAddr> {
        self.right.device().status().expect("it runs").peers[0].endpoint
    }
}

fn bind(side: &Side, address: &str) -> UdpSocket {
    let bound = side.namespace.run(|| UdpSocket::bind(address)).expect("enter a namespace");
    bound.unwrap_or_else(|error| panic!("{address}: {error}"))
}

fn dropped(router: &Router, reason: &str) -> u64 {
    let labels = [("direction", "inbound"), ("reason", reason)];
    total(router, "laneway_dropped_packets_total", &labels)
}

fn refused(router: &Router, reason: &str) -> u64 {
    total(router, "laneway_handshake_messages_dropped_total", &[("reason", reason)])
}

#[test]
fn replayed_messages_are_counted_and_change_nothing() {
    require_root!();
    let tapped = Tapped::new();
    tapped.play(|| {
        wait_until("an echo", || tapped.left_reaches_right());
        ping::once(&tapped.lab.left.namespace, Family::V4.inside(2));
    });
    wait_until("the handshake to be counted", || tapped.handshakes() > 0);
    let handshakes = settled("the count", || tapped.handshakes());
    let tap = Some(tapped.tap.local_addr().expect("bound"));
    assert_eq!(tapped.learned(), tap);
    let seen = std::mem::take(&mut *tapped.seen.lock().expect("no panic"));
    let of = |right: bool, kind| {
        let of_kind =
            |(to_right, message): &&(bool, Vec<u8>)| *to_right == right && Kind::of(message) == kind;
        seen.iter().filter(of_kind).map(|(_, message)| message.clone()).collect::<Vec<_>>()
    };
    let initiations = of(true, Some(Kind::Initiation));
    let responses = of(false, Some(Kind::Response));
    let [there, back] = [true, false].map(|right| of(right, Some(Kind::Data)));
    assert!(!initiations.is_empty() && !responses.is_empty() && there.len() > 1 && !back.is_empty());

    let count = |router: &Router, messages: &[Vec<u8>], before: u64, counted: &dyn Fn(&Router) -> u64| {
        wait_until("the count", || counted(router) == before + messages.len() as u64);
    };
    let elsewhere = bind(&tapped.lab.left, "192.0.2.1:4001");
    let send = |messages: &[Vec<u8>], to: SocketAddr| {
        for message in messages {
            elsewhere.send_to(message, to).expect("send");
        }
    };
    let (left, right) = (Family::V4.endpoint(&tapped.lab.left), tapped.right_endpoint());

    send(&initiations, right);
    count(&tapped.right, &initiations, 0, &|router| refused(router, "replay"));
    send(&responses, left);
    count(&tapped.left, &responses, 0, &|router| refused(router, "unknown_index"));
    for (messages, to, router) in [(&there, right, &tapped.right), (&back, left, &tapped.left)] {
        send(messages, to);
        count(router, messages, 0, &|router| dropped(router, "replay"));
        // Altered in the counter, the payload and the tag, and truncated.
        let ways: [fn(&mut Vec<u8>); 4] = [
            |message| message[8] ^= 1,
            |message| message[DATA_HEADER] ^= 1,
            |message| *message.last_mut().expect("a tag") ^= 1,
            |message| message.truncate(message.len() - 1),
        ];
        for (number, way) in ways.iter().enumerate() {
            // A truncated keepalive is too short for any message.
            let mut changed = messages.clone();
            changed.retain(|message| message.len() > DATA_OVERHEAD);
            changed.iter_mut().for_each(way);
            let before = dropped(router, "authentication");
            assert_eq!(before, (number * changed.len()) as u64);
            send(&changed, to);
            count(router, &changed, before, &|router| dropped(router, "authentication"));
        }
    }
    assert_eq!(tapped.learned(), tap, "an endpoint moved");
    tapped.play(|| wait_until("an echo", || tapped.left_reaches_right()));
    let after = settled("the count", || tapped.handshakes());
    assert_eq!(after, handshakes, "the session was replaced");
}

#[test]
fn a_peer_is_followed_to_where_its_last_authentic_packet_came_from() {
    require_root!();
    let tapped = Tapped::new();
    tapped.play(|| wait_until("an echo", || tapped.left_reaches_right()));
    wait_until("the handshake to be counted", || tapped.handshakes() > 0);
    let before = settled("the count", || tapped.handshakes());

    // The left router bypasses the attacker, then moves to another port, address and IP version.
    let right = tapped.right_endpoint();
    tapped.tell(&tapped.left, 1, PeerEndpoint::Address(right));
    // One packet is enough each time: it shows where its sender is, and the answer goes there.
    let reach_right = || ping::once(&tapped.lab.left.namespace, Family::V4.inside(2));
    reach_right();
    assert_eq!(tapped.learned(), Some(Family::V4.endpoint(&tapped.lab.left)));

    let port = DeviceUpdate { listen_port: Some(4321), ..DeviceUpdate::default() };
    tapped.left.device().apply(port).expect("another port");
    reach_right();
    assert_eq!(tapped.learned(), Some((tapped.lab.left.underlay4, 4321).into()));

    let other = Ipv4Addr::new(192, 0, 2, 77);
    ip(&tapped.lab.left, &format!("address del {}/24 dev {CABLE}", tapped.lab.left.underlay4));
    tapped.lab.left.address(CABLE, other.into(), 24).expect("an address");
    wait_until("an echo from another address", || tapped.left_reaches_right());
    let moved = tapped.learned().expect("it is somewhere");
    assert!(moved == (other, 4321).into(), "{moved}");

    let six: SocketAddr = (tapped.lab.right.underlay6, PORT).into();
    tapped.tell(&tapped.left, 1, PeerEndpoint::Address(six));
    reach_right();
    assert_eq!(tapped.learned(), Some((tapped.lab.left.underlay6, 4321).into()));
    // The other direction: the right router was never configured with an endpoint.
    ping::once(&tapped.lab.right.namespace, Family::V6.inside(1));
    let after = settled("the count", || tapped.handshakes());
    assert_eq!(after, before, "a move took a new handshake");
}

/// The right router has two peers: the left one with the allowed IPs `10.66.0.0/16` and `fd66::/16`, and one that
/// never appears and owns a more specific prefix of each.
#[test]
fn packets_with_a_source_outside_allowed_ips_are_dropped() {
    require_root!();
    let lab = lab();
    let keys = [router::key(), router::key()];
    let [_left, right] = router::pair_of(&lab, Family::V4, &keys, |_, _| {});
    let mut left_again = router::peer(keys[0].public_key(), &["10.66.0.0/16", "fd66::/16"]);
    left_again.update_only = true;
    let other = router::peer(router::key().public_key(), &["10.66.1.0/24", "fd66:0:1::/48"]);
    let update = DeviceUpdate { peers: vec![left_again, other], ..DeviceUpdate::default() };
    right.device().apply(update).expect("two peers");
    for net in ["10.66.0.0/16", "10.99.0.0/16", "fd66::/16", "fd99::/16"] {
        ip(&lab.right, &format!("route add {net} dev {DEVICE}"));
    }
    // Its own addresses, those of the other peer, and unassigned ones.
    let sources: [(&str, bool); 6] = [
        ("10.66.2.1", true),
        ("10.66.1.1", false),
        ("10.99.0.1", false),
        ("fd66:0:2::1", true),
        ("fd66:0:1::1", false),
        ("fd99::1", false),
    ];
    let mut lies = 0;
    for (source, allowed) in sources {
        let source: IpAddr = source.parse().expect("an address");
        let (family, whole) = if source.is_ipv4() { (Family::V4, 32) } else { (Family::V6, 128) };
        lab.left.address(DEVICE, source, whole).expect("an address");
        let to = SocketAddr::new(family.inside(2), 9999);
        let ear = bind(&lab.right, &to.to_string());
        ear.set_nonblocking(true).expect("an option");
        let mouth = bind(&lab.left, &SocketAddr::new(source, 0).to_string());
        let hears = || ear.recv_from(&mut [0; 100]).ok().map(|(_, from)| from.ip());
        if allowed {
            wait_until("a datagram", || {
                mouth.send_to(b"it is me", to).expect("send");
                hears() == Some(source)
            });
        } else {
            mouth.send_to(b"it is me", to).expect("send");
            lies += 1;
            wait_until("the lie", || dropped(&right, "source_not_allowed") == lies);
            // A genuine datagram may have been in flight.
            while let Some(from) = hears() {
                assert_ne!(from, source);
            }
        }
    }
}
