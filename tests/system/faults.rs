//! External faults: hostile datagrams, a kill, configuration mistakes, a deleted device. The router carries on,
//! recovers, or exits with a reason, and leaves nothing behind.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use crate::support::binary::{Laneway, command};
use crate::support::folder::Folder;
use crate::support::ping::{answers, ping};
use crate::support::process::{Process, output};
use crate::support::tunnel::{Family, address};
use crate::support::wg::{self, KeyPair, Setting, control_socket};
use crate::support::wireguard_go::WireGuardGo;
use crate::support::{
    DEADLINE, Finally, bulk, device_name, lab, links, metrics, require_root, router, wait_until, wait_within,
};
use laneway::cli::demo::lab::Side;
use laneway::drops::DropReason;
use nix::sys::signal::Signal;

/// A peer that gets no answer to its data starts a new handshake after 15 s (whitepaper, sections 6.1 and 6.5:
/// `KEEPALIVE_TIMEOUT` + `REKEY_TIMEOUT`), and a retry takes 5 s more.
const COMES_BACK: Duration = Duration::from_secs(15 + 5 + 5);

/// An arbitrary key.
const KEY: &str = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=";

#[test]
fn garbage_datagrams_are_counted_by_reason_and_disturb_no_transfer() {
    require_root!();
    let lab = lab();
    let [left, right] = router::pair_with(&lab, Family::V4, |_| {});
    for inside in Family::ALL {
        ping(&lab.left.namespace, inside.inside(2));
    }
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for outside in Family::ALL {
            let target = outside.endpoint(&lab.right);
            let over = &over;
            let flood = move || flood(target, over);
            let inside = lab.left.namespace.try_clone().expect("a descriptor");
            scope.spawn(move || inside.run(flood).expect("enter a namespace"));
        }
        let _end = Finally(&over);
        bulk(&lab.left, &lab.right, Family::V4.inside(2), 2, 16 << 20);
        bulk(&lab.right, &lab.left, Family::V6.inside(1), 2, 16 << 20);
        let counted = |family, labels: &[(&str, &str)]| metrics::of(&right).sum(family, labels) > 100.0;
        for reason in [DropReason::EmptyDatagram, DropReason::NotWireGuard, DropReason::UnknownIndex] {
            let labels = [("direction", "inbound"), ("reason", reason.label())];
            wait_until(reason.label(), || counted("laneway_dropped_packets_total", &labels));
        }
        wait_until("handshake messages without a right mac1", || {
            counted("laneway_handshake_messages_dropped_total", &[])
        });
    });
    for router in [left, right] {
        let restarts = metrics::of(&router).sum("laneway_worker_restarts_total", &[]);
        assert!(restarts < 1.0, "{restarts} workers panicked");
        router.stop().expect("a healthy router stops cleanly");
    }
}

/// Sends datagrams that no WireGuard peer would, of many lengths, random or with a valid message type, until
/// `over` is set.
fn flood(target: SocketAddr, over: &AtomicBool) {
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).expect("bind");
    socket.connect(target).expect("connect");
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    // Lengths around those of the four messages (whitepaper, section 5.4), and beyond any path MTU.
    let lengths =
        [0, 1, 3, 4, 15, 16, 31, 32, 33, 63, 64, 65, 91, 92, 93, 147, 148, 149, 1452, 1453, 9000, 60_000];
    let mut datagram = vec![0; 60_000];
    while !over.load(Relaxed) {
        for length in lengths {
            for kind in 0..6 {
                let datagram = &mut datagram[..length.min(if kind == 0 { usize::MAX } else { 1500 })];
                random.fill(datagram);
                // 1 to 4 are message types, 5 is invalid, and 0 leaves the first bytes random.
                if kind > 0 && datagram.len() >= 4 {
                    datagram[..4].copy_from_slice(&[kind, 0, 0, 0]);
                }
                // A full queue along the way is not a test failure.
                let _ = socket.send(datagram);
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Marsaglia's xorshift: the same bytes in every run.
struct Random(u64);

impl Random {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            *byte = self.0 as u8;
        }
    }
}

#[test]
fn after_a_kill_it_starts_at_once_and_its_peer_comes_back_by_itself() {
    require_root!();
    let lab = lab();
    let (peer, device) = (WireGuardGo::start(&lab.left), device_name("lw"));
    let keys = [KeyPair::generate(&lab.left), KeyPair::generate(&lab.right)];
    let begin = || {
        let laneway = Laneway::start_as(&lab.right, &device, &[]);
        wg::set(&lab.right, &device, &keys[1], &Setting::new(&keys[0], 1));
        address(&lab.right, &device, 2);
        laneway
    };
    let mut laneway = begin();
    let endpoint = Some(Family::V4.endpoint(&lab.right));
    wg::set(&lab.left, &peer.device, &keys[0], &Setting { endpoint, ..Setting::new(&keys[1], 2) });
    address(&lab.left, &peer.device, 1);
    ping(&lab.left.namespace, Family::V4.inside(2));

    laneway.process.signal(Signal::SIGKILL);
    assert_eq!(laneway.process.wait(), None, "terminated by a signal");
    assert!(laneway.socket().exists(), "a killed process leaves its socket");
    let _laneway = begin();
    // The restarted router has no endpoint, so the other one must discover that its session is stale.
    wait_within(COMES_BACK + DEADLINE, "an echo after the restart", || {
        answers(&lab.left.namespace, Family::V4.inside(2))
    });
    bulk(&lab.right, &lab.left, Family::V4.inside(1), 1, 1 << 20);
}

#[test]
fn a_restarted_laneway_with_an_endpoint_is_back_with_its_first_packet() {
    require_root!();
    let lab = lab();
    let (answering, device) = (Laneway::start(&lab.left, &[]), device_name("lw"));
    let keys = [KeyPair::generate(&lab.left), KeyPair::generate(&lab.right)];
    wg::set(&lab.left, &answering.device, &keys[0], &Setting::new(&keys[1], 2));
    address(&lab.left, &answering.device, 1);
    for _ in 0..2 {
        let mut laneway = Laneway::start_as(&lab.right, &device, &[]);
        let endpoint = Some(Family::V6.endpoint(&lab.left));
        wg::set(&lab.right, &device, &keys[1], &Setting { endpoint, ..Setting::new(&keys[0], 1) });
        address(&lab.right, &device, 2);
        ping(&lab.right.namespace, Family::V4.inside(1));
        laneway.process.signal(Signal::SIGKILL);
        laneway.process.wait();
    }
    let _ = fs::remove_file(control_socket(&device));
}

#[test]
fn a_name_that_another_laneway_holds_is_refused_with_a_reason() {
    require_root!();
    let lab = lab();
    let mut first = Laneway::start(&lab.left, &[]);
    let name = first.device.clone();
    let (status, said) = run(&lab.left, &["-f", &name], &[]);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains(&format!("{name} is already run by process {}", first.process.id())), "{said}");

    // In another namespace the device name is free, but control sockets share one directory.
    let (status, said) = run(&lab.right, &["-f", &name], &[]);
    assert_eq!(status, Some(1), "{said}");
    assert!(
        said.contains("serves an interface of this name") && said.contains(&first.process.id().to_string()),
        "{said}"
    );
    wait_until("the device to disappear", || links(&lab.right) == ["lo", "underlay"]);
    assert!(first.process.is_running());
    output(&lab.left.namespace, &["wg", "show", &name], "");
}

#[test]
fn a_mistake_in_the_configuration_is_named_and_nothing_is_created() {
    require_root!();
    let lab = lab();
    let good = format!("[Interface]\nPrivateKey = {KEY}\n");
    let mistakes = [
        (format!("{good}MTU = lots\n"), vec![":3: MTU = lots: "]),
        (format!("{good}[Peer]\nPublicKey = short\n"), vec![":4: PublicKey: "]),
        (format!("{good}[Peer]\nAllowedIPs = 10.0.0.0/33\n"), vec![":4: AllowedIPs = 10.0.0.0/33: "]),
        (format!("{good}Colour = blue\n"), vec![":3: Colour: "]),
        ("[Interface\n".to_owned(), vec![":1: "]),
    ];
    for (text, wants) in mistakes {
        let folder = Folder::new();
        let file = folder.write("lw0.conf", &text);
        let uapi = folder.join("uapi");
        let environment = [("LANEWAY_UAPI_DIR", uapi.as_str()), ("LANEWAY_METRICS_ADDR", "off")];
        let (status, said) = run(&lab.left, &["run", "--config", &file], &environment);
        assert_eq!(status, Some(2), "{text}: {said}");
        assert!(said.contains(&file), "{said}");
        assert!(wants.iter().all(|want| said.contains(want)), "{wants:?}: {said}");
        assert!(
            !Path::new(&uapi).exists() && links(&lab.left) == ["lo", "underlay"],
            "something was created"
        );
    }
}

#[test]
fn a_mistake_in_the_environment_is_named_and_nothing_is_created() {
    require_root!();
    let lab = lab();
    let name = device_name("lw");
    let folder = Folder::new();
    let no_key = folder.write("key", "hunter2\n");
    let mistakes = [
        ("LANEWAY_QUEUES", "many", "LANEWAY_QUEUES=many: expected `auto` or a number"),
        ("LANEWAY_QUEUE", "1", "did you mean LANEWAY_QUEUES"),
        ("LANEWAY_PRIVATE_KEY_FILE", "/nonexistent/key", "/nonexistent/key: cannot read the file"),
        ("LANEWAY_PRIVATE_KEY_FILE", &no_key, "named by LANEWAY_PRIVATE_KEY_FILE"),
    ];
    for (variable, value, want) in mistakes {
        let (status, said) = run(&lab.left, &["-f", &name], &[(variable, value)]);
        assert_eq!(status, Some(2), "{variable}={value}: {said}");
        assert!(said.contains(want) && !said.contains("hunter2"), "{variable}={value}: {said}");
        assert!(!control_socket(&name).exists() && links(&lab.left) == ["lo", "underlay"]);
    }
}

#[test]
fn a_udp_port_that_is_taken_is_refused_and_nothing_is_left() {
    require_root!();
    let lab = lab();
    let name = device_name("lw");
    let _held = lab.left.namespace.run(|| UdpSocket::bind("[::]:51820")).expect("enter").expect("bind");
    let (status, said) = run(&lab.left, &["-f", &name], &[("LANEWAY_LISTEN_PORT", "51820")]);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("51820"), "{said}");
    assert!(!control_socket(&name).exists() && links(&lab.left) == ["lo", "underlay"]);
}

#[test]
fn a_signal_ends_it_in_good_order() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        ends_in_good_order(|_, laneway| laneway.process.signal(signal));
    }
}

#[test]
fn deleting_the_device_ends_it_in_good_order() {
    ends_in_good_order(|side, laneway| {
        output(&side.namespace, &["ip", "link", "del", &laneway.device], "");
    });
}

#[test]
fn removing_its_control_socket_ends_it_in_good_order() {
    ends_in_good_order(|_, laneway| fs::remove_file(laneway.socket()).expect("remove the socket"));
}

/// Asserts that after `end` a running laneway exits with 0, and leaves neither device nor socket.
fn ends_in_good_order(end: impl Fn(&Side, &Laneway)) {
    require_root!();
    let lab = lab();
    let mut laneway = Laneway::start(&lab.left, &[]);
    assert_eq!(links(&lab.left).len(), 3);
    end(&lab.left, &laneway);
    assert_eq!(laneway.process.wait(), Some(0), "{}", laneway.process.said());
    assert!(!laneway.socket().exists());
    // The kernel removes the device asynchronously.
    wait_until("the device to disappear", || links(&lab.left) == ["lo", "underlay"]);
}

/// Runs laneway until it exits, and returns its exit status and stderr.
fn run(side: &Side, arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = command(side, arguments, environment);
    let mut process = Process::start_quietly(command.stdout(Stdio::null()));
    let status = process.wait();
    (status, process.said())
}
