//! Packets for the tunnel of a `laneway run` never leave unencrypted, whatever happens to the process, its interface,
//! addresses and routes.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::process::Command;

use crate::support::binary::{self, BINARY, Laneway, serves};
use crate::support::folder::Folder;
use crate::support::network::sysctl;
use crate::support::ping;
use crate::support::process::{Process, attempt, output};
use crate::support::tunnel::{Family, address};
use crate::support::wg::{self, KeyPair, Setting};
use crate::support::{device_name, lab, require_root, skip, wait_until};
use laneway::cli::demo::lab::Lab;
use nix::sys::signal::Signal;

/// Addresses behind the default routes. The right end has them, in the tunnel and outside.
const FAR: [&str; 2] = ["203.0.113.9", "2001:db8:ffff::9"];
const FAR_PORT: u16 = 9;

/// A sidecar on the left whose packets a host on the right receives, encrypted or not.
struct Guarded {
    lab: Lab,
    folder: Folder,
    device: String,
    keys: [KeyPair; 2],
    networks: &'static str,
    keep: bool,
    /// The left end's endpoint of the right end.
    endpoint: SocketAddr,
    far: [UdpSocket; 2],
    near: [UdpSocket; 2],
    right: Laneway,
}

impl Guarded {
    fn new(networks: &'static str) -> Guarded {
        let lab = lab();
        let right = Laneway::start(&lab.right, &[]);
        let keys = [KeyPair::generate(&lab.left), KeyPair::generate(&lab.right)];
        wg::set(&lab.right, &right.device, &keys[1], &Setting::new(&keys[0], 1));
        address(&lab.right, &right.device, 2);
        for (far, version) in FAR.iter().zip(["-4", "-6"]) {
            let words = ["ip", version, "addr", "add", far, "dev", "lo"];
            output(&lab.right.namespace, &words, "");
        }
        let ways = [("-4", lab.right.underlay4.to_string()), ("-6", lab.right.underlay6.to_string())];
        for (version, way) in ways {
            output(&lab.left.namespace, &["ip", version, "route", "add", "default", "via", &way], "");
        }
        let bind = |side: &laneway::cli::demo::lab::Side, address: String| {
            let socket = side.namespace.run(|| UdpSocket::bind(&*address)).expect("enter").expect("bind");
            socket.set_nonblocking(true).expect("a socket");
            socket
        };
        let far = FAR.map(|far| bind(&lab.right, SocketAddr::new(ip(far), FAR_PORT).to_string()));
        let near = ["0.0.0.0:0", "[::]:0"].map(|any| bind(&lab.left, any.to_owned()));
        let (folder, device) = (Folder::new(), device_name("lw"));
        let endpoint = Family::V4.endpoint(&lab.right);
        Guarded { lab, folder, device, keys, networks, keep: false, endpoint, far, near, right }
    }

    fn write(&self, interface: &str) -> String {
        let addresses = Family::ALL.map(|family| family.inside(1)).map(|address| match address {
            IpAddr::V4(address) => format!("{address}/24"),
            IpAddr::V6(address) => format!("{address}/64"),
        });
        let text = format!(
            "[Interface]\nPrivateKey = {}\nAddress = {}\n{interface}\n[Peer]\nPublicKey = {}\nEndpoint = {}\n\
             AllowedIPs = {}\n",
            self.keys[0].private,
            addresses.join(","),
            self.keys[1].public,
            self.endpoint,
            self.networks,
        );
        self.folder.write(&format!("{}.conf", self.device), &text)
    }

    fn command(&self) -> Command {
        let file = self.write("");
        let keep = if self.keep { "on" } else { "off" };
        let environment = [("LANEWAY_METRICS_ADDR", "off"), ("LANEWAY_KEEP", keep)];
        binary::command(&self.lab.left, &["run", "--config", &file], &environment)
    }

    fn start(&self) -> Process {
        let mut process = Process::start_quietly(&mut self.command());
        wait_until("the sidecar", || {
            assert!(process.is_running(), "it exited during the start: {}", process.said());
            serves(&self.device)
        });
        process
    }

    fn left(&self, words: &str) -> String {
        output(&self.lab.left.namespace, &words.split(' ').collect::<Vec<_>>(), "")
    }

    /// Sends one datagram of each IP version, and returns how many have arrived unencrypted and encrypted since the
    /// last call. Errors of the kernel are one way not to leave.
    fn send(&self) -> [usize; 2] {
        let mut arrived = [0; 2];
        for (near, far) in self.near.iter().zip(FAR) {
            if ip(far).is_ipv4() && self.networks == "::/0" {
                // IPv4 is not tunnelled, so it may leave.
                continue;
            }
            let _ = near.send_to(b"in the clear?", SocketAddr::new(ip(far), FAR_PORT));
        }
        for far in &self.far {
            let mut bytes = [0; 64];
            while let Ok((_, from)) = far.recv_from(&mut bytes) {
                let inside = Family::ALL.iter().any(|family| family.inside(1) == from.ip());
                arrived[usize::from(inside)] += 1;
            }
        }
        arrived
    }

    /// Asserts that nothing leaves unencrypted.
    fn assert_closed(&self, when: &str) {
        for _ in 0..20 {
            assert_eq!(self.send()[0], 0, "unencrypted {when}");
        }
    }

    /// Waits until packets of each version that is tunnelled arrive through the tunnel, and asserts that nothing
    /// leaves unencrypted until then.
    fn wait_for_tunnel(&self, when: &str) {
        wait_until(when, || {
            let [clear, inside] = self.send();
            assert_eq!(clear, 0, "unencrypted: {when}");
            inside >= self.networks.split(',').count()
        });
    }

    /// Waits until packets leave unencrypted, as they do without a router. Shows that [`send`](Self::send) notices.
    fn wait_for_clear(&self) {
        wait_until("packets by the underlay", || self.send()[0] > 0);
    }

    fn down(&self) -> Result<String, String> {
        attempt(&self.lab.left.namespace, &[BINARY, "down", &self.device], "")
    }

    /// Returns rules, unreachable routes and interfaces.
    fn state(&self) -> String {
        let shown = [
            "ip -4 rule",
            "ip -6 rule",
            "ip -4 route show table all type unreachable",
            "ip -6 route show table all type unreachable",
            "ip -brief link",
        ];
        shown.map(|words| self.left(words)).concat()
    }

    fn index(&self) -> String {
        self.left(&format!("ip -o link show {}", self.device))
            .split(':')
            .next()
            .unwrap_or_default()
            .to_owned()
    }
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

const EVERYTHING: &str = "0.0.0.0/0, ::/0";

#[test]
fn a_killed_router_leaves_a_closed_interface_that_the_next_one_takes_over() {
    require_root!();
    for networks in [EVERYTHING, "::/0"] {
        let guarded = Guarded::new(networks);
        let before = guarded.state();
        guarded.wait_for_clear();
        let mut process = guarded.start();
        let index = guarded.index();
        while guarded.send()[0] > 0 {}
        guarded.wait_for_tunnel("the tunnel");
        for _ in 0..2 {
            process.signal(Signal::SIGKILL);
            process.wait();
            guarded.assert_closed("after kill -9");
            process = guarded.start();
            guarded.wait_for_tunnel("after a restart");
            assert_eq!(guarded.index(), index);
            assert!(!process.said().contains("already exists"), "{}", process.said());
        }
        process.signal(Signal::SIGSTOP);
        guarded.assert_closed("while it is frozen");
        process.signal(Signal::SIGCONT);
        guarded.wait_for_tunnel("after the freeze");
        process.signal(Signal::SIGTERM);
        assert_eq!(process.wait(), Some(0), "{}", process.said());
        assert_eq!(guarded.state(), before, "{}", process.said());
        guarded.wait_for_clear();
    }
}

#[test]
fn removed_addresses_and_routes_are_restored_and_nothing_leaks_meanwhile() {
    require_root!();
    let mut guarded = Guarded::new(EVERYTHING);
    let process = guarded.start();
    guarded.wait_for_tunnel("the tunnel");
    let device = &guarded.device;
    let rules = guarded.left("ip -4 rule") + &guarded.left("ip -6 rule");

    guarded.left(&format!("ip link set {device} down"));
    guarded.assert_closed("while the interface is down");
    guarded.left(&format!("ip link set {device} up"));
    guarded.wait_for_tunnel("after it is up again");
    assert_eq!(process.said().matches("had been removed").count(), 1, "{}", process.said());

    guarded.left(&format!("ip addr flush dev {device}"));
    guarded.left("ip -4 route flush table 51820");
    guarded.left("ip -6 route flush table 51820");
    guarded.wait_for_tunnel("after addresses and routes were flushed");

    // An MTU below 1280 removes IPv6 from the interface.
    guarded.left(&format!("ip link set {device} mtu 1000"));
    guarded.assert_closed("with an MTU too small for IPv6");
    guarded.left(&format!("ip link set {device} mtu 1420"));
    guarded.wait_for_tunnel("after the MTU was restored");

    for (version, table) in [("-4", 32_701), ("-6", 32_702)] {
        guarded.left(&format!("ip {version} rule del pref {table}"));
    }
    wait_until("the rules", || guarded.left("ip -4 rule") + &guarded.left("ip -6 rule") == rules);

    guarded.write("MTU = 1000");
    process.signal(Signal::SIGHUP);
    wait_until("the refusal", || {
        process.said().contains("configuration unchanged: MTU 1000 is too small for IPv6")
    });
    guarded.wait_for_tunnel("after a refused reload");

    guarded.networks = "0.0.0.0/1, 128.0.0.0/1, ::/1, 8000::/1";
    guarded.write("");
    process.signal(Signal::SIGHUP);
    wait_until("the rules to be removed", || !guarded.left("ip -4 rule").contains("51820"));
    guarded.networks = EVERYTHING;
    guarded.write("");
    process.signal(Signal::SIGHUP);
    wait_until("the rules to be back", || guarded.left("ip -4 rule").contains("51820"));
    guarded.wait_for_tunnel("with default routes again");
    assert!(!process.said().contains("no longer has a default route"), "{}", process.said());

    guarded.networks = "203.0.113.0/24";
    guarded.write("");
    process.signal(Signal::SIGHUP);
    wait_until("the warning that packets now leave unencrypted", || {
        let said = process.said();
        ["IPv4", "IPv6"]
            .iter()
            .all(|version| said.contains(&format!("{version} packets that it took now follow")))
    });

    // Nothing leads to a table with a number of the user's.
    guarded.networks = EVERYTHING;
    guarded.write("");
    process.signal(Signal::SIGHUP);
    wait_until("the rules to be back", || guarded.left("ip -4 rule").contains("51820"));
    guarded.write("Table = 1234");
    process.signal(Signal::SIGHUP);
    wait_until("the warnings", || process.said().matches("packets that it took now follow").count() == 4);
}

#[test]
fn a_router_that_comes_back_keeps_its_tunnel_closed_until_laneway_down() {
    require_root!();
    for networks in [EVERYTHING, "203.0.113.0/24, 2001:db8:ffff::/64"] {
        let mut guarded = Guarded::new(networks);
        guarded.keep = true;
        let before = guarded.state();
        let said = guarded.down().expect_err("there is nothing to remove");
        assert!(said.contains("there is no interface"), "{said}");
        let mut process = guarded.start();
        guarded.wait_for_tunnel("the tunnel");
        let said = guarded.down().expect_err("it runs");
        assert!(said.contains("stop it first"), "{said}");
        process.signal(Signal::SIGTERM);
        assert_eq!(process.wait(), Some(0), "{}", process.said());
        guarded.assert_closed("after an ordered end");
        // Without the interface, too.
        guarded.left(&format!("ip link del {}", guarded.device));
        guarded.assert_closed("after the interface was deleted");
        let mut process = guarded.start();
        guarded.wait_for_tunnel("after a new start");
        process.signal(Signal::SIGTERM);
        assert_eq!(process.wait(), Some(0), "{}", process.said());
        guarded.down().unwrap_or_else(|said| panic!("{said}"));
        assert_eq!(guarded.state(), before);
        guarded.wait_for_clear();
    }
}

#[test]
fn a_router_that_others_configure_comes_back_with_their_addresses_and_routes() {
    require_root!();
    let (lab, device) = (lab(), device_name("lw"));
    let left = |words: &str| output(&lab.left.namespace, &words.split(' ').collect::<Vec<_>>(), "");
    let start = || {
        let environment = [("LANEWAY_METRICS_ADDR", "off"), ("LANEWAY_KEEP", "on")];
        let mut command = binary::command(&lab.left, &["--foreground", &device], &environment);
        let mut process = Process::start_quietly(&mut command);
        wait_until("the router", || {
            assert!(process.is_running(), "it exited during the start: {}", process.said());
            serves(&device)
        });
        process
    };
    let mut process = start();
    left(&format!("ip address add 10.4.0.1/16 dev {device}"));
    left(&format!("ip link set dev {device} up"));
    // As Kilo adds it.
    left(&format!("ip route add 10.244.1.0/24 via 10.4.0.2 dev {device} onlink proto static"));
    let state = || {
        let routes = left(&format!("ip route show dev {device}")).replace(" linkdown", "");
        routes + &left(&format!("ip -o address show dev {device}"))
    };
    let before = state();
    assert!(before.contains("10.244.1.0/24") && before.contains("10.4.0.1/16"), "{before}");
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        process.signal(signal);
        process.wait();
        assert_eq!(state(), before, "after {signal}");
        process = start();
        assert_eq!(state(), before, "after a start that followed {signal}");
    }
    process.signal(Signal::SIGTERM);
    process.wait();
    output(&lab.left.namespace, &[BINARY, "down", &device], "");
}

#[test]
fn what_a_killed_router_left_is_named_and_removed_with_its_socket() {
    require_root!();
    let guarded = Guarded::new(EVERYTHING);
    let (file, device) = (guarded.write(""), &guarded.device);
    let said = |words: &[&str]| {
        let done = binary::command(&guarded.lab.left, words, &[]).output().expect("start laneway");
        String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned()
    };
    let mut process = guarded.start();
    let run_by = format!("{device} is run by process {}", process.id());
    assert!(said(&["doctor", "--config", &file]).contains(&run_by));
    process.signal(Signal::SIGKILL);
    process.wait();
    let asked: [&[&str]; 4] =
        [&["doctor", "--config", &file], &["show"], &["show", device], &["drops", device]];
    for words in asked {
        let said = said(words);
        assert!(said.contains(&format!("{device} is kept shut")), "{words:?}: {said}");
        assert!(said.contains(&format!("laneway down {device}")), "{words:?}: {said}");
    }
    assert!(wg::control_socket(device).exists());
    guarded.down().unwrap_or_else(|said| panic!("{said}"));
    assert!(!wg::control_socket(device).exists());
    for words in asked {
        assert!(!said(words).contains("kept shut"), "{words:?}");
    }
    assert!(guarded.down().is_err(), "nothing is left");
}

#[test]
fn only_an_interface_without_a_process_is_taken_over() {
    require_root!();
    let guarded = Guarded::new(EVERYTHING);
    let process = guarded.start();
    guarded.wait_for_tunnel("the tunnel");
    // The port for HTTP is in use too, as it is if both have the default.
    let port =
        guarded.lab.left.namespace.run(|| TcpListener::bind("127.0.0.1:0")).expect("enter").expect("bind");
    let port = port.local_addr().expect("bound").to_string();
    let mut second = Process::start_quietly(guarded.command().env("LANEWAY_METRICS_ADDR", port));
    assert_eq!(second.wait(), Some(1), "{}", second.said());
    let by = format!("laneway: {} is already run by process {}", guarded.device, process.id());
    assert!(second.said().contains(&by), "{}", second.said());
    guarded.wait_for_tunnel("after a second router was refused");
    // The kernel lets other users attach to an interface without an owner.
    let shown = guarded.left(&format!("ip -d link show {}", guarded.device));
    assert!(shown.contains("user "), "{shown}");
    drop(process);
    let mut process = guarded.start();
    process.signal(Signal::SIGKILL);
    process.wait();
    assert_eq!(guarded.down(), Ok(String::new()));
}

#[test]
fn what_peers_send_passes_a_strict_reverse_path_filter_and_nothing_else_gets_out() {
    require_root!();
    let mut guarded = Guarded::new(EVERYTHING);
    // More addresses than get rules of their own, all before the one that the peer sends to.
    let many: Vec<_> = (1..=40).map(|host| format!("addr add 1.2.3.{host}/32 dev lo\n")).collect();
    let many = many.concat();
    output(&guarded.lab.left.namespace, &["ip", "-batch", "-"], &many);
    sysctl(&guarded.lab.left, "ipv4/conf/all/rp_filter", "1");
    // Otherwise the right end asks for the left one's hardware address in the name of an address behind the filter.
    sysctl(&guarded.lab.right, "ipv4/conf/all/arp_announce", "2");
    guarded.endpoint.set_ip(ip(FAR[0]));
    let before = guarded.state();
    let mut process = guarded.start();
    guarded.wait_for_tunnel("the tunnel");
    // Not even the answer to the first handshake message was dropped, which would take 5 s.
    let dropped = guarded.left("nstat -az TcpExtIPReversePathFilter");
    assert_eq!(
        dropped.lines().last().and_then(|line| line.split_whitespace().nth(1)),
        Some("0"),
        "{dropped}"
    );
    let rules = || guarded.left("ip -4 rule");
    let has = |words: &str| rules().lines().any(|rule| rule.ends_with(words));
    let inside = Family::V4.inside(2);
    wait_until("an answer", || ping::answers(&guarded.lab.left.namespace, inside));

    let port = guarded.left(&format!("wg show {} listen-port", guarded.device));
    let of_old_port = format!(" sport {} ", port.trim());
    assert!(rules().contains(&of_old_port), "{}", rules());
    guarded.left(&format!("wg set {} listen-port 40001", guarded.device));
    wait_until("rules for the new port alone", || {
        has("uidrange 0-0 ipproto udp sport 40001 lookup main") && !rules().contains(&of_old_port)
    });
    wait_until("an answer to the new port", || ping::answers(&guarded.lab.left.namespace, inside));
    // The answer is one datagram, which the right end's cable carries as fragments.
    output(&guarded.lab.right.namespace, &["ip", "link", "set", &guarded.right.device, "mtu", "3000"], "");
    let large = ["ping", "-n", "-c", "1", "-W", "1", "-s", "2500", &inside.to_string()];
    wait_until("an answer in fragments", || attempt(&guarded.lab.left.namespace, &large, "").is_ok());

    let known = rules();
    guarded.left("ip addr flush dev lo to 1.2.3.0/24");
    guarded.left("ip addr add 198.51.100.7/32 dev lo");
    wait_until("rules for each address", || rules().matches("from 198.51.100.7 ").count() == 2);
    guarded.left("ip addr del 198.51.100.7/32 dev lo");
    output(&guarded.lab.left.namespace, &["ip", "-batch", "-"], &many);
    for pref in 32_695..=32_699 {
        guarded.left(&format!("ip -4 rule del pref {pref}"));
    }
    // In any order among those of one priority.
    wait_until("the rules as before", || sorted(&rules()) == sorted(&known));

    process.signal(Signal::SIGKILL);
    process.wait();
    assert!(has("lookup main"), "{}", rules());
    // Another program has the port now, as root.
    let bind = || UdpSocket::bind("0.0.0.0:40001");
    guarded.near[0] = guarded.lab.left.namespace.run(bind).expect("enter").expect("the port is free");
    guarded.assert_closed("from the port of a killed router");
    let _ = guarded.near[0].connect(SocketAddr::new(ip(FAR[0]), FAR_PORT));
    guarded.assert_closed("from a connected socket on that port");
    guarded.down().unwrap_or_else(|said| panic!("{said}"));
    assert_eq!(guarded.state(), before);
    guarded.wait_for_clear();
}

/// What firewalld loads for `IPv6_rpfilter=strict` with its nftables backend, and a count of the datagrams it drops.
const FIREWALLD: &str = "table inet firewalld {
  counter dropped { }
  chain count { type filter hook prerouting priority -145;
    meta nfproto ipv6 meta l4proto udp fib saddr . mark . iif oif missing counter name dropped
  }
  chain mangle_PREROUTING { type filter hook prerouting priority -140;
    icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
    meta nfproto ipv6 fib saddr . mark . iif oif missing drop
  }
}";

#[test]
fn what_peers_send_over_ipv6_passes_the_filter_of_firewalld_and_nothing_else_gets_out() {
    require_root!();
    for networks in [EVERYTHING, "::/0"] {
        let mut guarded = Guarded::new(networks);
        if let Err(said) = attempt(&guarded.lab.left.namespace, &["nft", "-f", "-"], FIREWALLD) {
            skip::report(format!("nftables: {said}"));
            return;
        }
        guarded.endpoint.set_ip(ip(FAR[1]));
        let underlay = IpAddr::from(guarded.lab.left.underlay6);
        let before = guarded.state();
        let mut process = guarded.start();
        guarded.wait_for_tunnel("the tunnel");
        let inside = Family::V6.inside(2);
        wait_until("an answer", || ping::answers(&guarded.lab.left.namespace, inside));
        let counted = guarded.left("nft list counter inet firewalld dropped");
        assert!(counted.contains("packets 0 "), "{counted}");

        let rules = || guarded.left("ip -6 rule");
        let known = rules();
        let has = |address: IpAddr| rules().contains(&format!("from {address} "));
        assert!(has(underlay) && !has(Family::V6.inside(1)), "{known}");
        // Peers send to the first of these addresses, not to the second.
        let cable = guarded.left("ip -6 route show default");
        let cable = cable.split_whitespace().skip_while(|word| *word != "dev").nth(1).expect("a device");
        guarded.left("ip addr add 2001:db8:a::1/128 dev lo");
        guarded.left(&format!("ip addr add 2001:db8:b::1/128 dev {cable}"));
        wait_until("rules for an address", || has(ip("2001:db8:b::1")));
        assert!(!has(ip("2001:db8:a::1")), "{}", rules());
        guarded.left("ip addr del 2001:db8:a::1/128 dev lo");
        guarded.left(&format!("ip addr del 2001:db8:b::1/128 dev {cable}"));
        wait_until("no rules for it", || rules() == known);

        // Whatever the filter lets pass, it lets pass because of the rules.
        let near = SocketAddr::new(underlay, guarded.near[1].local_addr().expect("bound").port());
        let passes = || {
            guarded.far[1].send_to(b"from a peer", near).expect("send");
            std::thread::sleep(std::time::Duration::from_millis(20));
            guarded.near[1].recv(&mut [0; 64]).is_ok()
        };
        wait_until("a datagram", passes);
        process.signal(Signal::SIGSTOP);
        for pref in [32_695, 32_696, 32_697, 32_698] {
            guarded.left(&format!("ip -6 rule del pref {pref}"));
        }
        // Those that arrived late.
        std::thread::sleep(std::time::Duration::from_millis(100));
        while guarded.near[1].recv(&mut [0; 64]).is_ok() {}
        assert!((0..10).all(|_| !passes()), "the filter drops nothing");
        process.signal(Signal::SIGCONT);
        wait_until("the rules as before", || rules() == known);
        wait_until("a datagram after that", passes);
        wait_until("an answer after that", || ping::answers(&guarded.lab.left.namespace, inside));

        process.signal(Signal::SIGKILL);
        process.wait();
        assert_eq!(rules(), known);
        guarded.assert_closed("after kill -9");
        // Another program of root, with and without a route into the tunnel.
        let bind = || UdpSocket::bind(SocketAddr::new(underlay, 0));
        guarded.near[1] = guarded.lab.left.namespace.run(bind).expect("enter").expect("bind");
        guarded.assert_closed("from the address that the rules are for");
        guarded.left(&format!("ip link set {} down", guarded.device));
        guarded.assert_closed("from that address while the interface is down");
        let _ = guarded.near[1].connect(SocketAddr::new(ip(FAR[1]), FAR_PORT));
        guarded.assert_closed("from a connected socket");
        guarded.down().unwrap_or_else(|said| panic!("{said}"));
        assert_eq!(guarded.state(), before);

        guarded.near[1] =
            guarded.lab.left.namespace.run(|| UdpSocket::bind("[::]:0")).expect("enter").expect("bind");
        let mut process = guarded.start();
        guarded.wait_for_tunnel("after a new start");
        process.signal(Signal::SIGTERM);
        assert_eq!(process.wait(), Some(0), "{}", process.said());
        assert_eq!(guarded.state(), before, "{}", process.said());
        guarded.wait_for_clear();
    }
}
