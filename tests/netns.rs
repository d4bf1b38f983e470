//! Networks as people have them: hosts behind address translation, with two paths, with a default route through the
//! tunnel, with narrow and wide links. The topics are those of the kernel's own test of WireGuard
//! (`tools/testing/selftests/wireguard/netns.sh`) as far as a userspace implementation can run them, and what
//! other tests here do not show already: `interop` (families, preshared keys), `uapi` (ports, prefixes that move),
//! `rejects` (paths that narrow), `abuse` (peers that move), `faults` (kills and restarts).

mod support;

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::thread;
use std::time::{Duration, Instant};

use laneway::cli::demo::lab::{CABLE, Side};
use support::implementation::{Kind, Running};
use support::network::{cable, host, ip, sysctl};
use support::ping::{answers, ping};
use support::process::{attempt, output};
use support::tunnel::{self, Family, PORT};
use support::wg::{self, KeyPair, Setting};
use support::{DEADLINE, bulk, lab, require_root, wait_until};

/// Who is at the other end, where that can make a difference.
const OTHERS: [Kind; 2] = [Kind::Laneway("1"), Kind::WireGuardGo];

/// A Laneway at `left` and somebody at `right`, who know each other's keys. The left one begins.
struct Tunnel {
    left: Running,
    right: Running,
    keys: [KeyPair; 2],
}

impl Tunnel {
    fn new(left: &Side, right: &Side, other: Kind, endpoint: &str) -> Tunnel {
        println!("with {other:?}");
        let tunnel = Tunnel {
            left: Kind::Laneway("2").start(left),
            right: other.start(right),
            keys: [KeyPair::generate(left), KeyPair::generate(right)],
        };
        wg::set(right, tunnel.right.device(), &tunnel.keys[1], &Setting::new(&tunnel.keys[0], 1));
        tunnel::address(right, tunnel.right.device(), 2);
        wg::set(left, tunnel.left.device(), &tunnel.keys[0], &Setting::new(&tunnel.keys[1], 2));
        tunnel.tell_left(left, &["endpoint", endpoint]);
        tunnel::address(left, tunnel.left.device(), 1);
        tunnel
    }

    /// Tells the left one more about its peer.
    fn tell_left(&self, side: &Side, words: &[&str]) {
        let start = ["wg", "set", self.left.device(), "peer", &self.keys[1].public];
        output(&side.namespace, &[&start[..], words].concat(), "");
    }

    /// The same for the right one.
    fn tell_right(&self, side: &Side, words: &[&str]) {
        let start = ["wg", "set", self.right.device(), "peer", &self.keys[0].public];
        output(&side.namespace, &[&start[..], words].concat(), "");
    }
}

/// Waits until an echo comes back, over either protocol.
fn reaches(from: &Side, host: u8) {
    for family in Family::ALL {
        wait_until("an echo", || answers(&from.namespace, family.inside(host)));
    }
}

fn endpoint_of_peer(side: &Side, device: &str) -> String {
    wg::peers(side, device).remove(0).endpoint
}

/// A host at home, its router that translates addresses and soon forgets, and a host in the world.
///
/// ```text
///   home 192.168.7.2 ── 192.168.7.1 router 192.0.2.1 ── 192.0.2.2 world
/// ```
struct Home {
    home: Side,
    router: Side,
    world: Side,
}

/// Seconds after which the router forgets who sent a datagram.
const FORGETS_AFTER: u64 = 2;

impl Home {
    fn new() -> Home {
        let home = host([192, 168, 7, 2], "::");
        let router = host([192, 0, 2, 1], "::");
        let world = host([192, 0, 2, 2], "::");
        cable((&home, "lan", &["192.168.7.2/24"]), (&router, "lan", &["192.168.7.1/24"]));
        cable((&router, "wan", &["192.0.2.1/24"]), (&world, "wan", &["192.0.2.2/24"]));
        ip(&home, "route add default via 192.168.7.1");
        sysctl(&router, "ipv4/ip_forward", "1");
        let rules = "table ip home { chain leaving { type nat hook postrouting priority 100; \
                     oifname \"wan\" masquerade; }; }";
        output(&router.namespace, &["nft", "-f", "-"], rules);
        for name in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
            sysctl(&router, &format!("netfilter/{name}"), &FORGETS_AFTER.to_string());
        }
        Home { home, router, world }
    }

    /// Long enough for the router to forget everything that was silent.
    fn be_silent() {
        thread::sleep(Duration::from_secs(2 * FORGETS_AFTER));
    }
}

#[test]
fn a_persistent_keepalive_keeps_the_way_home_open_and_without_it_it_closes() {
    if !require_root() {
        return;
    }
    let net = Home::new();
    for other in OTHERS {
        let tunnel = Tunnel::new(&net.home, &net.world, other, "192.0.2.2:51820");
        reaches(&net.home, 2);
        let seen = endpoint_of_peer(&net.world, tunnel.right.device());
        assert!(seen.starts_with("192.0.2.1:"), "{seen} is not the router");
        assert!(answers(&net.world.namespace, Family::V4.inside(1)), "the way back is open");

        Home::be_silent();
        assert!(!answers(&net.world.namespace, Family::V4.inside(1)), "the router should have forgotten");

        tunnel.tell_left(&net.home, &["persistent-keepalive", "1"]);
        wait_until("the way back", || answers(&net.world.namespace, Family::V4.inside(1)));
        Home::be_silent();
        assert!(answers(&net.world.namespace, Family::V4.inside(1)), "the way back is kept open");
    }
}

#[test]
fn a_peer_is_found_again_when_the_router_before_it_gets_another_address() {
    if !require_root() {
        return;
    }
    let net = Home::new();
    for other in OTHERS {
        let tunnel = Tunnel::new(&net.home, &net.world, other, "192.0.2.2:51820");
        tunnel.tell_left(&net.home, &["persistent-keepalive", "1"]);
        reaches(&net.home, 2);
        let handshake = wg::peers(&net.home, tunnel.left.device())[0].latest_handshake;
        for (new, old) in [("192.0.2.9", "192.0.2.1"), ("192.0.2.1", "192.0.2.9")] {
            ip(&net.router, &format!("address del {old}/24 dev wan"));
            ip(&net.router, &format!("address add {new}/24 dev wan"));
            let (world, device) = (&net.world, tunnel.right.device());
            wait_until("the new address", || endpoint_of_peer(world, device).starts_with(new));
            wait_until("an echo", || answers(&net.world.namespace, Family::V4.inside(1)));
        }
        let peer = &wg::peers(&net.home, tunnel.left.device())[0];
        assert_eq!(peer.latest_handshake, handshake, "the session went on");
    }
}

/// Everything goes through the tunnel, the way `wg-quick` does it: only what bears the mark, the tunnel's own
/// datagrams, goes by the real default route.
#[test]
fn with_a_mark_the_default_route_can_lead_through_the_tunnel() {
    if !require_root() {
        return;
    }
    const MARK: &str = "51820";
    let lab = lab();
    // The peer is behind the real default route, like the rest of the world.
    for address in ["198.51.100.2/32", "203.0.113.7/32"] {
        ip(&lab.right, &format!("address add {address} dev lo"));
    }
    ip(&lab.left, &format!("route add default via {}", lab.right.underlay4));
    for other in OTHERS {
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
        assert!(sent() > before + (4 << 20), "it did not go through the tunnel");

        // Without the mark the tunnel's own datagrams would have to go through the tunnel.
        output(&lab.left.namespace, &["wg", "set", device, "fwmark", "0"], "");
        wait_until("the loop", || !answers(&lab.left.namespace, world));
        output(&lab.left.namespace, &["wg", "set", device, "fwmark", MARK], "");
        wait_until("an echo", || answers(&lab.left.namespace, world));
        ip(&lab.left, "rule del pref 20");
        ip(&lab.left, "rule del pref 10");
    }
}

#[test]
fn a_peer_can_be_at_a_link_local_address() {
    if !require_root() {
        return;
    }
    for other in OTHERS {
        let lab = lab();
        let link_local = |side: &Side| {
            let words = ["ip", "-6", "-brief", "address", "show", "dev", CABLE, "scope", "link"];
            let shown = output(&side.namespace, &words, "");
            let address = shown.split_whitespace().nth(2).and_then(|net| net.split('/').next());
            address.expect("a link-local address").to_owned()
        };
        for side in [&lab.left, &lab.right] {
            let words = ["ip", "-6", "address", "show", "dev", CABLE, "tentative"];
            wait_until("the address", || output(&side.namespace, &words, "").is_empty());
        }
        let endpoint = format!("[{}%{CABLE}]:{PORT}", link_local(&lab.right));
        let tunnel = Tunnel::new(&lab.left, &lab.right, other, &endpoint);
        reaches(&lab.left, 2);
        bulk(&lab.left, &lab.right, Family::V4.inside(2), 1, 4 << 20);
        let seen = endpoint_of_peer(&lab.right, tunnel.right.device());
        // Some show the scope and some do not.
        assert!(seen.starts_with(&format!("[{}", link_local(&lab.left))), "{seen}");
        reaches(&lab.right, 1);
        bulk(&lab.right, &lab.left, Family::V6.inside(1), 1, 4 << 20);
    }
}

/// The right host has two addresses on each protocol, and two cables. It answers from where it was asked.
#[test]
fn a_host_with_several_addresses_answers_from_the_one_that_was_asked() {
    if !require_root() {
        return;
    }
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
    // The address that is in use goes, and the cable with it: the next best one is taken, and the peer follows.
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

/// A hub with two spokes that both have the same inside address: who hears what is sent there shows whose it is.
#[test]
fn a_packet_goes_to_the_peer_with_the_longest_prefix_whatever_was_there_before() {
    if !require_root() {
        return;
    }
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
    for (number, other) in OTHERS.into_iter().enumerate() {
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
    let hears = |expected: usize| {
        for (family, address) in shared.iter().enumerate() {
            let to = match address {
                IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), 9999),
                IpAddr::V6(_) => SocketAddr::new(*address, 9999),
            };
            let mut heard = [false; 2];
            wait_until("a spoke that hears it", || {
                mouth.send_to(b"who is there?", to).expect("send");
                for spoke in 0..2 {
                    heard[spoke] |= ears[spoke][family].recv(&mut [0; 100]).is_ok();
                }
                heard != [false; 2]
            });
            // What is still under way is for the same one.
            thread::sleep(Duration::from_millis(50));
            for spoke in 0..2 {
                while ears[spoke][family].recv(&mut [0; 100]).is_ok() {
                    heard[spoke] = true;
                }
            }
            assert!(heard[expected] && !heard[1 - expected], "{address}: {heard:?}, not {expected}");
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
    // The very prefix moves, and its old owner has it no more even when the new one loses it again.
    allow(0, ",0.0.0.0/0,::/0,10.88.0.9/32,fd88::9/128");
    hears(0);
    allow(0, "");
    allow(1, ",0.0.0.0/0,::/0");
    hears(1);
    for host_number in [2, 3] {
        reaches(&hub, host_number);
    }
}

#[test]
fn a_new_private_key_and_a_peer_that_is_oneself() {
    if !require_root() {
        return;
    }
    for other in OTHERS {
        let lab = lab();
        let endpoint = Family::V4.endpoint(&lab.right).to_string();
        let tunnel = Tunnel::new(&lab.left, &lab.right, other, &endpoint);
        reaches(&lab.left, 2);
        let (left, right) = (tunnel.left.device(), tunnel.right.device());
        let new = KeyPair::generate(&lab.left);
        output(&lab.left.namespace, &["wg", "set", left, "private-key", "/dev/stdin"], &new.private);
        assert!(!answers(&lab.left.namespace, Family::V4.inside(2)), "nobody knows the new key yet");
        let allowed = tunnel::allowed_ips(1);
        output(&lab.right.namespace, &["wg", "set", right, "peer", &new.public, "allowed-ips", &allowed], "");
        reaches(&lab.left, 2);

        // Who takes the key of a peer has that peer no more; and nobody is a peer of oneself.
        let words = ["wg", "set", left, "private-key", "/dev/stdin"];
        output(&lab.left.namespace, &words, &tunnel.keys[1].private);
        assert_eq!(wg::peers(&lab.left, left).len(), 0);
        let own = &tunnel.keys[1].public;
        let _ = attempt(&lab.left.namespace, &["wg", "set", left, "peer", own], "");
        assert_eq!(wg::peers(&lab.left, left).len(), 0);
    }
}

#[test]
fn wide_and_narrow_devices_carry_the_largest_packets_that_fit() {
    if !require_root() {
        return;
    }
    for other in OTHERS {
        let lab = lab();
        for side in [&lab.left, &lab.right] {
            ip(side, &format!("link set {CABLE} mtu 40000"));
        }
        let endpoint = Family::V4.endpoint(&lab.right).to_string();
        let tunnel = Tunnel::new(&lab.left, &lab.right, other, &endpoint);
        for mtu in [1280_u16, 9000, 34_736] {
            ip(&lab.left, &format!("link set {} mtu {mtu}", tunnel.left.device()));
            ip(&lab.right, &format!("link set {} mtu {mtu}", tunnel.right.device()));
            reaches(&lab.left, 2);
            let size = (mtu - 28).to_string();
            let address = Family::V4.inside(2).to_string();
            let words = ["ping", "-n", "-c", "1", "-W", "5", "-M", "do", "-s", &size, &address];
            wait_until("the largest echo", || attempt(&lab.left.namespace, &words, "").is_ok());
            bulk(&lab.left, &lab.right, Family::V4.inside(2), 2, 8 << 20);
            bulk(&lab.right, &lab.left, Family::V6.inside(1), 2, 8 << 20);
        }
    }
}

/// The TUN device moves to another namespace; the UDP sockets stay where they were opened. So a namespace without
/// any other device has the tunnel as its only way out.
#[test]
fn the_device_can_move_to_a_namespace_that_has_nothing_else() {
    if !require_root() {
        return;
    }
    for other in OTHERS {
        let lab = lab();
        let endpoint = Family::V4.endpoint(&lab.right).to_string();
        let tunnel = Tunnel::new(&lab.left, &lab.right, other, &endpoint);
        let cell = host([0; 4], "::");
        let path = format!("/proc/{}/fd/{}", std::process::id(), cell.namespace.as_raw_fd());
        let device = tunnel.left.device();
        ip(&lab.left, &format!("link set {device} netns {path}"));
        tunnel::address(&cell, device, 1);
        ip(&cell, &format!("route add default dev {device}"));
        reaches(&cell, 2);
        ping(&cell.namespace, Family::V6.inside(2));
        bulk(&cell, &lab.right, Family::V4.inside(2), 2, 8 << 20);
        bulk(&lab.right, &cell, Family::V6.inside(1), 2, 8 << 20);
        assert!(!answers(&lab.left.namespace, Family::V4.inside(2)), "it is no longer here");
    }
}

/// The cable is down for longer than TCP's first retries, and the peer's port is closed for as long.
#[test]
fn a_connection_outlives_an_endpoint_that_is_dead_for_a_while() {
    if !require_root() {
        return;
    }
    for other in OTHERS {
        let lab = lab();
        let endpoint = Family::V4.endpoint(&lab.right).to_string();
        let tunnel = Tunnel::new(&lab.left, &lab.right, other, &endpoint);
        reaches(&lab.left, 2);
        let address = SocketAddr::new(Family::V4.inside(2), 7777);
        let listener = lab.right.namespace.run(|| TcpListener::bind(address)).expect("enter");
        let listener = listener.expect("a listener");
        let client = lab.left.namespace.run(|| TcpStream::connect(address)).expect("enter");
        let mut client = client.expect("a connection");
        let (mut server, _) = listener.accept().expect("a connection");
        server.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let mut speak = |word: &[u8]| {
            client.write_all(word).expect("write");
            let mut heard = vec![0; word.len()];
            server.read_exact(&mut heard).expect("read");
            assert_eq!(heard, word);
        };
        speak(b"before");
        let silence = Duration::from_millis(1200);
        for (dead, alive) in [
            (format!("ip link set {CABLE} down"), format!("ip link set {CABLE} up")),
            (
                format!("wg set {} listen-port 51999", tunnel.right.device()),
                format!("wg set {} listen-port {PORT}", tunnel.right.device()),
            ),
        ] {
            let run = |words: &str| {
                output(&lab.right.namespace, &words.split(' ').collect::<Vec<_>>(), "");
            };
            run(&dead);
            let start = Instant::now();
            assert!(!answers(&lab.left.namespace, Family::V4.inside(2)));
            thread::sleep(silence.saturating_sub(start.elapsed()));
            run(&alive);
            speak(b"after");
        }
        tunnel.tell_right(&lab.right, &["persistent-keepalive", "0"]);
        reaches(&lab.left, 2);
    }
}

#[test]
fn udp_of_every_size_crosses_both_ways() {
    if !require_root() {
        return;
    }
    let lab = lab();
    for other in [Kind::Laneway("1"), Kind::WireGuardGo, Kind::BoringTun] {
        let endpoint = Family::V6.endpoint(&lab.right).to_string();
        let _tunnel = Tunnel::new(&lab.left, &lab.right, other, &endpoint);
        reaches(&lab.left, 2);
        for family in Family::ALL {
            let bind = |side: &Side, number| {
                let bound = side.namespace.run(|| UdpSocket::bind((family.inside(number), 0)));
                let socket = bound.expect("enter").expect("a socket");
                socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
                socket
            };
            let ends = [bind(&lab.left, 1), bind(&lab.right, 2)];
            let addresses = ends.each_ref().map(|end| end.local_addr().expect("bound"));
            for len in (0..=1372).step_by(49).chain([1371, 1372, 1392, 4000, 60_000]) {
                let sent: Vec<u8> = (0..len).map(|at| (at * 7 + len) as u8).collect();
                for (from, to) in [(0, 1), (1, 0)] {
                    let mut room = vec![0; 65_536];
                    wait_until("the datagram", || {
                        ends[from].send_to(&sent, addresses[to]).expect("send");
                        ends[to].recv_from(&mut room).is_ok_and(|(got, _)| room[..got] == sent)
                    });
                }
            }
        }
    }
}
