//! Laneway as a drop-in replacement for `wireguard-go`: started and stopped the same way, by people and by
//! `wg-quick`.

use std::fs;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;

use crate::support::background::{self, Background};
use crate::support::binary::{BINARY, Laneway};
use crate::support::folder::Folder;
use crate::support::ping::{answers, ping};
use crate::support::process::{Process, attempt, command_in, output};
use crate::support::tunnel::{Family, PORT, address, allowed_ips, join};
use crate::support::wg::{self, KeyPair, Setting, control_socket};
use crate::support::wireguard_go::WireGuardGo;
use crate::support::{bulk, device_name, lab, links, metrics, require_root, skip, wait_until};
use laneway::cli::demo::lab::{Lab, Side};
use laneway::netns::Namespace;
use laneway::sys::tun::{self, DeviceFlags};
use laneway::uapi::client;
use nix::sys::signal::Signal;

/// The public key of a peer that only needs to be listed.
const NOBODY: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";

#[test]
fn the_command_ends_when_the_interface_can_be_configured_and_leaves_the_router_behind() {
    require_root!();
    let lab = lab();
    let device = device_name("lw");
    let done = background::run(&lab.left, &[&device], &[]);
    assert!(done.status.success(), "{done:?}");
    // No waiting: the command exits only once both exist.
    output(&lab.left.namespace, &["wg", "set", &device, "listen-port", "51820"], "");
    output(&lab.left.namespace, &["ip", "link", "set", &device, "up"], "");
    let router = Background::find(&device);
    for number in 0..3 {
        assert_eq!(router.descriptor(number), "/dev/null", "a pipe left open keeps its reader waiting");
    }
    assert_eq!(fs::read_link(format!("/proc/{}/cwd", router.id())).expect("a process"), Path::new("/"));
}

#[test]
fn a_log_that_was_asked_for_goes_on_in_the_background() {
    require_root!();
    let lab = lab();
    let device = device_name("lw");
    let folder = Folder::new();
    let log = folder.join("log");
    let mut command = crate::support::binary::command(&lab.left, &[&device], &[("LOG_LEVEL", "verbose")]);
    background::adopt_orphans();
    let started = command.stderr(fs::File::create(&log).expect("a file")).status().expect("start laneway");
    assert!(started.success());
    let router = Background::find(&device);
    assert_eq!((router.descriptor(0).as_str(), router.descriptor(2)), ("/dev/null", log.clone()));
    router.signal(Signal::SIGTERM);
    assert_eq!(router.wait(), Some(0));
    let said = fs::read_to_string(&log).expect("a log");
    assert!(said.contains("stopping: received a signal"), "{said}");
}

#[test]
fn errors_at_the_start_are_printed_before_the_command_ends() {
    require_root!();
    let lab = lab();
    let running = Laneway::start(&lab.left, &[]);
    let device = device_name("lw");
    for (name, variable, status, sentence) in [
        (running.device.as_str(), ("LOG_LEVEL", "error"), 1, "is already run by process"),
        (&device, ("LANEWAY_QUEUES", "many"), 2, "LANEWAY_QUEUES=many: expected"),
        (&device, ("LANEWAY_UAPI_DIR", "/dev/null"), 1, "/dev/null"),
        ("a/b", ("LOG_LEVEL", "error"), 2, "cannot be an interface name"),
    ] {
        let done = background::run(&lab.left, &[name], &[variable]);
        let said = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(status), "{said}");
        let last = said.lines().last().unwrap_or_default();
        assert!(last.starts_with("laneway: ") && last.contains(sentence), "{said}");
    }
    assert!(!control_socket(&device).exists());
    wait_until("the device to disappear", || links(&lab.left).len() == 3);
}

#[test]
fn in_the_background_it_ends_as_clean_as_in_the_foreground() {
    require_root!();
    let lab = lab();
    let ends: [fn(&Side, &Background); 4] = [
        |_, router| router.signal(Signal::SIGTERM),
        |_, router| router.signal(Signal::SIGINT),
        |side, router| drop(output(&side.namespace, &["ip", "link", "del", &router.device], "")),
        |_, router| fs::remove_file(control_socket(&router.device)).expect("remove the socket"),
    ];
    for end in ends {
        let device = device_name("lw");
        let done = background::run(&lab.left, &[&device], &[]);
        assert!(done.status.success(), "{done:?}");
        let router = Background::find(&device);
        end(&lab.left, &router);
        assert_eq!(router.wait(), Some(0));
        assert!(!control_socket(&device).exists());
        wait_until("the device to disappear", || links(&lab.left).len() == 2);
    }
}

#[test]
fn an_interface_that_moves_to_another_network_takes_no_sockets_with_it() {
    require_root!();
    let lab = lab();
    let (mut left, right) = (Laneway::start(&lab.left, &[]), Laneway::start(&lab.right, &[]));
    join(&lab, &left.device, &right.device, Family::V4);
    ping(&lab.left.namespace, Family::V4.inside(2));

    // A workload's network namespace, with no other device than the tunnel.
    let namespace = Namespace::create().expect("a namespace");
    let workload = Side { namespace, underlay4: lab.left.underlay4, underlay6: lab.left.underlay6 };
    let path = format!("/proc/{}/fd/{}", std::process::id(), workload.namespace.as_raw_fd());
    output(&lab.left.namespace, &["ip", "link", "set", &left.device, "netns", &path], "");
    address(&workload, &left.device, 1);
    ping(&workload.namespace, Family::V4.inside(2));
    ping(&lab.right.namespace, Family::V6.inside(1));
    assert!(!answers(&lab.left.namespace, Family::V4.inside(2)), "the tunnel is still here");
    // It is still configured from the namespace of its process.
    assert!(wg::peers(&lab.left, &left.device)[0].latest_handshake > 0);
    output(&workload.namespace, &["ip", "link", "del", &left.device], "");
    assert_eq!(left.process.wait(), Some(0), "{}", left.process.said());
    assert!(!left.socket().exists());
}

#[test]
fn an_address_that_is_given_while_it_runs_is_its_own() {
    require_root!();
    let lab = lab();
    let laneway = Laneway::start(&lab.left, &[]);
    let own = Family::V4.inside(1);
    address(&lab.left, &laneway.device, 1);
    // The kernel routes its own addresses through the device if the rule for local addresses comes later.
    for words in [
        format!("route add {own} dev {} table 100", laneway.device),
        format!("rule add pref 10 to {own} iif lo table 100"),
        "rule add pref 20 lookup local".to_owned(),
        "rule del pref 0".to_owned(),
    ] {
        output(&lab.left.namespace, &["ip"].into_iter().chain(words.split(' ')).collect::<Vec<_>>(), "");
    }
    let socket = lab.left.namespace.run(|| UdpSocket::bind("0.0.0.0:0")).expect("enter").expect("bind");
    wait_until("a packet to return", || {
        socket.send_to(b"to myself", (own, 9)).expect("send");
        let metrics = client::metrics(Path::new("/var/run/wireguard"), &laneway.device).expect("an answer");
        let metrics = metrics::parse(&metrics.expect("a Laneway device"));
        metrics.sum("laneway_self_forwarded_packets_total", &[]) > 0.0
    });
}

#[test]
fn a_device_and_a_socket_that_another_program_has_opened_are_taken_over() {
    require_root!();
    let lab = lab();
    let device = device_name("lw");
    let open = || fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun").expect("a TUN");
    let tun = lab.left.namespace.run(|| {
        let tun = open();
        tun::set_interface(&tun, &device, DeviceFlags::QUEUE).expect("an interface");
        tun
    });
    let socket = control_socket(&device);
    fs::create_dir_all(socket.parent().expect("a directory")).expect("make it");
    let listener = UnixListener::bind(&socket).expect("listen");
    // Passed as standard input and output, then moved to arbitrary descriptor numbers.
    let mut command = command_in(&lab.left.namespace, "sh");
    let script = format!("exec {BINARY} -f {device} 3<&0 4<&1 </dev/null >/dev/null");
    command.args(["-c", &script]).envs([("WG_TUN_FD", "3"), ("WG_UAPI_FD", "4")]);
    command.stdin(tun.expect("enter")).stdout(OwnedFd::from(listener));
    let mut process = Process::start_quietly(&mut command);
    drop(command);
    let right = Laneway::start(&lab.right, &[]);
    join(&lab, &device, &right.device, Family::V4);
    ping(&lab.left.namespace, Family::V4.inside(2));
    process.signal(Signal::SIGTERM);
    assert_eq!(process.wait(), Some(0), "{}", process.said());
    wait_until("the device to disappear", || links(&lab.left).len() == 2);
    assert!(socket.exists(), "the socket was not ours to remove");
    fs::remove_file(socket).expect("remove the socket");
}

#[test]
fn a_descriptor_that_is_not_open_is_a_mistake_in_the_environment() {
    require_root!();
    let lab = lab();
    for variable in ["WG_TUN_FD", "WG_UAPI_FD"] {
        let mut command = command_in(&lab.left.namespace, BINARY);
        command.args(["-f", &device_name("lw")]).env(variable, "77");
        let mut process = Process::start_quietly(&mut command);
        assert_eq!(process.wait(), Some(2), "{}", process.said());
        let said = process.said();
        assert!(said.contains(&format!("{variable}=77: ")) && said.contains("descriptor"), "{said}");
    }
}

#[test]
fn wg_quick_brings_a_tunnel_up_and_down() {
    require_root!();
    let Some(quick) = Quick::new() else { return };
    let section = format!("Table = auto\n[Peer]\nAllowedIPs = {}, 10.99.0.0/16\n", allowed_ips(2));
    let laneway = quick.up(&section);
    let routes = output(&quick.lab.left.namespace, &["ip", "route", "show", "dev", &quick.device], "");
    assert!(routes.contains("10.99.0.0/16"), "{routes}");
    ping(&quick.lab.left.namespace, Family::V4.inside(2));
    bulk(&quick.lab.left, &quick.lab.right, Family::V6.inside(2), 1, 1 << 20);
    quick.down(&laneway);
}

#[test]
fn wg_quick_sends_everything_through_a_tunnel_that_may_carry_everything() {
    require_root!();
    let Some(quick) = Quick::new() else { return };
    let router = quick.up("[Peer]\nAllowedIPs = 0.0.0.0/0, ::/0\n");
    // The fwmark keeps the router's own datagrams out of the tunnel; without it no echo would return.
    let mark = output(&quick.lab.left.namespace, &["wg", "show", &quick.device, "fwmark"], "");
    assert_ne!(mark.trim(), "off");
    for family in Family::ALL {
        ping(&quick.lab.left.namespace, family.inside(2));
    }
    let rules = output(&quick.lab.left.namespace, &["ip", "rule"], "");
    assert!(rules.contains("suppress_prefixlength 0"), "{rules}");
    quick.down(&router);
    assert_eq!(output(&quick.lab.left.namespace, &["ip", "rule"], "").lines().count(), 3);
}

#[test]
fn keys_are_made_as_wg_makes_them() {
    require_root!();
    let side = lab().left;
    let run = |words: &[&str], input: &str| output(&side.namespace, words, input);
    let private = run(&[BINARY, "genkey"], "");
    assert_ne!(private, run(&[BINARY, "genkey"], ""));
    assert_eq!(run(&[BINARY, "pubkey"], &private), run(&["wg", "pubkey"], &private));
    let theirs = run(&["wg", "genkey"], "");
    assert_eq!(run(&[BINARY, "pubkey"], theirs.trim()), run(&["wg", "pubkey"], &theirs));
    // A preshared key is any 32 bytes, so `wg pubkey` accepts it as a key.
    run(&["wg", "pubkey"], &run(&[BINARY, "genpsk"], ""));
    for nonsense in ["", "short\n", &format!("{} x", private.trim()), &"A".repeat(10_000)] {
        let refused = attempt(&side.namespace, &[BINARY, "pubkey"], nonsense).expect_err("not a key");
        assert!(
            refused.contains("exit status: 1") && refused.contains("44 characters of base64"),
            "{refused}"
        );
    }
}

#[test]
fn show_prints_what_wg_prints_the_mtu_and_a_line_for_each_queue() {
    require_root!();
    let lab = lab();
    let (left, right) =
        (Laneway::start(&lab.left, &[("LANEWAY_QUEUES", "2")]), Laneway::start(&lab.right, &[]));
    join(&lab, &left.device, &right.device, Family::V4);
    let inside = &lab.left.namespace;
    let words = ["wg", "set", &left.device, "fwmark", "0x7", "peer", NOBODY, "persistent-keepalive", "61"];
    output(inside, &[&words[..], &["preshared-key", "/dev/stdin"]].concat(), NOBODY);
    // Enough flows that both queues get some.
    bulk(&lab.left, &lab.right, Family::V4.inside(2), 16, 1 << 18);

    // A second may pass, or a keepalive be sent, between the two commands, so this polls.
    let mut shown = String::new();
    wait_until("the same output", || {
        let theirs = output(inside, &["wg", "show", &left.device], "");
        shown = output(inside, &[BINARY, "show", &left.device], "");
        let ours = |line: &&str| line.starts_with("  queue ") || line.starts_with("  mtu: ");
        let same: Vec<_> = shown.lines().filter(|line| !ours(line)).collect();
        same == theirs.lines().collect::<Vec<_>>()
    });
    let queue =
        |number: u8| shown.lines().filter(|line| line.starts_with(&format!("  queue {number}: "))).count();
    assert_eq!([queue(0), queue(1), queue(2)], [1, 1, 0], "{shown}");
    assert!(shown.contains("\n  mtu: 1420 (from: "), "{shown}");
    assert!(!shown.lines().any(|line| line.contains(": 0 segments sent from 0 reads, 0 seg")), "{shown}");

    let names = output(inside, &[BINARY, "show", "interfaces"], "");
    let names: Vec<&str> = names.split_whitespace().collect();
    assert!(names.contains(&&*left.device) && names.contains(&&*right.device), "{names:?}");
    let all = output(inside, &[BINARY, "show"], "");
    let interface = |device: &str| all.contains(&format!("interface: {device}\n"));
    assert!(interface(&left.device) && interface(&right.device), "{all}");
    let refused = attempt(inside, &[BINARY, "show", "nothing0"], "").expect_err("there is no such device");
    assert!(refused.contains("nothing0.sock: no userspace WireGuard serves this interface"), "{refused}");
}

#[test]
fn show_prints_devices_of_others_too() {
    require_root!();
    let lab = lab();
    let (left, right) = (WireGuardGo::start(&lab.left), Laneway::start(&lab.right, &[]));
    join(&lab, &left.device, &right.device, Family::V4);
    ping(&lab.left.namespace, Family::V4.inside(2));
    wait_until("the same output", || {
        let theirs = output(&lab.left.namespace, &["wg", "show", &left.device], "");
        theirs == output(&lab.left.namespace, &[BINARY, "show", &left.device], "")
    });
}

/// A router on the right, and a `wg-quick` configuration on the left.
struct Quick {
    lab: Lab,
    right: Laneway,
    keys: [KeyPair; 2],
    folder: Folder,
    device: String,
}

impl Quick {
    /// Returns `None`, and reports the test as skipped, where the kernel has WireGuard of its own: `wg-quick` would
    /// use that.
    fn new() -> Option<Quick> {
        let lab = lab();
        let device = device_name("lw");
        if attempt(&lab.left.namespace, &["ip", "link", "add", &device, "type", "wireguard"], "").is_ok() {
            skip::report("this kernel has WireGuard, which wg-quick prefers to any program");
            return None;
        }
        let right = Laneway::start(&lab.right, &[]);
        let keys = [KeyPair::generate(&lab.left), KeyPair::generate(&lab.right)];
        wg::set(&lab.right, &right.device, &keys[1], &Setting::new(&keys[0], 1));
        address(&lab.right, &right.device, 2);
        Some(Quick { lab, right, keys, folder: Folder::new(), device })
    }

    /// Brings the left end up. `more` ends the interface's section and begins the peer's, to which key and
    /// endpoint are added.
    fn up(&self, more: &str) -> Background {
        let text = format!(
            "[Interface]\nPrivateKey = {}\nListenPort = {PORT}\nAddress = {}/24, {}/64\n{more}PublicKey = {}\n\
             Endpoint = {}\n",
            self.keys[0].private,
            Family::V4.inside(1),
            Family::V6.inside(1),
            self.keys[1].public,
            Family::V4.endpoint(&self.lab.right),
        );
        self.folder.write(&format!("{}.conf", self.device), &text);
        background::adopt_orphans();
        self.quick("up");
        Background::find(&self.device)
    }

    fn down(&self, router: &Background) {
        self.quick("down");
        assert_eq!(router.wait(), Some(0));
        assert!(!control_socket(&self.device).exists());
        wait_until("the device to disappear", || links(&self.lab.left).len() == 2);
        assert!(!answers(&self.lab.right.namespace, Family::V4.inside(1)));
        assert!(self.right.socket().exists(), "the other end stopped");
    }

    fn quick(&self, verb: &str) {
        let file = self.folder.join(&format!("{}.conf", self.device));
        let mut command = command_in(&self.lab.left.namespace, "wg-quick");
        command.args([verb, &file]).env("WG_QUICK_USERSPACE_IMPLEMENTATION", BINARY);
        let done = command.output().expect("start wg-quick");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}
