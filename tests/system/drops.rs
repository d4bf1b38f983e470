//! `laneway drops`: real packets that a real router drops, in both directions, as its user sees them.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Stdio;

use crate::support::binary::{Laneway, command};
use crate::support::folder::Folder;
use crate::support::metrics::parse;
use crate::support::network::ip;
use crate::support::ping::ping;
use crate::support::process::Process;
use crate::support::tunnel::{Family, PORT, address};
use crate::support::wg::{self, KeyPair, Setting};
use crate::support::{lab, require_root, settled, wait_until};
use laneway::cli::demo::lab::{Lab, Side};

/// In every packet and datagram that is dropped here.
const PAYLOAD: &[u8] = b"a secret";

/// An address that is routed to the left device and belongs to no peer.
const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

/// An address of a peer without endpoint.
const LOST: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 1);

/// An address of the right device that its peer does not expect there.
const FOREIGN: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 1);

/// A running `laneway drops`.
struct Follower {
    process: Process,
    output: String,
    _folder: Folder,
}

impl Follower {
    fn start(side: &Side, arguments: &[&str]) -> Follower {
        let folder = Folder::new();
        let output = folder.join("output");
        let file = File::create(&output).expect("a file");
        let words = [&["drops", "--follow"], arguments].concat();
        let process = Process::start_quietly(command(side, &words, &[]).stdout(file));
        Follower { process, output, _folder: folder }
    }

    /// Returns the lines it has printed.
    fn lines(&self) -> Vec<String> {
        fs::read_to_string(&self.output).expect("text").lines().map(str::to_owned).collect()
    }

    /// Repeats `act` until `line` is printed: what is dropped before the first reading is not shown.
    fn expect(&self, line: &str, mut act: impl FnMut()) {
        wait_until(&format!("the line {line:?}"), || {
            act();
            self.lines().iter().any(|shown| shown == line)
        });
    }

    /// Like [`expect`](Self::expect), for any line about this direction and reason.
    fn expect_cause(&self, cause: &str, mut act: impl FnMut()) {
        wait_until(cause, || {
            act();
            self.packets(cause) > 0
        });
    }

    /// Returns the number of packets shown or said not to be shown, for a direction and reason.
    fn packets(&self, cause: &str) -> u64 {
        let lines = self.lines();
        let told = lines.iter().filter_map(|line| line.strip_prefix(cause)?.strip_prefix(": "));
        told.map(|text| {
            let last = text.rsplit(", ").next().expect("one part at least");
            let number = last.strip_suffix(" packets not shown").or(last.strip_suffix(" packets"));
            number.map_or(1, |number| number.parse().expect("a number"))
        })
        .sum()
    }
}

/// Returns a UDP socket in `side`.
fn socket(side: &Side) -> UdpSocket {
    let bound = side.namespace.run(|| UdpSocket::bind("0.0.0.0:0")).expect("enter a namespace");
    bound.expect("a socket")
}

/// Returns what `laneway drops` prints with these arguments.
fn once(side: &Side, arguments: &[&str]) -> (Option<i32>, String, String) {
    let words = [&["drops"], arguments].concat();
    let done = command(side, &words, &[]).output().expect("start");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (done.status.code(), text(done.stdout), text(done.stderr))
}

/// Two connected devices. The left one has another peer, without endpoint, and routes to [`NOBODY`] and [`LOST`].
struct Tunnel {
    lab: Lab,
    left: Laneway,
    _right: Laneway,
    keys: [KeyPair; 3],
}

impl Tunnel {
    fn up() -> Tunnel {
        let lab = lab();
        let (left, right) = (Laneway::start(&lab.left, &[]), Laneway::start(&lab.right, &[]));
        let keys = [&lab.left, &lab.right, &lab.left].map(KeyPair::generate);
        let endpoint = Some(Family::V4.endpoint(&lab.right));
        wg::set(&lab.left, &left.device, &keys[0], &Setting { endpoint, ..Setting::new(&keys[1], 2) });
        wg::set(&lab.right, &right.device, &keys[1], &Setting::new(&keys[0], 1));
        let lost = LOST.to_string();
        let words = ["wg", "set", &left.device, "peer", &keys[2].public, "allowed-ips", &lost];
        crate::support::process::output(&lab.left.namespace, &words, "");
        address(&lab.left, &left.device, 1);
        address(&lab.right, &right.device, 2);
        for to in [NOBODY, LOST] {
            ip(&lab.left, &format!("route add {to} dev {}", left.device));
        }
        ip(&lab.right, &format!("address add {FOREIGN}/32 dev {}", right.device));
        ping(&lab.left.namespace, Family::V4.inside(2));
        Tunnel { lab, left, _right: right, keys }
    }
}

#[test]
fn dropped_packets_are_shown_in_both_directions_with_what_is_known_of_them() {
    require_root!();
    let Tunnel { lab, mut left, _right, keys } = Tunnel::up();
    let all = Follower::start(&lab.left, &[&left.device]);
    let some =
        Follower::start(&lab.left, &[&left.device, "--reason", "no_route", "--reason", "unknown_index"]);

    let client = socket(&lab.left);
    let from = |to: Ipv4Addr| {
        // Binds the source address, which is then the same for all packets.
        let _ = client.connect((to, 53));
        client.local_addr().expect("bound")
    };
    let ask = |to: Ipv4Addr| drop(client.send_to(PAYLOAD, (to, 53)));
    let source = SocketAddr::new(Family::V4.inside(1), from(NOBODY).port());
    let no_route = format!("outbound no_route: udp {source} > {NOBODY}:53, 36 bytes");
    all.expect(&no_route, || ask(NOBODY));
    some.expect(&no_route, || ask(NOBODY));
    from(LOST);
    let no_endpoint =
        format!("outbound no_endpoint: udp {source} > {LOST}:53, 36 bytes, peer {}", keys[2].public);
    all.expect(&no_endpoint, || ask(LOST));

    let stranger = socket(&lab.right);
    let stranger_at =
        SocketAddr::new(IpAddr::V4(lab.right.underlay4), stranger.local_addr().expect("bound").port());
    let send = |datagram: &[u8]| {
        stranger.send_to(datagram, (lab.left.underlay4, PORT)).expect("send");
    };
    all.expect(&format!("inbound not_wireguard: datagram from {stranger_at}, 8 bytes"), || send(PAYLOAD));
    let mut data = vec![4, 0, 0, 0];
    data.extend(PAYLOAD.iter().chain([0; 36].iter()));
    let unknown_index = format!("inbound unknown_index: datagram from {stranger_at}, 48 bytes");
    all.expect(&unknown_index, || send(&data));
    some.expect(&unknown_index, || send(&data));

    let liar = lab.right.namespace.run(|| UdpSocket::bind((FOREIGN, 0))).expect("enter").expect("a socket");
    let liar_at = SocketAddr::new(FOREIGN.into(), liar.local_addr().expect("bound").port());
    let to = SocketAddr::new(Family::V4.inside(1), 53);
    let not_allowed =
        format!("inbound source_not_allowed: udp {liar_at} > {to}, 36 bytes, peer {}", keys[1].public);
    all.expect(&not_allowed, || drop(liar.send_to(PAYLOAD, to)));

    for line in some.lines() {
        assert!(line.contains(" no_route: ") || line.contains(" unknown_index: "), "{line}");
    }
    let secret = String::from_utf8_lossy(PAYLOAD);
    assert!(!all.lines().iter().any(|line| line.contains(&*secret)), "a payload is shown");

    // A router that goes ends the command.
    left.process.signal(nix::sys::signal::Signal::SIGTERM);
    left.process.wait();
    for mut follower in [all, some] {
        assert_eq!(follower.process.wait(), Some(1));
        let said = follower.process.said();
        assert!(said.contains("no userspace WireGuard serves this interface"), "{said}");
    }
}

#[test]
fn a_follower_ends_with_its_reader() {
    require_root!();
    let lab = lab();
    let left = Laneway::start(&lab.left, &[]);
    let words = ["drops", "--follow", &left.device];
    let mut follower = Process::start_quietly(command(&lab.left, &words, &[]).stdout(Stdio::piped()));
    let sampled = || metric(&left, "laneway_drop_sampling") > 0.5;
    wait_until("the follower to begin", sampled);
    assert!(follower.is_running());
    // Nothing is dropped, so nothing is written.
    drop(follower.take_stdout());
    assert_eq!(follower.wait(), Some(0), "{}", follower.said());
}

/// Returns the sum of a metric.
fn metric(router: &Laneway, name: &str) -> f64 {
    let metrics = laneway::uapi::client::metrics("/var/run/wireguard".as_ref(), &router.device);
    parse(&metrics.expect("it answers").expect("a Laneway")).sum(name, &[])
}

#[test]
fn each_dropped_packet_is_shown_or_counted_as_not_shown() {
    const FLOOD: u64 = 5_000;
    require_root!();
    let Tunnel { lab, left, _right, .. } = Tunnel::up();
    let client = socket(&lab.left);
    // The kernel's own packets, which have no route, are not among them.
    let cause = "outbound no_endpoint";
    let metric = |name: &str, labels: &[(&str, &str)]| {
        let metrics = laneway::uapi::client::metrics("/var/run/wireguard".as_ref(), &left.device);
        let metrics = parse(&metrics.expect("it answers").expect("a Laneway"));
        (metrics.sum(name, labels) as i64).cast_unsigned()
    };
    let labels = [("direction", "outbound"), ("reason", "no_endpoint")];
    let counted = || metric("laneway_dropped_packets_total", &labels);
    assert_eq!(metric("laneway_drop_sampling", &[]), 0);
    let follower = Follower::start(&lab.left, &[&left.device]);
    // A line for another reason tells that it has begun.
    follower.expect_cause("outbound no_route", || drop(client.send_to(PAYLOAD, (NOBODY, 53))));
    assert_eq!(counted(), 0);
    assert_eq!(metric("laneway_drop_sampling", &[]), 1);
    let mut sent = 0;
    while sent < FLOOD {
        sent += u64::from(client.send_to(PAYLOAD, (LOST, 53)).is_ok());
    }
    // The TUN's queue may overflow before the router.
    let dropped = settled("the drops", counted);
    assert!(dropped > FLOOD / 10, "{dropped} of {FLOOD}");
    wait_until("an account of the flood", || follower.packets(cause) == dropped);
    let lines = follower.lines();
    assert!(lines.iter().any(|line| line.ends_with(" packets not shown")), "all {dropped} were shown");
    let samples = metric("laneway_drop_samples_total", &[]);
    assert!((1..=dropped).contains(&samples), "{samples} samples of {dropped} packets");
    drop(follower);
    wait_until("the end of sampling", || metric("laneway_drop_sampling", &[]) == 0);

    // Without --follow, the numbers since the start.
    let (status, text, said) = once(&lab.left, &[&left.device, "--reason", "no_endpoint"]);
    assert_eq!((status, text), (Some(0), format!("{cause}: {dropped} packets\n")), "{said}");
    let (status, _, said) = once(&lab.left, &[&left.device, "--reason", "bad_luck"]);
    assert!(status == Some(2) && said.contains("bad_luck"), "{status:?} {said}");
    let (status, _, said) = once(&lab.left, &["nothing0"]);
    assert!(status == Some(1) && said.contains("no userspace WireGuard"), "{status:?} {said}");
}
