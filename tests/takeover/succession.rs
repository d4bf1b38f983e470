//! A router is taken over by another process: packets, sessions and order survive it, and whichever process dies when,
//! one of the two carries on and no counter is sent twice.

use std::collections::HashSet;
use std::net::UdpSocket;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::support::binary::{self, Laneway, serves};
use crate::support::folder::Folder;
use crate::support::http::{self, SERVED};
use crate::support::network::sysctl;
use crate::support::process::{Process, output};
use crate::support::tunnel::{self, Family, allowed_ips};
use crate::support::wg::{self, KeyPair, Setting};
use crate::support::{Finally, device_name, lab, metrics, require_root, wait_until};
use crate::traffic::{Flow, Wire, assert_complete, setting, stream};
use laneway::cli::demo::lab::{Lab, Side};
use laneway::faults::{DIES_AT, TakeOverStep, UNDERSTANDS};

/// How many times a router is taken over in a row. `TAKE_OVERS` sets another number for measurements by hand.
const TAKE_OVERS: usize = 5;

/// Batches in the ring of an inside worker.
const DEPTH: (&str, &str) = ("LANEWAY_INBOX_DEPTH", "256");

/// Bytes of a TCP stream every 5 ms; with sharing, several superpackets, since a single one is not shared.
pub(crate) const CHUNK: usize = 20_000;
const SHARED_CHUNK: usize = 400_000;

/// A tunnel whose left end is taken over.
pub(crate) struct Tunnel {
    pub(crate) lab: Lab,
    pub(crate) device: String,
    pub(crate) file: String,
    pub(crate) environment: Vec<(&'static str, String)>,
    pub(crate) right: Laneway,
    pub(crate) folder: Folder,
}

impl Tunnel {
    pub(crate) fn new(lanes: usize, variables: &[(&'static str, &str)]) -> Tunnel {
        let lab = lab();
        let queues = lanes.to_string();
        // Deep rings, so that a worker that waits for a CPU costs no packets (`inbox_full`).
        let right = Laneway::start(&lab.right, &[("LANEWAY_QUEUES", &queues), DEPTH]);
        let keys = [KeyPair::generate(&lab.left), KeyPair::generate(&lab.right)];
        wg::set(&lab.right, &right.device, &keys[1], &Setting::new(&keys[0], 1));
        tunnel::address(&lab.right, &right.device, 2);
        let (folder, device) = (Folder::new(), device_name("lw"));
        let text = format!(
            "[Interface]\nPrivateKey = {}\nAddress = {}/24, {}/64\n[Peer]\nPublicKey = {}\nEndpoint = {}\n\
             AllowedIPs = {}\n",
            keys[0].private,
            Family::V4.inside(1),
            Family::V6.inside(1),
            keys[1].public,
            Family::V4.endpoint(&lab.right),
            allowed_ips(2),
        );
        let file = folder.write(&format!("{device}.conf"), &text);
        let mut environment = vec![("LANEWAY_QUEUES", queues)];
        environment.extend([SERVED, DEPTH].map(|(name, value)| (name, value.to_owned())));
        environment.extend(variables.iter().map(|(name, value)| (*name, (*value).to_owned())));
        Tunnel { lab, device, file, environment, right, folder }
    }

    /// Starts a process that takes over from the router, if there is one.
    fn start(&self, more: &[(&str, &str)]) -> Process {
        let mut environment: Vec<_> =
            self.environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        environment.extend(more);
        let arguments = ["run", "--config", &self.file, "--take-over"];
        Process::start_quietly(&mut binary::command(&self.lab.left, &arguments, &environment))
    }

    /// Starts the first router, and waits until the tunnel carries packets.
    fn begin(&self, more: &[(&str, &str)]) -> Process {
        let mut process = self.start(more);
        wait_until("the router", || {
            assert!(process.is_running(), "it exited during the start: {}", process.said());
            serves(&self.device)
        });
        self.wait_for_packets();
        process
    }

    /// Waits until packets pass in both directions.
    pub(crate) fn wait_for_packets(&self) {
        let bind = |side: &Side, host| {
            let socket = side.namespace.run(|| UdpSocket::bind((Family::V6.inside(host), 0)));
            let socket = socket.expect("enter").expect("bind");
            socket.set_read_timeout(Some(Duration::from_millis(20))).expect("set");
            socket
        };
        let (left, right) = (bind(&self.lab.left, 1), bind(&self.lab.right, 2));
        let (to_left, to_right) = (left.local_addr().expect("bound"), right.local_addr().expect("bound"));
        let [mut there, mut back] = [false; 2];
        wait_until("packets to pass", || {
            let _ = left.send_to(b"x", to_right);
            let _ = right.send_to(b"x", to_left);
            there |= right.recv(&mut [0; 8]).is_ok();
            back |= left.recv(&mut [0; 8]).is_ok();
            there && back
        });
    }

    /// Has TCP wait long for acknowledgements.
    pub(crate) fn have_patience(&self) {
        for side in [&self.lab.left, &self.lab.right] {
            // On a busy machine an acknowledgement may take longer than TCP waits by default before it sends a segment again,
            // lost or not. One that is lost is still sent again as soon as later ones are acknowledged.
            sysctl(side, "ipv4/tcp_early_retrans", "0");
            if Path::new("/proc/sys/net/ipv4/tcp_rto_min_us").exists() {
                sysctl(side, "ipv4/tcp_rto_min_us", "5000000");
            }
        }
    }

    /// Returns the time of the right end's last handshake.
    pub(crate) fn handshake(&self) -> u64 {
        wg::peers(&self.lab.right, &self.right.device)[0].latest_handshake
    }

    pub(crate) fn index(&self) -> String {
        let words = ["ip", "-oneline", "link", "show", "dev", &self.device];
        output(&self.lab.left.namespace, &words, "").split(':').next().expect("an index").to_owned()
    }

    /// Returns the sum of a metric of the left router.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        self.metric_of(name, &[])
    }

    /// Returns the sum of a metric of the left router over the series with these labels.
    fn metric_of(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        metrics::parse(&http::get(&self.lab.left, "/metrics").1).sum(name, labels)
    }

    /// Returns how many TCP segments were sent again, at both ends.
    pub(crate) fn retransmits(&self) -> u64 {
        let count = |side: &Side| {
            let snmp = side.namespace.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp"));
            let snmp = snmp.expect("enter").expect("read");
            let mut lines = snmp.lines().filter(|line| line.starts_with("Tcp:")).map(str::split_whitespace);
            let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
            let found = names.zip(values).find(|(name, _)| *name == "RetransSegs").expect("a counter");
            found.1.parse::<u64>().expect("a number")
        };
        count(&self.lab.left) + count(&self.lab.right)
    }
}

/// Takes a router over again and again while both directions carry traffic. With `share`, its workers seal and open for
/// each other.
fn loses_nothing(lanes: usize, share: bool) {
    let tunnel = Tunnel::new(lanes, &[("LANEWAY_SHARE", if share { "on" } else { "off" })]);
    tunnel.have_patience();
    let mut router = tunnel.begin(&[]);
    let (index, handshake, retransmits) = (tunnel.index(), tunnel.handshake(), tunnel.retransmits());
    let flows = [true, false].map(|from_left| Flow::start(&tunnel, from_left));
    let over = Arc::new(AtomicBool::new(false));
    let finally = Finally(&over);
    let chunk = if share { SHARED_CHUNK } else { CHUNK };
    let directions = if share { &[true, false][..] } else { &[true] };
    let streams: Vec<_> =
        directions.iter().map(|from_left| stream(&tunnel, *from_left, chunk, &over)).collect();
    let (mut gaps, mut by_helpers) = (Vec::new(), 0.0);
    for _ in 0..setting("TAKE_OVERS", TAKE_OVERS) {
        if share {
            let jobs = || tunnel.metric_of("laneway_jobs_total", &[("by", "helper")]);
            wait_until("helpers", || jobs() > 0.5);
            by_helpers += jobs();
        }
        let mut successor = tunnel.start(&[]);
        assert_eq!(router.wait(), Some(0), "{}\n{}", router.said(), successor.said());
        assert!(router.said().contains("has taken the router over"), "{}", router.said());
        wait_until("the successor", || {
            assert!(successor.is_running(), "{}", successor.said());
            serves(&tunnel.device) && http::get(&tunnel.lab.left, "/readyz").0 == 200
        });
        gaps.push(tunnel.metric("laneway_take_over_gap_seconds") * 1e3);
        assert!(tunnel.metric("laneway_take_overs_total") > 0.5);
        assert!(tunnel.metric("laneway_handshakes_total") < 0.5, "a handshake");
        router = successor;
    }
    drop(finally);
    for stream in streams {
        assert!(stream.join().expect("the stream") > 0);
    }
    assert_complete(&tunnel, flows);
    assert_eq!((tunnel.index(), tunnel.handshake()), (index, handshake));
    assert_eq!(tunnel.retransmits(), retransmits, "TCP segments were sent again");
    gaps.sort_by(f64::total_cmp);
    println!(
        "{lanes} lanes, {by_helpers} jobs by helpers: gap p50 {:.1} ms, max {:.1} ms",
        gaps[gaps.len() / 2],
        gaps[gaps.len() - 1]
    );
    router.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(router.wait(), Some(0));
    assert!(
        !crate::support::links(&tunnel.lab.left).contains(&tunnel.device),
        "the last one removes the interface"
    );
}

#[test]
fn a_take_over_with_one_lane_loses_nothing() {
    require_root!();
    loses_nothing(1, false);
}

#[test]
fn a_take_over_with_three_lanes_loses_nothing() {
    require_root!();
    loses_nothing(3, false);
}

#[test]
fn a_take_over_while_other_workers_seal_and_open_loses_nothing() {
    require_root!();
    loses_nothing(3, true);
}

#[test]
fn whoever_dies_at_whatever_step_one_carries_on_and_no_counter_is_sent_twice() {
    require_root!();
    // Without GSO each message is a frame.
    let tunnel = Tunnel::new(2, &[("LANEWAY_UDP_OFFLOAD", "off")]);
    let wire = Wire::watch(&tunnel.lab.right);
    let names: Vec<String> = TakeOverStep::OF_PREDECESSOR.iter().map(|step| format!("{step:?}")).collect();
    let mut router = tunnel.begin(&[(DIES_AT, &names[0])]);
    let index = tunnel.index();
    let flow = Flow::start(&tunnel, true);
    // The one that carries on dies at the next step of a predecessor.
    for (n, name) in names.iter().enumerate() {
        let next: Vec<_> = names.get(n + 1).map(|name| (DIES_AT, name.as_str())).into_iter().collect();
        let mut successor = tunnel.start(&next);
        assert_eq!(router.wait(), None, "it was to be killed at {name}: {}", router.said());
        wait_until("the successor", || {
            assert!(successor.is_running(), "{name}: {}", successor.said());
            serves(&tunnel.device)
        });
        tunnel.wait_for_packets();
        let sessions_went_on = tunnel.metric("laneway_handshakes_total") < 0.5;
        let has_state = ["StateSent", "Accepted", "Gone"].contains(&name.as_str());
        assert_eq!(sessions_went_on, has_state, "{name}: {}", successor.said());
        router = successor;
    }
    for step in TakeOverStep::OF_SUCCESSOR.iter().filter(|step| **step != TakeOverStep::Running) {
        let name = format!("{step:?}");
        let before = tunnel.metric("laneway_handshakes_total");
        let mut successor = tunnel.start(&[(DIES_AT, &name)]);
        assert_eq!(successor.wait(), None, "it was to be killed at {name}: {}", successor.said());
        tunnel.wait_for_packets();
        assert!(router.is_running(), "{name}: {}", router.said());
        let sessions_went_on = tunnel.metric("laneway_handshakes_total") - before < 0.5;
        let had_sessions = [TakeOverStep::Said, TakeOverStep::Going, TakeOverStep::Started].contains(step);
        // A successor that dies with `accept` on its way may or may not get the answer.
        assert!(*step == TakeOverStep::Said || sessions_went_on != had_sessions, "{name}: {}", router.said());
    }
    assert!(router.said().contains("was not taken over and goes on"), "{}", router.said());
    // And now in peace.
    let mut successor = tunnel.start(&[]);
    assert_eq!(router.wait(), Some(0), "{}\n{}", router.said(), successor.said());
    tunnel.wait_for_packets();
    assert!(successor.is_running());
    assert_eq!(tunnel.index(), index);
    let (sent, received) = flow.stop();
    // Queues that are attached one after the other, after a death before the offer, change the queues of flows.
    let numbers: HashSet<_> = received.iter().collect();
    assert_eq!(numbers.len(), received.len(), "a datagram arrived twice");
    let counters = wire.stop();
    assert!(counters > received.len() && received.len() as u64 > sent / 2, "{counters} {sent}");
}

#[test]
fn a_successor_that_does_not_understand_the_state_starts_afresh_with_the_descriptors() {
    require_root!();
    let tunnel = Tunnel::new(2, &[]);
    let mut router = tunnel.begin(&[]);
    let index = tunnel.index();
    let mut successor = tunnel.start(&[(UNDERSTANDS, "1")]);
    assert_eq!(router.wait(), Some(0), "{}\n{}", router.said(), successor.said());
    tunnel.wait_for_packets();
    assert!(successor.is_running());
    let said = successor.said();
    assert!(said.contains("the state has version 2"), "{said}");
    assert!(said.contains("taken over without sessions"), "{said}");
    assert_eq!((tunnel.index(), tunnel.metric("laneway_handshakes_total") > 0.5), (index, true));
}

#[test]
fn a_successor_that_would_differ_leaves_the_router_alone() {
    require_root!();
    let tunnel = Tunnel::new(2, &[]);
    let mut router = tunnel.begin(&[]);
    let mut successor = tunnel.start(&[("LANEWAY_QUEUES", "3")]);
    assert_eq!(successor.wait(), Some(1), "{}", successor.said());
    assert!(successor.said().contains("it has 2 lanes, and this one would have 3"), "{}", successor.said());
    assert!(router.is_running());
    tunnel.wait_for_packets();
    assert!(tunnel.metric("laneway_take_overs_total") > 0.5, "the failure is counted");
}
