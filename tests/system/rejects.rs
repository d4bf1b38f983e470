//! Local programs learn at once that their packets cannot be carried, as ordinary clients see it through the
//! kernel: refused, unreachable, or too big. Reverse path filters are strict throughout.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Stdio;
use std::time::Instant;

use crate::support::metrics::total;
use crate::support::network::{ip, sysctl};
use crate::support::process::command_in;
use crate::support::router::{self, DEVICE, config, key, peer};
use crate::support::tunnel::Family;
use crate::support::{DEADLINE, bulk, lab, ping::ping, require_root, settled, wait_until};
use etherparse::{PacketBuilder, TcpHeader};
use laneway::cli::demo::lab::{CABLE, Lab, Side};
use laneway::config::RejectPolicy;
use laneway::lane::inside::{REJECT_BURST, REJECTS_PER_SECOND};
use laneway::router::start::Router;
use socket2::{Domain, Protocol, Socket, Type};

/// Addresses that are routed to the device but belong to no peer.
const NOBODY: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1)), IpAddr::V6(Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 1))];

/// Addresses of a peer without an endpoint.
const LOST: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 8, 0, 1)), IpAddr::V6(Ipv6Addr::new(0xfd98, 0, 0, 0, 0, 0, 0, 1))];

/// Returns a lab with a router on the left that has one peer without an endpoint, and routes to that peer and to
/// [`NOBODY`].
fn alone(policy: RejectPolicy) -> (Lab, Router) {
    let lab = lab();
    let mut config = config(1, &key());
    config.reject = policy;
    config.update.peers = vec![peer(key().public_key(), &["10.8.0.0/16", "fd98::/16"])];
    let router = router::start(&lab.left, &config);
    sysctl(&lab.left, "ipv4/conf/all/rp_filter", "1");
    sysctl(&lab.left, &format!("ipv4/conf/{DEVICE}/rp_filter"), "1");
    ip(&lab.left, &format!("route add 10.9.0.0/16 dev {DEVICE}"));
    ip(&lab.left, &format!("route add fd99::/16 dev {DEVICE}"));
    (lab, router)
}

fn connect(side: &Side, to: IpAddr) -> ErrorKind {
    let connected = side.namespace.run(|| TcpStream::connect((to, 80))).unwrap();
    connected.map(|_| ()).unwrap_err().kind()
}

/// Returns a UDP client in `side` that has sent something to `to`.
fn asked(side: &Side, to: IpAddr) -> UdpSocket {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = side.namespace.run(|| UdpSocket::bind((any, 0))).unwrap().unwrap();
    socket.connect((to, 53)).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.send(b"question").unwrap();
    socket
}

fn rejects(router: &Router, kind: &str) -> u64 {
    total(router, "laneway_rejects_total", &[("kind", kind)])
}

fn drops(router: &Router, reason: &str) -> u64 {
    let labels = [("direction", "outbound"), ("reason", reason)];
    total(router, "laneway_dropped_packets_total", &labels)
}

#[test]
fn a_tcp_client_of_an_address_that_no_peer_has_is_refused() {
    require_root!();
    let (lab, router) = alone(RejectPolicy::Reject);
    for to in NOBODY {
        assert_eq!(connect(&lab.left, to), ErrorKind::ConnectionRefused, "{to}");
    }
    wait_until("the count", || (rejects(&router, "rst"), drops(&router, "no_route")) >= (2, 2));
}

#[test]
fn a_udp_client_of_an_address_that_no_peer_has_hears_of_it() {
    require_root!();
    let (lab, router) = alone(RejectPolicy::Reject);
    let heard = NOBODY.map(|to| asked(&lab.left, to).recv(&mut [0; 16]).unwrap_err().raw_os_error());
    // `icmp_err_convert` and `icmpv6_err_convert` in Linux.
    assert_eq!(heard, [Some(libc::EHOSTUNREACH), Some(libc::EACCES)]);
    wait_until("the count", || {
        (rejects(&router, "icmp_unreachable"), rejects(&router, "icmp6_unreachable")) >= (1, 1)
    });
}

/// Returns what `ping` prints for each address in [`NOBODY`].
fn pings_of_nobody(lab: &Lab) -> [String; 2] {
    NOBODY.map(|to| {
        let words = ["-n", "-c", "1", "-W", "10", &to.to_string()];
        let done = command_in(&lab.left.namespace, "ping").args(words).stdin(Stdio::null()).output().unwrap();
        String::from_utf8(done.stdout).unwrap()
    })
}

#[test]
fn ping_says_that_an_address_is_prohibited() {
    require_root!();
    let (lab, _router) = alone(RejectPolicy::Reject);
    let [v4, v6] = pings_of_nobody(&lab);
    assert!(v4.contains("Packet filtered"), "{v4}");
    assert!(v6.contains("Administratively prohibited"), "{v6}");
}

#[test]
fn told_to_look_like_a_router_it_says_that_there_is_no_route() {
    require_root!();
    let (lab, _router) = alone(RejectPolicy::Unreachable);
    let [v4, v6] = pings_of_nobody(&lab);
    assert!(v4.contains("Destination Net Unreachable"), "{v4}");
    assert!(v6.contains("No route"), "{v6}");
    for to in NOBODY {
        assert_eq!(connect(&lab.left, to), ErrorKind::ConnectionRefused, "{to}");
    }
}

#[test]
fn a_peer_without_endpoint_is_unreachable() {
    require_root!();
    let (lab, router) = alone(RejectPolicy::Reject);
    for to in LOST {
        assert_eq!(connect(&lab.left, to), ErrorKind::HostUnreachable, "{to}");
    }
    assert_eq!(rejects(&router, "rst"), 0);
    wait_until("the count", || drops(&router, "no_endpoint") >= 2);
}

#[test]
fn with_rejects_off_packets_vanish_but_are_counted() {
    require_root!();
    let (lab, router) = alone(RejectPolicy::Drop);
    let sockets = NOBODY.map(|to| asked(&lab.left, to));
    wait_until("the drops", || drops(&router, "no_route") >= 2);
    for socket in sockets {
        assert!(socket.take_error().unwrap().is_none());
    }
    assert_eq!(total(&router, "laneway_rejects_total", &[]), 0);
}

#[test]
fn a_flood_is_answered_at_a_bounded_rate() {
    const FLOOD: u64 = 20_000;
    require_root!();
    let (lab, router) = alone(RejectPolicy::Reject);
    let start = Instant::now();
    let mut sent = 0;
    lab.left
        .namespace
        .run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            while sent < FLOOD {
                sent += u64::from(socket.send_to(b"flood", (NOBODY[0], 53)).is_ok());
            }
        })
        .unwrap();
    let counted = || ["icmp_unreachable", "rate_limited"].map(|kind| rejects(&router, kind));
    wait_until("the first answer", || counted()[0] > 0);
    let [answered, limited] = settled("the flood", counted);
    let allowed = REJECT_BURST + REJECTS_PER_SECOND * (start.elapsed().as_secs() + 1);
    assert!(answered <= allowed, "{answered} of {sent} answered, {allowed} allowed");
    assert!(limited > 0);
    // The kernel sends a router solicitation now and then, which is dropped silently.
    wait_until("an outcome for each packet", || {
        counted().iter().sum::<u64>() + rejects(&router, "silent") == drops(&router, "no_route")
    });
    println!("{sent} sent, {answered} answered, {limited} not: too many");
}

#[test]
fn what_must_not_be_answered_is_not() {
    require_root!();
    let (lab, router) = alone(RejectPolicy::Reject);
    let from = [10, 77, 0, 1];
    let to = [10, 9, 0, 1];
    let mut packets = vec![Vec::new(), Vec::new(), Vec::new()];
    let mut reset = TcpHeader::new(1000, 80, 1, 0);
    reset.rst = true;
    PacketBuilder::ipv4(from, to, 64).tcp_header(reset).write(&mut packets[0], &[]).unwrap();
    PacketBuilder::ipv4(from, [239, 1, 2, 3], 64).udp(1000, 53).write(&mut packets[1], b"all").unwrap();
    PacketBuilder::ipv4(from, to, 64).udp(1000, 53).write(&mut packets[2], &[0; 64]).unwrap();
    let question = packets[2].clone();
    let mut later_fragment = question.clone();
    later_fragment[6..8].copy_from_slice(&[0, 8]);
    let mut error = Vec::new();
    let unreachable =
        etherparse::Icmpv4Type::DestinationUnreachable(etherparse::icmpv4::DestUnreachableHeader::Port);
    PacketBuilder::ipv4(from, to, 64).icmpv4(unreachable).write(&mut error, &question[..28]).unwrap();
    packets[2] = later_fragment;
    packets.push(error);
    // The queue is read in order: once this one is answered, the others have been handled.
    packets.push(question);

    lab.left
        .namespace
        .run(|| {
            let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW))).unwrap();
            raw.bind_device(Some(DEVICE.as_bytes())).unwrap();
            for packet in &packets {
                let to = Ipv4Addr::new(packet[16], packet[17], packet[18], packet[19]);
                raw.send_to(packet, &SocketAddr::new(to.into(), 0).into()).unwrap();
            }
        })
        .unwrap();
    wait_until("the answer to the last", || rejects(&router, "icmp_unreachable") >= 1);
    // The kernel's router solicitations over IPv6 are multicast, and dropped silently too.
    wait_until("the others to be dropped", || rejects(&router, "silent") >= 4);
    assert_eq!(settled("the answers", || rejects(&router, "icmp_unreachable")), 1);
    for kind in ["rst", "icmp6_unreachable", "too_big", "rate_limited"] {
        assert_eq!(rejects(&router, kind), 0, "{kind}");
    }
}

/// The kernel routes its own addresses through the device if the rule for local addresses comes later.
#[test]
fn a_packet_for_the_devices_own_address_comes_back_whole() {
    const PAYLOAD: usize = 4 << 20;
    require_root!();
    let (lab, router) = alone(RejectPolicy::Reject);
    let own = Family::V4.inside(1);
    for words in [
        format!("route add {own} dev {DEVICE} table 100"),
        format!("rule add pref 10 to {own} iif lo table 100"),
        "rule add pref 20 lookup local".to_owned(),
        "rule del pref 0".to_owned(),
    ] {
        ip(&lab.left, &words);
    }
    for name in ["all", DEVICE] {
        sysctl(&lab.left, &format!("ipv4/conf/{name}/accept_local"), "1");
        sysctl(&lab.left, &format!("ipv4/conf/{name}/rp_filter"), "0");
    }
    let sent: Vec<u8> = (0..PAYLOAD).map(|i| (i * 31 + i / 1000) as u8).collect();
    let came = lab.left.namespace.run(|| {
        let listener = TcpListener::bind((own, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| TcpStream::connect(address).unwrap().write_all(&sent).unwrap());
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            let mut came = Vec::new();
            stream.read_to_end(&mut came).unwrap();
            came
        })
    });
    assert!(came.unwrap() == sent, "the bytes differ");
    let forwarded = settled("the count", || total(&router, "laneway_self_forwarded_packets_total", &[]));
    assert!(forwarded >= (PAYLOAD / 1420) as u64, "{forwarded} packets went through the router");
}

/// The path MTU shrinks while bulk TCP runs, over either IP version outside and inside. Packets that fit the path
/// are grouped again. IPv6 packets at the minimum MTU do not fit with the added headers: they are fragmented
/// outside, datagram by datagram, and arrive. `ageing` covers a path MTU that has grown again.
#[test]
fn tcp_adapts_to_a_path_that_narrows_under_it() {
    const BYTES: u64 = 128 << 20;
    require_root!();
    for outside in Family::ALL {
        let lab = lab();
        let routers = router::pair(&lab, outside);
        ping(&lab.left.namespace, Family::V4.inside(2));
        for (inside, mtu) in [(Family::V6, 1400), (Family::V4, 1280), (Family::V6, 1280)] {
            cable_mtu(&lab, 1500);
            let read = || total(&routers[0], "laneway_tun_read_bytes_total", &[]);
            let (before, told) = (read(), rejects(&routers[0], "too_big"));
            std::thread::scope(|scope| {
                let bulk = scope.spawn(|| bulk(&lab.left, &lab.right, inside.inside(2), 2, BYTES));
                wait_until("traffic", || read() > before + BYTES / 32 || bulk.is_finished());
                assert!(!bulk.is_finished(), "the path MTU shrank too late");
                cable_mtu(&lab, mtu);
                bulk.join().unwrap();
            });
            assert!(rejects(&routers[0], "too_big") > told);
            ping(&lab.left.namespace, inside.inside(2));
            let (runs, datagrams) = sends(&routers[0]);
            bulk(&lab.left, &lab.right, inside.inside(2), 1, 16 << 20);
            let (runs, datagrams) = (sends(&routers[0]).0 - runs, sends(&routers[0]).1 - datagrams);
            println!("{outside:?} outside, {inside:?} inside, {mtu}: {datagrams} datagrams in {runs} sends");
            let fits = (inside, mtu) != (Family::V6, 1280);
            assert!(!fits || datagrams > 4 * runs, "sends are still not grouped");
        }
        for router in &routers {
            assert_eq!(total(router, "laneway_udp_gso_disabled_total", &[]), 0, "GSO was disabled");
        }
    }
}

/// Returns the number of UDP sends, and of the datagrams in them.
fn sends(router: &Router) -> (u64, u64) {
    let of = |suffix| total(router, &format!("laneway_udp_run_segments_{suffix}"), &[]);
    (of("count"), of("sum"))
}

fn cable_mtu(lab: &Lab, mtu: u32) {
    for side in [&lab.left, &lab.right] {
        ip(side, &format!("link set {CABLE} mtu {mtu}"));
    }
}

#[test]
fn a_connection_from_before_the_path_narrowed_goes_on() {
    require_root!();
    let lab = lab();
    let routers = router::pair(&lab, Family::V4);
    let listener = lab.right.namespace.run(|| TcpListener::bind((Family::V4.inside(2), 0))).unwrap().unwrap();
    let address = listener.local_addr().unwrap();
    let mut client = lab.left.namespace.run(|| TcpStream::connect(address)).unwrap().unwrap();
    let (mut server, _) = listener.accept().unwrap();
    server.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut buffer = vec![0; 1 << 20];
    for mtu in [1500, 1280] {
        cable_mtu(&lab, mtu);
        std::thread::scope(|scope| {
            scope.spawn(|| client.write_all(&vec![mtu as u8; 1 << 20]).unwrap());
            server.read_exact(&mut buffer).unwrap();
        });
        assert!(buffer.iter().all(|byte| *byte == mtu as u8));
    }
    assert!(rejects(&routers[0], "too_big") > 0);
}
