//! `laneway run`: a router from a configuration file that follows changes to the file and to the DNS names in it.

use std::collections::HashMap;
use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::support::binary::{self, BINARY, Laneway, serves};
use crate::support::folder::Folder;
use crate::support::ping::{self, answers, ping};
use crate::support::process::{Process, command_in, output};
use crate::support::tunnel::{Family, PORT, address, allowed_ips};
use crate::support::wg::{self, KeyPair, Setting, control_socket};
use crate::support::{device_name, lab, links, require_root, wait_until};
use laneway::cli::demo::lab::{Lab, Side};
use nix::sys::signal::Signal;

/// A sidecar on the left, and a router on the right that only responds.
struct Sidecar {
    lab: Lab,
    right: Laneway,
    keys: [KeyPair; 2],
    folder: Folder,
    device: String,
}

impl Sidecar {
    fn new() -> Sidecar {
        let lab = lab();
        let right = Laneway::start(&lab.right, &[]);
        let keys = [KeyPair::generate(&lab.left), KeyPair::generate(&lab.right)];
        wg::set(&lab.right, &right.device, &keys[1], &Setting::new(&keys[0], 1));
        address(&lab.right, &right.device, 2);
        Sidecar { lab, right, keys, folder: Folder::new(), device: device_name("lw") }
    }

    /// Writes the file with these lines for interface and peer, and returns its path.
    fn write(&self, interface: &str, peer: &str) -> String {
        let text = format!(
            "[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n{interface}\n[Peer]\nPublicKey = {}\n{peer}\n",
            self.keys[0].private, self.keys[1].public
        );
        self.folder.write(&format!("{}.conf", self.device), &text)
    }

    /// Starts the sidecar and waits for its control socket.
    fn start(&self, command: &mut std::process::Command) -> Process {
        let mut process = Process::start_quietly(command);
        wait_until("the sidecar", || {
            assert!(process.is_running(), "it exited during the start: {}", process.said());
            serves(&self.device)
        });
        process
    }

    fn run(&self, interface: &str, peer: &str) -> Process {
        let file = self.write(interface, peer);
        let environment = [("LANEWAY_METRICS_ADDR", "off")];
        self.start(&mut binary::command(&self.lab.left, &["run", "--config", &file], &environment))
    }

    fn left(&self, words: &str) -> String {
        output(&self.lab.left.namespace, &words.split(' ').collect::<Vec<_>>(), "")
    }

    fn endpoint(&self) -> String {
        format!("Endpoint = {}", Family::V4.endpoint(&self.lab.right))
    }
}

/// Returns the `Address` line of the left end.
fn addresses() -> String {
    format!("Address = {}/24, {}/64", Family::V4.inside(1), Family::V6.inside(1))
}

#[test]
fn a_hangup_brings_about_what_the_file_says_now_and_interrupts_nothing() {
    require_root!();
    let sidecar = Sidecar::new();
    let endpoint = sidecar.endpoint();
    let process = sidecar.run(
        &format!("{}\nAddress = 10.50.0.1/24\nMTU = 1400", addresses()),
        &format!("{endpoint}\nAllowedIPs = {}, 10.60.0.0/16", allowed_ips(2)),
    );
    ping(&sidecar.lab.left.namespace, Family::V4.inside(2));
    let before = wg::peers(&sidecar.lab.left, &sidecar.device).remove(0);
    let link = || sidecar.left(&format!("ip addr show {}", sidecar.device));
    let routes = || sidecar.left("ip route");
    assert!(link().contains("10.50.0.1/24") && link().contains("mtu 1400"), "{}", link());
    assert!(routes().contains("10.60.0.0/16"), "{}", routes());

    let nobody = KeyPair::generate(&sidecar.lab.left).public;
    sidecar.write(
        &format!("{}\nAddress = 10.51.0.1/24\nMTU = 1380", addresses()),
        &format!(
            "{endpoint}\nAllowedIPs = {}, 10.61.0.0/16\n[Peer]\nPublicKey = {nobody}\nAllowedIPs = 10.62.0.0/16",
            allowed_ips(2)
        ),
    );
    process.signal(Signal::SIGHUP);
    // Changes are applied one after another, in no specified order.
    wait_until("the new link", || {
        let link = link();
        link.contains("mtu 1380") && link.contains("10.51.0.1/24") && !link.contains("10.50.0.1")
    });
    wait_until("the new routes", || {
        let routes = routes();
        let new = routes.contains("10.61.0.0/16") && routes.contains("10.62.0.0/16");
        new && !routes.contains("10.60.0.0/16")
    });
    let peers = wg::peers(&sidecar.lab.left, &sidecar.device);
    assert_eq!(peers.len(), 2);
    let after = peers.into_iter().find(|peer| peer.public == before.public).expect("the peer stays");
    assert_eq!(after.latest_handshake, before.latest_handshake, "the session was replaced");
    assert!(after.sent >= before.sent && after.endpoint == before.endpoint, "{before:?} {after:?}");
    ping(&sidecar.lab.left.namespace, Family::V6.inside(2));
}

#[test]
fn a_file_with_a_mistake_changes_nothing_and_is_told_where_it_is() {
    require_root!();
    let sidecar = Sidecar::new();
    let peer = format!("{}\nAllowedIPs = {}", sidecar.endpoint(), allowed_ips(2));
    let process = sidecar.run(&addresses(), &peer);
    ping(&sidecar.lab.left.namespace, Family::V4.inside(2));
    // The kernel assigns the cable's link-local address asynchronously.
    wait_until("no tentative addresses", || !sidecar.left("ip addr").contains("tentative"));
    let before = (sidecar.left("ip addr"), sidecar.left(&format!("wg showconf {}", sidecar.device)));
    let file = sidecar.write("Address = 10.51.0.1/24\nMTU = 1300", "AllowedIPs = 10.0.0.0/33");
    process.signal(Signal::SIGHUP);
    wait_until("the error in the log", || process.said().contains(&format!("{file}:8: AllowedIPs = ")));
    assert_eq!(before, (sidecar.left("ip addr"), sidecar.left(&format!("wg showconf {}", sidecar.device))));
    ping(&sidecar.lab.left.namespace, Family::V4.inside(2));
}

#[test]
fn everything_goes_through_the_tunnel_if_the_peer_may_have_everything() {
    require_root!();
    let sidecar = Sidecar::new();
    // A more specific route, which must keep precedence over the tunnel.
    sidecar.left("ip route add 198.51.100.0/24 via 192.0.2.2");
    let rules = || ["ip -4 rule", "ip -6 rule"].map(|words| sidecar.left(words));
    let before = rules();
    let peer = |networks: &str| format!("{}\nAllowedIPs = {networks}", sidecar.endpoint());
    let mut process = sidecar.run(&addresses(), &peer("0.0.0.0/0, ::/0"));
    for family in Family::ALL {
        ping(&sidecar.lab.left.namespace, family.inside(2));
    }
    // The right end does not have this address and answers so, through the tunnel.
    let way = |to: &str| sidecar.left(&format!("ip route get {to}"));
    assert!(way("203.0.113.1").contains(&sidecar.device), "{}", way("203.0.113.1"));
    assert!(way("198.51.100.1").contains("dev underlay"), "{}", way("198.51.100.1"));
    assert!(way("2001:db8:ffff::1").contains(&sidecar.device), "{}", way("2001:db8:ffff::1"));

    sidecar.write(&addresses(), &peer("0.0.0.0/0"));
    process.signal(Signal::SIGHUP);
    wait_until("the removal of a rule", || rules()[1] == before[1]);
    assert_ne!(rules()[0], before[0]);
    ping(&sidecar.lab.left.namespace, Family::V4.inside(2));
    process.signal(Signal::SIGTERM);
    assert_eq!(process.wait(), Some(0), "{}", process.said());
    assert_eq!(rules(), before, "policy rules were left behind");
}

#[test]
fn a_peer_that_moves_is_found_by_its_name_again() {
    require_root!();
    let sidecar = Sidecar::new();
    let zone = Zone::serve(&sidecar.lab.left, Ipv4Addr::LOCALHOST);
    let peer = format!("Endpoint = peer.example:{PORT}\nAllowedIPs = {}", allowed_ips(2));
    sidecar.left(&format!("ip route add {}/32 dev underlay mtu 1450", sidecar.lab.right.underlay4));
    let mut process = sidecar.start(&mut with_names(&sidecar, Ipv4Addr::LOCALHOST, &peer));
    let left = || wg::peers(&sidecar.lab.left, &sidecar.device).remove(0);
    let mtu_is = |mtu: u32| {
        let shown = sidecar.left(&format!("ip link show {}", sidecar.device));
        shown.contains(&format!(" mtu {mtu} "))
    };
    assert!(mtu_is(1420), "without a route to the peer");

    // The name does not exist yet: the router keeps trying, and later packets get through.
    wait_until("a query", || zone.asked() > 1);
    assert_eq!(left().endpoint, "(none)");
    zone.set("peer.example", sidecar.lab.right.underlay4);
    wait_until("an address", || left().endpoint == format!("{}:{PORT}", sidecar.lab.right.underlay4));
    wait_until("the MTU of the route there", || mtu_is(1370));
    ping(&sidecar.lab.left.namespace, Family::V4.inside(2));

    // The peer moves, and only its DNS name says so.
    let moved = Ipv4Addr::new(192, 0, 2, 77);
    zone.set("peer.example", moved);
    let asked = zone.asked();
    let right = |words: &str| output(&sidecar.lab.right.namespace, &words.split(' ').collect::<Vec<_>>(), "");
    right(&format!("ip addr del {}/24 dev underlay", sidecar.lab.right.underlay4));
    right(&format!("ip addr add {moved}/24 dev underlay"));
    // The right end loses its sessions, so the left one initiates, at the old address first.
    right(&format!("wg set {} peer {} remove", sidecar.right.device, sidecar.keys[0].public));
    wg::set(&sidecar.lab.right, &sidecar.right.device, &sidecar.keys[1], &Setting::new(&sidecar.keys[0], 1));
    sidecar.left(&format!("wg set {} private-key /dev/null", sidecar.device));
    output(
        &sidecar.lab.left.namespace,
        &["wg", "set", &sidecar.device, "private-key", "/dev/stdin"],
        &sidecar.keys[0].private,
    );
    wait_until("an echo from where the peer is now", || {
        answers(&sidecar.lab.left.namespace, Family::V4.inside(2))
    });
    assert_eq!(left().endpoint, format!("{moved}:{PORT}"));
    assert!(zone.asked() > asked);
    wait_until("the MTU of the route to its new address", || mtu_is(1420));

    // A silent name server blocks nothing.
    zone.fall_silent();
    sidecar
        .write(&addresses(), &format!("Endpoint = silent.example:{PORT}\nAllowedIPs = {}", allowed_ips(2)));
    process.signal(Signal::SIGHUP);
    wait_until("a query", || zone.was_asked_for("silent.example"));
    // The peer keeps its endpoint.
    ping::once(&sidecar.lab.left.namespace, Family::V4.inside(2));
    assert_eq!(left().endpoint, format!("{moved}:{PORT}"));
    process.signal(Signal::SIGTERM);
    assert_eq!(process.wait(), Some(0), "a pending lookup blocked the exit");
}

#[test]
fn a_name_is_looked_up_before_everything_goes_through_the_tunnel() {
    require_root!();
    let sidecar = Sidecar::new();
    // A name server behind the default route, which will move into the tunnel.
    let server = Ipv4Addr::new(203, 0, 113, 53);
    let words = format!("ip addr add {server}/32 dev lo");
    output(&sidecar.lab.right.namespace, &words.split(' ').collect::<Vec<_>>(), "");
    sidecar.left("ip route add default via 192.0.2.2");
    let zone = Zone::serve(&sidecar.lab.right, server);
    zone.set("peer.example", sidecar.lab.right.underlay4);
    let peer = format!("Endpoint = peer.example:{PORT}\nAllowedIPs = 0.0.0.0/0");
    let _process = sidecar.start(&mut with_names(&sidecar, server, &peer));
    assert!(sidecar.left(&format!("ip route get {server}")).contains(&sidecar.device));
    ping(&sidecar.lab.left.namespace, Family::V4.inside(2));
}

/// The tunnel no longer works, so only a query that does not enter it reaches the name server.
#[test]
fn a_name_is_looked_up_past_a_tunnel_that_takes_everything() {
    require_root!();
    let sidecar = Sidecar::new();
    let server = Ipv4Addr::new(203, 0, 113, 53);
    let right = |words: &str| output(&sidecar.lab.right.namespace, &words.split(' ').collect::<Vec<_>>(), "");
    right(&format!("ip addr add {server}/32 dev lo"));
    sidecar.left("ip route add default via 192.0.2.2");
    let zone = Zone::serve(&sidecar.lab.right, server);
    zone.set("peer.example", sidecar.lab.right.underlay4);
    let peer = |name: &str| format!("Endpoint = {name}:{PORT}\nAllowedIPs = 0.0.0.0/0");
    let mut process = sidecar.start(&mut with_names(&sidecar, server, &peer("peer.example")));
    assert!(sidecar.left(&format!("ip route get {server}")).contains(&sidecar.device));
    ping::once(&sidecar.lab.left.namespace, Family::V4.inside(2));
    // The rules of a killed router stay.
    process.signal(Signal::SIGKILL);
    process.wait();
    let process = sidecar.start(&mut with_names(&sidecar, server, &peer("peer.example")));
    ping::once(&sidecar.lab.left.namespace, Family::V4.inside(2));
    right(&format!("wg set {} peer {} remove", sidecar.right.device, sidecar.keys[0].public));
    sidecar.write(&addresses(), &peer("other.example"));
    process.signal(Signal::SIGHUP);
    wait_until("a query past the tunnel", || zone.was_asked_for("other.example"));
}

#[test]
fn the_end_of_a_tunnel_that_takes_everything_leaves_the_rules_of_another() {
    require_root!();
    let sidecar = Sidecar::new();
    let peer = format!("{}\nAllowedIPs = 0.0.0.0/0, ::/0", sidecar.endpoint());
    let _first = sidecar.run(&addresses(), &peer);
    let shown = sidecar.left(&format!("ip -6 addr show {}", sidecar.device));
    assert!(!shown.contains("fe80"), "a generated address: {shown}");
    let rules = || ["ip -4 rule", "ip -6 rule"].map(|words| sidecar.left(words));
    let before = rules();
    let second = device_name("lw");
    let text = format!(
        "[Interface]\nPrivateKey = {}\n[Peer]\nPublicKey = {}\nAllowedIPs = 0.0.0.0/0, ::/0\n",
        KeyPair::generate(&sidecar.lab.left).private,
        KeyPair::generate(&sidecar.lab.left).public
    );
    let file = sidecar.folder.write(&format!("{second}.conf"), &text);
    let environment = [("LANEWAY_METRICS_ADDR", "off")];
    let mut process = Process::start_quietly(&mut binary::command(
        &sidecar.lab.left,
        &["run", "--config", &file],
        &environment,
    ));
    wait_until("the second router", || serves(&second));
    assert!(sidecar.left("wg show all fwmark").contains(&format!("{second}\t0xca6d")));
    assert_ne!(rules(), before);
    process.signal(Signal::SIGTERM);
    assert_eq!(process.wait(), Some(0), "{}", process.said());
    assert_eq!(rules(), before);
    assert!(sidecar.left("ip route get 203.0.113.1").contains(&sidecar.device));
}

#[test]
fn without_an_mtu_in_the_file_the_interface_follows_the_route_to_the_peer() {
    require_root!();
    let sidecar = Sidecar::new();
    let resize = |mtu: u32| sidecar.left(&format!("ip link set underlay mtu {mtu}"));
    let is = |mtu: u32| {
        let shown = sidecar.left(&format!("ip link show {}", sidecar.device));
        shown.contains(&format!(" mtu {mtu} "))
    };
    resize(1450);
    let peer = format!("{}\nAllowedIPs = {}", sidecar.endpoint(), allowed_ips(2));
    let process = sidecar.run(&addresses(), &peer);
    assert!(is(1370), "{}", process.said());
    let shown = sidecar.left(&format!("{BINARY} show {}", sidecar.device));
    assert!(shown.contains("mtu: 1370 (from: route)"), "{shown}");
    resize(1400);
    wait_until("the MTU to follow the underlay", || is(1320));
    sidecar.write(&format!("{}\nMTU = 1300", addresses()), &peer);
    process.signal(Signal::SIGHUP);
    wait_until("the MTU in the file", || is(1300));
    sidecar.write(&addresses(), &peer);
    process.signal(Signal::SIGHUP);
    wait_until("the MTU of the route again", || is(1320));
}

#[test]
fn what_another_process_removes_is_a_failure_to_a_service_manager() {
    require_root!();
    let sidecar = Sidecar::new();
    let ends: [&dyn Fn(); 2] = [&|| drop(sidecar.left(&format!("ip link del {}", sidecar.device))), &|| {
        fs::remove_file(control_socket(&sidecar.device)).expect("remove the socket");
    }];
    for end in ends {
        let mut process = sidecar.run(&addresses(), &format!("AllowedIPs = {}", allowed_ips(2)));
        end();
        assert_eq!(process.wait(), Some(1), "{}", process.said());
        assert!(process.said().contains("another process removed"), "{}", process.said());
    }
}

#[test]
fn a_name_that_is_waited_for_does_not_hold_up_the_end() {
    require_root!();
    let sidecar = Sidecar::new();
    let state = || (["ip -4 rule", "ip -6 rule"].map(|words| sidecar.left(words)), links(&sidecar.lab.left));
    let before = state();
    let zone = Zone::serve(&sidecar.lab.left, Ipv4Addr::LOCALHOST);
    zone.fall_silent();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let name = format!("{signal}.example").to_lowercase();
        let peer = format!("Endpoint = {name}:{PORT}\nAllowedIPs = 0.0.0.0/0, ::/0");
        let command = &mut with_names(&sidecar, Ipv4Addr::LOCALHOST, &peer);
        let mut process = Process::start_quietly(command.env("LANEWAY_LOG", "info"));
        wait_until("a query, and a signal handler", || {
            zone.was_asked_for(&name) && handles(&process, signal)
        });
        process.signal(signal);
        assert_eq!(process.wait(), Some(0), "{}", process.said());
        let said = process.said();
        assert!(said.contains("stopping: received a signal"), "{said}");
        assert!(!said.contains("has no address yet"), "it waited for the name: {said}");
        assert!(!said.contains("left behind"), "{said}");
        // The kernel removes the device asynchronously.
        wait_until("the initial state", || state() == before);
        assert!(!control_socket(&sidecar.device).exists());
    }
}

/// Returns whether the process handles the signal.
fn handles(process: &Process, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{}/status", process.id())).expect("a process");
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).expect("a line about signals");
    u64::from_str_radix(caught.trim(), 16).expect("a mask") >> (signal as u32 - 1) & 1 == 1
}

/// Returns the command of a sidecar that looks names up at `server`: it runs in a mount namespace with its own
/// `/etc/resolv.conf`.
fn with_names(sidecar: &Sidecar, server: Ipv4Addr, peer: &str) -> std::process::Command {
    let file = sidecar.write(&addresses(), peer);
    // One attempt with a timeout of a second, so that an unanswered query ends soon.
    let resolver = format!("nameserver {server}\noptions timeout:1 attempts:1\n");
    let resolver = sidecar.folder.write("resolv.conf", &resolver);
    let switch = sidecar.folder.write("nsswitch.conf", "hosts: files dns\n");
    let script = format!(
        "mount --bind {resolver} /etc/resolv.conf && mount --bind {switch} /etc/nsswitch.conf && \
         exec {BINARY} run --config {file}"
    );
    let mut command = command_in(&sidecar.lab.left.namespace, "unshare");
    command.args(["--mount", "sh", "-c", &script]).env("LANEWAY_METRICS_ADDR", "off");
    command.stdin(Stdio::null());
    command
}

/// A name server with a few names, in one side of the lab.
struct Zone {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    addresses: HashMap<String, Ipv4Addr>,
    questions: Vec<String>,
    silent: bool,
    over: bool,
}

impl Zone {
    fn serve(side: &Side, address: Ipv4Addr) -> Zone {
        let socket = side.namespace.run(|| UdpSocket::bind((address, 53))).expect("enter").expect("bind");
        socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
        let shared = Arc::<Mutex<Shared>>::default();
        let zone = Zone { shared: Arc::clone(&shared) };
        thread::spawn(move || {
            let mut question = [0; 512];
            while !shared.lock().expect("no panic").over {
                let Ok((len, from)) = socket.recv_from(&mut question) else { continue };
                if let Some(answer) = answer(&question[..len], &mut shared.lock().expect("no panic")) {
                    socket.send_to(&answer, from).expect("send");
                }
            }
        });
        zone
    }

    fn set(&self, name: &str, address: Ipv4Addr) {
        self.shared.lock().expect("no panic").addresses.insert(name.into(), address);
    }

    fn fall_silent(&self) {
        self.shared.lock().expect("no panic").silent = true;
    }

    fn asked(&self) -> usize {
        self.shared.lock().expect("no panic").questions.len()
    }

    fn was_asked_for(&self, name: &str) -> bool {
        self.shared.lock().expect("no panic").questions.iter().any(|asked| asked == name)
    }
}

impl Drop for Zone {
    fn drop(&mut self) {
        self.shared.lock().expect("no panic").over = true;
    }
}

/// Answers one query (RFC 1035, section 4): with an address, no address of that type, or NXDOMAIN.
fn answer(question: &[u8], zone: &mut Shared) -> Option<Vec<u8>> {
    let mut labels = Vec::new();
    let mut at = 12;
    while question[at] != 0 {
        let length = usize::from(question[at]);
        labels.push(String::from_utf8_lossy(&question[at + 1..][..length]).into_owned());
        at += 1 + length;
    }
    let end = at + 5;
    let name = labels.join(".");
    let address = zone.addresses.get(&name).copied();
    zone.questions.push(name);
    if zone.silent {
        return None;
    }
    let is_a = question[at + 1..at + 3] == [0, 1];
    let records = u8::from(is_a && address.is_some());
    let no_such_name = if address.is_none() { 3 } else { 0 };
    // Response, authoritative, recursion available; one question; the number of answers.
    let header = [question[0], question[1], 0x85, 0x80 | no_such_name, 0, 1, 0, records, 0, 0, 0, 0];
    let mut answer = [&header[..], &question[12..end]].concat();
    if let (true, Some(address)) = (is_a, address) {
        // The name as a pointer to the question; type A, class IN, TTL 0, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}
