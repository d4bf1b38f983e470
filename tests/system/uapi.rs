//! The control socket of a running `laneway -f`, as `wg` and control planes use it: what a request changes, and
//! above all what it leaves alone.

use std::io::ErrorKind::WouldBlock;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, UdpSocket};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crate::support::binary::{BINARY, Laneway};
use crate::support::network;
use crate::support::ping::{answers, ping};
use crate::support::process::{attempt, output};
use crate::support::tunnel::{Family, PORT, address, allowed_ips};
use crate::support::wg::{self, KeyPair, PeerLine, Setting};
use crate::support::{bulk, echo, lab, require_root, settled, wait_until};
use laneway::cli::demo::lab::{CABLE, Lab};
use laneway::wireguard::keys::PublicKey;
use nix::errno::Errno;

/// The public key of a peer that does not exist.
const NOBODY: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";

/// The minimum of echoes in a flood, and of configuration changes meanwhile.
const ECHOES: u32 = 2000;
const CHANGES: u32 = 20;

/// Two Laneways that have exchanged packets. The left one initiated.
struct Tunnel {
    lab: Lab,
    left: Laneway,
    right: Laneway,
    keys: [KeyPair; 2],
}

impl Tunnel {
    fn up() -> Tunnel {
        let lab = lab();
        let (left, right) = (Laneway::start(&lab.left, &[]), Laneway::start(&lab.right, &[]));
        let keys = [KeyPair::generate(&lab.left), KeyPair::generate(&lab.right)];
        wg::set(&lab.right, &right.device, &keys[1], &Setting::new(&keys[0], 1));
        address(&lab.right, &right.device, 2);
        let endpoint = Some(Family::V4.endpoint(&lab.right));
        wg::set(&lab.left, &left.device, &keys[0], &Setting { endpoint, ..Setting::new(&keys[1], 2) });
        address(&lab.left, &left.device, 1);
        let tunnel = Tunnel { lab, left, right, keys };
        ping(&tunnel.lab.left.namespace, Family::V4.inside(2));
        tunnel
    }

    /// Runs `wg` on the left device, with `input` on its standard input.
    fn wg(&self, command: &str, arguments: &[&str], input: &str) -> Result<String, String> {
        let words = [&["wg", command, &self.left.device], arguments].concat();
        attempt(&self.lab.left.namespace, &words, input)
    }

    /// Returns the peers of the left device.
    fn peers(&self) -> Vec<PeerLine> {
        wg::peers(&self.lab.left, &self.left.device)
    }

    /// Returns the only peer of the left device.
    fn peer(&self) -> PeerLine {
        let peers = self.peers();
        assert_eq!(peers.len(), 1, "{peers:?}");
        peers.into_iter().next().expect("just counted")
    }

    /// Like [`peer`](Self::peer), once its counters have settled.
    fn peer_at_rest(&self) -> PeerLine {
        settled("the counts", || self.peer())
    }

    /// Returns the configuration file of the left device, with `more` appended.
    fn file(&self, more: &str) -> String {
        format!(
            "[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n[Peer]\nPublicKey = {}\nAllowedIPs = {}\n{more}",
            self.keys[0].private,
            self.keys[1].public,
            allowed_ips(2),
        )
    }

    fn left_reaches_right(&self) -> bool {
        answers(&self.lab.left.namespace, Family::V4.inside(2))
    }

    /// Sends requests on a new connection, and returns everything answered until the router closes it.
    fn talk(&self, requests: &str) -> String {
        let mut stream = UnixStream::connect(self.left.socket()).expect("the control socket");
        stream.set_read_timeout(Some(crate::support::DEADLINE)).expect("a timeout");
        stream.write_all(requests.as_bytes()).expect("write");
        stream.shutdown(Shutdown::Write).expect("shut down");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer, and its end");
        answer
    }
}

#[test]
fn wg_shows_who_was_heard_when_and_how_much() {
    require_root!();
    let tunnel = Tunnel::up();
    let before = tunnel.peer();
    assert_eq!(before.public, tunnel.keys[1].public);
    assert_eq!(before.endpoint, Family::V4.endpoint(&tunnel.lab.right).to_string());
    assert_eq!(before.allowed_ips, allowed_ips(2));
    assert!(before.latest_handshake > 0);
    let right = &wg::peers(&tunnel.lab.right, &tunnel.right.device)[0];
    let learned = Family::V4.endpoint(&tunnel.lab.left).to_string();
    assert_eq!(right.endpoint, learned, "the responder did not learn the endpoint");

    bulk(&tunnel.lab.left, &tunnel.lab.right, Family::V4.inside(2), 1, 1 << 20);
    let after = tunnel.peer_at_rest();
    assert!(after.sent >= before.sent + (1 << 20), "{before:?} {after:?}");
    assert!(after.received > before.received, "no acknowledgements were received");

    let file = tunnel.wg("showconf", &[], "").expect("showconf");
    for line in [
        format!("ListenPort = {PORT}"),
        format!("PrivateKey = {}", tunnel.keys[0].private),
        format!("PublicKey = {}", tunnel.keys[1].public),
    ] {
        assert!(file.lines().any(|shown| shown == line), "{line} is not in {file}");
    }
}

#[test]
fn the_listen_port_changes_under_a_running_tunnel() {
    require_root!();
    let tunnel = Tunnel::up();
    let handshake = tunnel.peer().latest_handshake;
    tunnel.wg("set", &["listen-port", "51999"], "").expect("a new port");
    let shown = tunnel.wg("show", &["listen-port"], "").expect("show");
    assert_eq!(shown.trim(), "51999");
    // The first packet from the new port tells the other end.
    ping(&tunnel.lab.left.namespace, Family::V4.inside(2));
    bulk(&tunnel.lab.right, &tunnel.lab.left, Family::V4.inside(1), 2, 4 << 20);
    assert_eq!(tunnel.peer().latest_handshake, handshake, "the session was replaced");
    let roamed = &wg::peers(&tunnel.lab.right, &tunnel.right.device)[0].endpoint;
    assert!(roamed.ends_with(":51999"), "{roamed}");
    // An idle worker closes its old socket later.
    wait_until("the old port to be free again", || {
        tunnel.lab.left.namespace.run(|| UdpSocket::bind(("0.0.0.0", PORT))).expect("enter").is_ok()
    });
}

#[test]
fn a_listen_port_can_be_taken_up_again_at_once() {
    require_root!();
    let tunnel = Tunnel::up();
    let there_and_back = "set=1\nlisten_port=4321\n\nset=1\nlisten_port=4322\n\n";
    let orders = there_and_back.repeat(20);
    assert_eq!(tunnel.talk(&orders), "errno=0\n\n".repeat(40));
    wait_until("an echo", || answers(&tunnel.lab.left.namespace, Family::V4.inside(2)));
}

#[test]
fn a_listen_port_that_is_taken_is_refused_and_the_old_one_stays() {
    require_root!();
    let tunnel = Tunnel::up();
    let held = tunnel.lab.left.namespace.run(|| UdpSocket::bind("0.0.0.0:51999")).expect("enter");
    let refused = tunnel.wg("set", &["listen-port", "51999"], "").expect_err("the port is taken");
    assert!(refused.contains("Address already in use"), "{refused}");
    assert_eq!(tunnel.wg("show", &["listen-port"], "").expect("show").trim(), PORT.to_string());
    ping(&tunnel.lab.left.namespace, Family::V4.inside(2));
    drop(held);
}

#[test]
fn a_peer_that_is_removed_is_gone_with_its_session() {
    require_root!();
    let tunnel = Tunnel::up();
    tunnel.wg("set", &["peer", &tunnel.keys[1].public, "remove"], "").expect("remove");
    assert_eq!(tunnel.peers(), []);
    assert!(!tunnel.left_reaches_right());
    assert!(
        !answers(&tunnel.lab.right.namespace, Family::V4.inside(1)),
        "packets of a removed peer were accepted"
    );
}

#[test]
fn allowed_ips_move_from_one_peer_to_another_and_back() {
    require_root!();
    let tunnel = Tunnel::up();
    let (right, networks) = (&tunnel.keys[1].public, allowed_ips(2));
    let handshake = tunnel.peer().latest_handshake;
    tunnel.wg("set", &["peer", NOBODY, "allowed-ips", &networks], "").expect("a second peer");
    let allowed = || -> Vec<(String, String)> {
        let mut all: Vec<_> =
            tunnel.peers().into_iter().map(|peer| (peer.public, peer.allowed_ips)).collect();
        all.sort();
        all
    };
    let sorted = |mut all: Vec<(String, String)>| {
        all.sort();
        all
    };
    let none = "(none)".to_owned();
    let moved = [(NOBODY.to_owned(), networks.clone()), (right.clone(), none.clone())];
    assert_eq!(allowed(), sorted(moved.to_vec()));
    assert!(!tunnel.left_reaches_right(), "the old owner still has the address");

    tunnel.wg("set", &["peer", right, "allowed-ips", &networks], "").expect("back again");
    let back = [(NOBODY.to_owned(), none), (right.clone(), networks)];
    assert_eq!(allowed(), sorted(back.to_vec()));
    ping(&tunnel.lab.left.namespace, Family::V4.inside(2));
    let peers = tunnel.peers();
    let peer = peers.iter().find(|peer| peer.public == *right).expect("it was listed above");
    assert_eq!(peer.latest_handshake, handshake, "the session was replaced");
}

#[test]
fn setconf_leaves_nothing_but_what_it_says() {
    require_root!();
    let tunnel = Tunnel::up();
    let file = format!(
        "[Interface]\nPrivateKey = {}\nListenPort = 51998\nFwMark = 0x2a\n\
         [Peer]\nPublicKey = {NOBODY}\nAllowedIPs = 10.9.0.0/16\nPersistentKeepalive = 25\n",
        tunnel.keys[0].private
    );
    tunnel.wg("setconf", &["/dev/stdin"], &file).expect("setconf");
    let peer = tunnel.peer();
    assert_eq!((peer.public.as_str(), peer.allowed_ips.as_str()), (NOBODY, "10.9.0.0/16"));
    assert_eq!(tunnel.wg("show", &["fwmark"], "").expect("show").trim(), "0x2a");
    assert_eq!(tunnel.wg("show", &["listen-port"], "").expect("show").trim(), "51998");
    let keepalive = tunnel.wg("show", &["persistent-keepalive"], "").expect("show");
    assert_eq!(keepalive.trim(), format!("{NOBODY}\t25"));
}

#[test]
fn syncconf_under_traffic_keeps_sessions_and_counts_and_corrupts_nothing() {
    require_root!();
    let tunnel = Tunnel::up();
    let before = tunnel.peer();
    thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            bulk(&tunnel.lab.left, &tunnel.lab.right, Family::V4.inside(2), 2, 24 << 20);
        });
        let more = format!("[Peer]\nPublicKey = {NOBODY}\nAllowedIPs = 10.9.0.0/16\n");
        while !traffic.is_finished() {
            tunnel.wg("syncconf", &["/dev/stdin"], &tunnel.file(&more)).expect("one peer more");
            assert_eq!(tunnel.peers().len(), 2);
            tunnel.wg("syncconf", &["/dev/stdin"], &tunnel.file("")).expect("one peer less");
        }
    });
    let after = tunnel.peer_at_rest();
    assert_eq!(after.latest_handshake, before.latest_handshake, "the session was replaced");
    assert!(after.sent >= before.sent + (48 << 20), "counters were reset: {before:?} {after:?}");
    assert_eq!(after.endpoint, before.endpoint, "the endpoint changed");
}

#[test]
fn syncconf_under_a_flood_of_echoes_loses_none() {
    require_root!();
    let tunnel = Tunnel::up();
    let before = tunnel.peer();
    let changes = AtomicU32::new(0);
    let flood = thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let enough = |sent| sent >= ECHOES && changes.load(Relaxed) >= CHANGES;
            echo::flood(&tunnel.lab.left, &tunnel.lab.right, Family::V4.inside(2), enough)
        });
        let more = format!("[Peer]\nPublicKey = {NOBODY}\nAllowedIPs = 10.9.0.0/16\n");
        let mut last = before.clone();
        while !flood.is_finished() {
            for file in [tunnel.file(&more), tunnel.file("")] {
                tunnel.wg("syncconf", &["/dev/stdin"], &file).expect("syncconf");
                changes.fetch_add(1, Relaxed);
            }
            let now = tunnel.peer();
            assert!(now.sent >= last.sent && now.received >= last.received, "{last:?} {now:?}");
            last = now;
        }
        flood.join().expect("it does not panic")
    });
    assert!(flood.sent >= ECHOES && flood.lost.is_empty() && flood.surplus == 0, "{changes:?}: {flood:?}");
    let after = tunnel.peer_at_rest();
    assert_eq!(after.latest_handshake, before.latest_handshake, "the session was replaced");
    // The payload of four bytes, and at least the UDP, IPv4 and data message headers.
    assert!(after.sent >= before.sent + u64::from(flood.sent) * (4 + 8 + 20 + 32), "{before:?} {after:?}");
}

#[test]
fn one_connection_carries_several_requests_and_errnos_have_their_sign() {
    require_root!();
    let tunnel = Tunnel::up();
    let answer =
        tunnel.talk("get=1\n\nset=1\nfwmark=7\n\nset=1\nlisten_port=x\n\nset=1\nbogus=1\n\nget=1\n\n");
    let answers: Vec<&str> = answer.split_terminator("\n\n").collect();
    assert_eq!(answers.len(), 5, "{answer}");
    assert!(answers[0].ends_with("errno=0"));
    assert!(!answers[0].contains("fwmark=7") && answers[4].contains("\nfwmark=7\n"), "{answer}");
    let refused = format!("errno=-{}", Errno::EINVAL as i32);
    assert_eq!(answers[1..4], ["errno=0", &refused, &refused]);

    let bad_get = tunnel.talk("get=1\nlisten_port=1\n\n");
    assert_eq!(bad_get, format!("errno={}\n\n", Errno::EINVAL as i32));
}

#[test]
fn replacing_all_peers_leaves_a_kept_one_its_session_and_nothing_that_is_not_named() {
    require_root!();
    let tunnel = Tunnel::up();
    let right = &tunnel.keys[1].public;
    let handshake = tunnel.peer().latest_handshake;
    let words = ["peer", right, "persistent-keepalive", "25", "preshared-key", "/dev/stdin"];
    tunnel.wg("set", &words, NOBODY).expect("more about the peer");
    let key = PublicKey::to_hex(&right.parse().expect("wg made it"));
    let request = format!(
        "set=1\nreplace_peers=true\npublic_key={key}\nendpoint={}\nallowed_ip={}/32\n\n",
        Family::V4.endpoint(&tunnel.lab.right),
        Family::V4.inside(2)
    );
    assert_eq!(tunnel.talk(&request), "errno=0\n\n");
    let shown = |what| tunnel.wg("show", &[what], "").expect("show");
    assert_eq!(shown("preshared-keys").trim(), format!("{right}\t(none)"));
    assert_eq!(shown("persistent-keepalive").trim(), format!("{right}\toff"));
    assert_eq!(tunnel.peer().allowed_ips, format!("{}/32", Family::V4.inside(2)));
    ping(&tunnel.lab.left.namespace, Family::V4.inside(2));
    assert_eq!(tunnel.peer().latest_handshake, handshake, "the session was replaced");
}

#[test]
fn replacing_all_peers_leaves_what_a_new_device_would_have() {
    require_root!();
    let tunnel = Tunnel::up();
    let key = PublicKey::to_hex(&tunnel.keys[1].public.parse().expect("wg made it"));
    let nobody = PublicKey::to_hex(&NOBODY.parse().expect("a key"));
    assert_ne!(tunnel.peer().endpoint, "(none)");
    let request = format!("set=1\nreplace_peers=true\npublic_key={key}\n\n");
    assert_eq!(tunnel.talk(&request), "errno=0\n\n");
    assert_eq!(tunnel.peer().endpoint, "(none)", "an endpoint that was not named stays");
    // What is only to be updated does not exist once all peers are gone.
    let request = format!(
        "set=1\nreplace_peers=true\npublic_key={key}\nupdate_only=true\nallowed_ip=10.9.0.0/16\n\
         public_key={nobody}\nallowed_ip=10.8.0.0/16\npublic_key={nobody}\nupdate_only=true\nallowed_ip=10.7.0.0/16\n\n"
    );
    assert_eq!(tunnel.talk(&request), "errno=0\n\n");
    let peer = tunnel.peer();
    let mut nets: Vec<_> = peer.allowed_ips.split(',').collect();
    nets.sort_unstable();
    assert_eq!((peer.public.as_str(), nets), (NOBODY, vec!["10.7.0.0/16", "10.8.0.0/16"]));
}

#[test]
fn bytes_that_the_kernel_refuses_to_send_do_not_count() {
    require_root!();
    let tunnel = Tunnel::up();
    let before = tunnel.peer_at_rest();
    // Packets and handshakes to an address without a route.
    output(&tunnel.lab.left.namespace, &["ip", "route", "add", "unreachable", "198.51.100.0/24"], "");
    let right = tunnel.keys[1].public.as_str();
    tunnel.wg("set", &["peer", right, "endpoint", "198.51.100.1:51820"], "").expect("an endpoint");
    for _ in 0..3 {
        assert!(!tunnel.left_reaches_right());
    }
    tunnel
        .wg("set", &["peer", NOBODY, "endpoint", "198.51.100.1:51820", "persistent-keepalive", "1"], "")
        .expect("a peer");
    let drops = || {
        let said = tunnel.talk("get=metrics\n\n");
        let lines = said.lines().filter(|line| line.contains("reason=\"send_error\""));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>()
    };
    wait_until("refused datagrams of both peers", || drops() >= 4.0);
    for peer in tunnel.peers() {
        let sent = if peer.public == right { before.sent } else { 0 };
        assert_eq!(peer.sent, sent, "{peer:?}");
    }
}

#[test]
fn a_client_that_lists_the_directory_finds_one_socket() {
    require_root!();
    let tunnel = Tunnel::up();
    let socket = tunnel.left.socket();
    let device = socket.file_stem().expect("a name").to_string_lossy().into_owned();
    let entries = std::fs::read_dir(socket.parent().expect("a directory")).expect("readable");
    let names: Vec<_> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let ours: Vec<_> = names.iter().filter(|name| name.contains(&device)).collect();
    assert_eq!(ours, [&format!("{device}.sock")]);
}

#[test]
fn show_prints_what_wg_prints_and_json() {
    require_root!();
    let tunnel = Tunnel::up();
    let device = tunnel.left.device.as_str();
    let _ = tunnel.peer_at_rest();
    let namespace = &tunnel.lab.left.namespace;
    let wg = output(namespace, &["wg", "show", device, "dump"], "");
    assert_eq!(output(namespace, &[BINARY, "show", device, "dump"], ""), wg);
    let json = output(namespace, &[BINARY, "show", device, "--json"], "");
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let peer = &json[device]["peers"][&tunnel.keys[1].public];
    assert_eq!(peer["endpoint"], Family::V4.endpoint(&tunnel.lab.right).to_string());
    assert_eq!(json[device]["publicKey"], tunnel.keys[0].public);
    assert!(json[device].get("privateKey").is_none(), "{json}");
}

#[test]
fn a_list_of_peers_that_has_ourselves_in_it_is_taken_without_us() {
    require_root!();
    let tunnel = Tunnel::up();
    tunnel.wg("set", &["peer", &tunnel.keys[0].public, "allowed-ips", "10.9.0.0/16"], "").expect("accepted");
    assert_eq!(tunnel.peer().public, tunnel.keys[1].public);
}

#[test]
fn a_link_local_endpoint_is_told_with_its_interface_and_shown_so() {
    require_root!();
    let tunnel = Tunnel::up();
    let address = network::link_local(&tunnel.lab.right, CABLE);
    let endpoint = format!("[{address}%{CABLE}]:{PORT}");
    tunnel.wg("set", &["peer", &tunnel.keys[1].public, "endpoint", &endpoint], "").expect("an endpoint");
    assert_eq!(tunnel.peer().endpoint, endpoint);
    let ours = output(&tunnel.lab.left.namespace, &[BINARY, "show", &tunnel.left.device], "");
    assert!(ours.contains(&format!("  endpoint: {endpoint}\n")), "{ours}");
    ping(&tunnel.lab.left.namespace, Family::V4.inside(2));
}

#[test]
fn clients_that_hang_up_early_or_talk_nonsense_disturb_nobody() {
    require_root!();
    let tunnel = Tunnel::up();
    // Closed at once, in the middle of a request.
    for nothing in ["", "set=1\nfwmark=9", "set=1\nfwmark=9\n", "hello\n\n", "\u{0}\n"] {
        assert_eq!(tunnel.talk(nothing), "", "{nothing:?}");
    }
    // Some stay open and send nothing.
    let silent: Vec<_> =
        (0..8).map(|_| UnixStream::connect(tunnel.left.socket()).expect("connect")).collect();
    let shown = tunnel.wg("show", &["fwmark"], "").expect("show");
    assert_eq!(shown.trim(), "off", "half a request was applied");
    drop(silent);
    wait_until("an echo", || {
        thread::sleep(Duration::from_millis(10));
        tunnel.left_reaches_right()
    });
    let devices = output(&tunnel.lab.left.namespace, &["wg", "show", "interfaces"], "");
    assert!(devices.contains(&tunnel.left.device), "{devices}");
}

/// Clients that send a request without an end, and how many bytes each sends.
const CLIENTS: usize = 16;
const SENT: usize = 15 << 20;

#[test]
fn requests_without_an_end_share_the_memory_of_one_and_silent_ones_end() {
    require_root!();
    let lab = lab();
    let laneway = Laneway::start(&lab.left, &[]);
    let peer = format!("public_key={}\n", "ab".repeat(32)) + &"allowed_ip=192.0.2.7/32\n".repeat(100);
    let before = laneway.process.memory("VmRSS");
    let clients: Vec<UnixStream> = thread::scope(|scope| {
        let (peer, socket) = (&peer, laneway.socket());
        let send = |mut stream: UnixStream| {
            stream.set_write_timeout(Some(Duration::from_millis(500))).expect("a timeout");
            let _ = stream.write_all(b"set=1\n");
            for _ in 0..SENT / peer.len() {
                // The router takes one of them at a time.
                if stream.write_all(peer.as_bytes()).is_err() {
                    break;
                }
            }
            stream
        };
        let streams = (0..CLIENTS).map(|_| UnixStream::connect(&socket).expect("connect"));
        let senders: Vec<_> = streams.map(|stream| scope.spawn(move || send(stream))).collect();
        senders.into_iter().map(|sender| sender.join().expect("a sender")).collect()
    });
    let peak = laneway.process.memory("VmHWM");
    println!("{before} KiB before, {peak} KiB at the peak");
    assert!(peak < before + (48 << 10), "{before} KiB before, {peak} KiB at the peak");
    // Short requests pass meanwhile.
    assert!(crate::support::binary::serves(&laneway.device));
    // The one whose turn it is sends nothing any more, and is closed.
    for client in &clients {
        client.set_nonblocking(true).expect("set");
    }
    let closed =
        |mut client: &UnixStream| !matches!(client.read(&mut [0]), Err(error) if error.kind() == WouldBlock);
    wait_until("a client to be closed", || clients.iter().any(closed));
    drop(clients);
    wait_until("memory to go back", || laneway.process.memory("VmRSS") < before + (16 << 10));
}
