//! Link behaviour: scoped addresses, wide and narrow links, links that go down for a while, and a device that
//! moves to another namespace.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::thread;
use std::time::{Duration, Instant};

use laneway::cli::demo::lab::{CABLE, Side};

use super::{Tunnel, endpoint_of_peer, mobile, others, reaches};
use crate::support::implementation::{Kind, Running};
use crate::support::network::{host, ip, link_local, probe};
use crate::support::ping::{answers, ping};
use crate::support::process::{attempt, output};
use crate::support::tunnel::{self, Family, PORT};
use crate::support::wg::{self, Setting};
use crate::support::{DEADLINE, bulk, lab, require_root, wait_until};

#[test]
fn a_peer_can_be_at_a_link_local_address() {
    require_root!();
    for other in others() {
        let lab = lab();
        let [left, right] = [&lab.left, &lab.right].map(|side| link_local(side, CABLE));
        let endpoint = format!("[{right}%{CABLE}]:{PORT}");
        let tunnel = Tunnel::new(&lab.left, &lab.right, other, &endpoint);
        reaches(&lab.left, 2);
        bulk(&lab.left, &lab.right, Family::V4.inside(2), 1, 4 << 20);
        let seen = endpoint_of_peer(&lab.right, tunnel.right.device());
        // Not every implementation shows the scope.
        assert!(seen.starts_with(&format!("[{left}")), "{seen}");
        reaches(&lab.right, 1);
        bulk(&lab.right, &lab.left, Family::V6.inside(1), 1, 4 << 20);
    }
}

#[test]
fn wide_and_narrow_devices_carry_the_largest_packets_that_fit() {
    require_root!();
    for other in others() {
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

/// What was learned of a path is forgotten when the link that narrowed it changes, long before it ages.
#[test]
fn a_link_that_was_widened_again_is_used_in_full_at_once() {
    /// Fits the tunnel's MTU, but not a path MTU of 1,280 bytes.
    const PAYLOAD: usize = 1300;
    require_root!();
    let lab = lab();
    let endpoint = Family::V4.endpoint(&lab.right).to_string();
    let _tunnel = Tunnel::new(&lab.left, &lab.right, Kind::Laneway("1"), &endpoint);
    reaches(&lab.left, 2);
    let cable_mtu = |mtu: u32| {
        for side in [&lab.left, &lab.right] {
            ip(side, &format!("link set {CABLE} mtu {mtu}"));
        }
    };
    let (from, to) = (probe(&lab.left, Family::V4.inside(1)), probe(&lab.right, Family::V4.inside(2)));
    from.connect(to.local_addr().unwrap()).unwrap();
    from.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    to.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    cable_mtu(1280);
    wait_until("the path to be too narrow", || {
        bulk(&lab.left, &lab.right, Family::V4.inside(2), 1, 1 << 20);
        let refused = from.send(&[1; PAYLOAD]).and_then(|_| from.recv(&mut [0; PAYLOAD]));
        refused.is_err_and(|error| error.raw_os_error() == Some(libc::EMSGSIZE))
    });
    cable_mtu(1500);
    wait_until("a datagram that the path now takes", || {
        let crossed = from.send(&[2; PAYLOAD]).and_then(|_| to.recv(&mut [0; PAYLOAD]));
        crossed.is_ok_and(|len| len == PAYLOAD)
    });
}

/// The TUN device moves to another namespace while the UDP sockets stay where they were opened, so that a
/// namespace without any other device has the tunnel as its only way out.
#[test]
fn the_device_can_move_to_a_namespace_that_has_nothing_else() {
    require_root!();
    for other in others() {
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
        assert!(!answers(&lab.left.namespace, Family::V4.inside(2)), "the device is still here");

        // Packets are padded up to the MTU that the device has there, so the longest ones fit the path as they are.
        ip(&cell, &format!("link set {device} mtu 1284"));
        for side in [&lab.left, &lab.right] {
            ip(side, &format!("link set {CABLE} mtu {}", 1284 + 32 + 28));
        }
        let inside = Family::V4.inside(2).to_string();
        let longest = ["ping", "-n", "-c", "1", "-W", "5", "-M", "do", "-s", "1256", &inside];
        wait_until("the longest packets whole", || {
            let before = fragments(&lab.left);
            attempt(&cell.namespace, &longest, "").is_ok() && fragments(&lab.left) == before
        });
    }
}

/// Returns how many fragments the host has made of IPv4 packets.
fn fragments(side: &Side) -> u64 {
    let shown = output(&side.namespace, &["cat", "/proc/net/snmp"], "");
    let mut lines = shown.lines().filter(|line| line.starts_with("Ip:")).map(str::split_whitespace);
    let (mut names, mut values) = (lines.next().expect("names"), lines.next().expect("values"));
    let at = names.position(|name| name == "FragCreates").expect("FragCreates");
    values.nth(at).and_then(|value| value.parse().ok()).expect("a number")
}

/// The cable is down for longer than TCP's first retransmissions, and the peer's port is closed as long.
#[test]
fn a_connection_outlives_an_endpoint_that_is_dead_for_a_while() {
    require_root!();
    for other in mobile() {
        let lab = lab();
        let tunnel = Tunnel::up(&lab, other);
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
    require_root!();
    let lab = lab();
    for other in others() {
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
            for len in (0..=1372_usize).step_by(49).chain([1371, 1372, 1392, 4000, 60_000]) {
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

/// As with the kernel's own WireGuard, a device that is down has no sessions and answers nothing.
#[test]
fn a_device_that_is_down_is_silent_until_it_is_up() {
    require_root!();
    for other in mobile() {
        let lab = lab();
        let tunnel = Tunnel::up(&lab, other);
        let (left, right) = (tunnel.left.device(), tunnel.right.device());
        let back = endpoint_of_peer(&lab.right, right);
        let Running::Laneway(laneway) = &tunnel.left else { unreachable!("the left one is a Laneway") };
        assert!(laneway.process.said().contains("is reached at"), "{}", laneway.process.said());

        ip(&lab.left, &format!("link set {left} down"));
        wait_until("the state", || laneway.process.said().contains(", down"));
        // A peer that has restarted asks for a session.
        let own = &tunnel.keys[0].public;
        let words = ["wg", "set", right, "peer", own, "remove"];
        output(&lab.right.namespace, &words, "");
        wg::set(&lab.right, right, &tunnel.keys[1], &Setting::new(&tunnel.keys[0], 1));
        tunnel.tell_right(&lab.right, &["endpoint", &back]);
        assert!(!answers(&lab.right.namespace, Family::V4.inside(1)));
        let peer = wg::peers(&lab.right, right).remove(0);
        assert_eq!((peer.latest_handshake, peer.received), (0, 0), "with {other:?}");
        assert!(peer.sent > 0);

        // Without any traffic.
        tunnel.tell_left(&lab.left, &["persistent-keepalive", "25"]);
        ip(&lab.left, &format!("link set {left} up"));
        wait_until("a session", || wg::peers(&lab.right, right)[0].latest_handshake > 0);
        wait_until("an echo", || answers(&lab.left.namespace, Family::V4.inside(2)));
        assert_eq!(laneway.process.said().matches("is reached at").count(), 2);

        output(&lab.right.namespace, &["wg", "set", right, "listen-port", "40002"], "");
        let endpoint = Family::V4.endpoint(&lab.right);
        let moved = format!("{}:40002", lab.right.underlay4);
        wait_until("a move", || {
            let _ = answers(&lab.right.namespace, Family::V4.inside(1));
            endpoint_of_peer(&lab.left, left) == moved
        });
        wait_until("a report of the move", || {
            laneway.process.said().contains(&format!("has moved from {endpoint} to {moved}"))
        });
    }
}
