//! A router is taken over by another process: packets, sessions and order survive it, and whichever process dies when,
//! one of the two carries on and no counter is sent twice.

use std::collections::HashSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::support::binary::{self, Laneway, serves};
use crate::support::folder::Folder;
use crate::support::http::{self, SERVED};
use crate::support::network::sysctl;
use crate::support::process::{Process, output};
use crate::support::tunnel::{self, Family, PORT, allowed_ips};
use crate::support::wg::{self, KeyPair, Setting};
use crate::support::{DEADLINE, Finally, device_name, lab, metrics, require_root, wait_until};
use laneway::cli::demo::lab::{Lab, Side};
use laneway::faults::{DIES_AT, TakeOverStep, UNDERSTANDS};
use laneway::uapi::client;
use nix::sys::socket::sockopt::{RcvBufForce, ReceiveTimeout};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket};
use nix::sys::time::{TimeVal, TimeValLike as _};

/// How many times a router is taken over in a row. `TAKE_OVERS` sets another number for measurements by hand.
const TAKE_OVERS: usize = 5;

/// Batches in the ring of an inside worker.
const DEPTH: (&str, &str) = ("LANEWAY_INBOX_DEPTH", "256");

/// Nothing is dropped to slow TCP down.
const NO_DROPS: (&str, &str) = ("LANEWAY_SHORT_QUEUES", "off");

/// Datagrams a millisecond in each direction. `TAKE_OVER_RATE` sets another number.
const RATE: usize = 2;

/// Bytes of a TCP stream every 5 ms; with sharing, several superpackets, since a single one is not shared.
const CHUNK: usize = 20_000;
const SHARED_CHUNK: usize = 400_000;

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// A tunnel whose left end is taken over.
struct Tunnel {
    lab: Lab,
    device: String,
    file: String,
    environment: Vec<(&'static str, String)>,
    right: Laneway,
    _folder: Folder,
}

impl Tunnel {
    fn new(lanes: usize, variables: &[(&'static str, &str)]) -> Tunnel {
        let lab = lab();
        let queues = lanes.to_string();
        // Deep rings, so that a worker that waits for a CPU costs no packets (`inbox_full`).
        let right = Laneway::start(&lab.right, &[("LANEWAY_QUEUES", &queues), DEPTH, NO_DROPS]);
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
        environment.extend([SERVED, DEPTH, NO_DROPS].map(|(name, value)| (name, value.to_owned())));
        environment.extend(variables.iter().map(|(name, value)| (*name, (*value).to_owned())));
        Tunnel { lab, device, file, environment, right, _folder: folder }
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
    fn wait_for_packets(&self) {
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

    /// Returns the time of the right end's last handshake.
    fn handshake(&self) -> u64 {
        wg::peers(&self.lab.right, &self.right.device)[0].latest_handshake
    }

    fn index(&self) -> String {
        let words = ["ip", "-oneline", "link", "show", "dev", &self.device];
        output(&self.lab.left.namespace, &words, "").split(':').next().expect("an index").to_owned()
    }

    /// Returns the sum of a metric of the left router.
    fn metric(&self, name: &str) -> f64 {
        self.metric_of(name, &[])
    }

    /// Returns the sum of a metric of the left router over the series with these labels.
    fn metric_of(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        metrics::parse(&http::get(&self.lab.left, "/metrics").1).sum(name, labels)
    }

    /// Returns how many TCP segments were sent again, at both ends.
    fn retransmits(&self) -> u64 {
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

/// Numbered datagrams from one side to the other, until it is stopped.
struct Flow {
    stopping: Arc<AtomicBool>,
    sender: JoinHandle<u64>,
    receiver: JoinHandle<Vec<u64>>,
}

impl Flow {
    fn start(tunnel: &Tunnel, from_left: bool) -> Flow {
        let (from, to) = (&tunnel.lab.left, &tunnel.lab.right);
        let ((from, here), (to, there)) = if from_left { ((from, 1), (to, 2)) } else { ((to, 2), (from, 1)) };
        let bind = |side: &Side, host| {
            let socket = side.namespace.run(|| UdpSocket::bind((Family::V4.inside(host), 0)));
            socket.expect("enter").expect("bind")
        };
        let (sending, receiving) = (bind(from, here), bind(to, there));
        setsockopt(&receiving, RcvBufForce, &(64 << 20)).expect("a buffer");
        receiving.set_read_timeout(Some(Duration::from_millis(50))).expect("set");
        sending.connect(receiving.local_addr().expect("bound")).expect("connect");
        let stopping = Arc::new(AtomicBool::new(false));
        let (rate, stop) = (setting("TAKE_OVER_RATE", RATE), Arc::clone(&stopping));
        let sent = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&sent);
        let sender = thread::spawn(move || {
            let begin = Instant::now();
            let mut number = 0_u64;
            while !stop.load(SeqCst) {
                let due = begin.elapsed().as_millis() as u64 * rate as u64;
                while number < due {
                    // Refused only by an error of an earlier datagram.
                    if sending.send(&number.to_be_bytes()).is_ok() {
                        number += 1;
                        counted.store(number, SeqCst);
                    }
                }
                thread::sleep(Duration::from_millis(1));
            }
            number
        });
        let stop = Arc::clone(&stopping);
        let receiver = thread::spawn(move || {
            let mut numbers = Vec::new();
            let mut silent = None;
            loop {
                let mut bytes = [0; 8];
                match receiving.recv(&mut bytes) {
                    Ok(_) => {
                        numbers.push(u64::from_be_bytes(bytes));
                        silent = None;
                    }
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                    Err(error) => panic!("{error}"),
                }
                if stop.load(SeqCst) {
                    let all = numbers.last().is_some_and(|last| last + 1 == sent.load(SeqCst));
                    let since = *silent.get_or_insert_with(Instant::now);
                    if all || since.elapsed() > Duration::from_secs(5) {
                        return numbers;
                    }
                }
            }
        });
        Flow { stopping, sender, receiver }
    }

    /// Ends the flow. Returns how many datagrams were sent, and the numbers received.
    fn stop(self) -> (u64, Vec<u64>) {
        self.stopping.store(true, SeqCst);
        (self.sender.join().expect("the sender"), self.receiver.join().expect("the receiver"))
    }
}

/// Sends bytes over TCP at a steady rate, `chunk` every 5 ms, verifies them, and returns their number.
fn stream(tunnel: &Tunnel, from_left: bool, chunk: usize, over: &Arc<AtomicBool>) -> JoinHandle<usize> {
    let (left, right) = (&tunnel.lab.left, &tunnel.lab.right);
    let (from, to, host) = if from_left { (left, right, 2) } else { (right, left, 1) };
    let address = SocketAddr::from((Family::V4.inside(host), 7700));
    let listener = to.namespace.run(|| TcpListener::bind(address)).expect("enter").expect("bind");
    let connect = || TcpStream::connect(address);
    let mut sending = from.namespace.run(connect).expect("enter").expect("connect");
    let (mut receiving, _) = listener.accept().expect("accept");
    let over = Arc::clone(over);
    thread::spawn(move || {
        let receiver = thread::spawn(move || {
            let (mut bytes, mut total) = (vec![0; 65_536], 0_usize);
            receiving.set_read_timeout(Some(DEADLINE)).expect("set");
            loop {
                let read = receiving.read(&mut bytes).expect("read");
                if read == 0 {
                    return total;
                }
                for byte in &bytes[..read] {
                    assert_eq!(*byte, (total % 251) as u8, "byte {total}");
                    total += 1;
                }
            }
        });
        let mut sent = 0_usize;
        while !over.load(SeqCst) {
            let chunk: Vec<u8> = (sent..sent + chunk).map(|at| (at % 251) as u8).collect();
            sending.write_all(&chunk).expect("write");
            sent += chunk.len();
            thread::sleep(Duration::from_millis(5));
        }
        drop(sending);
        assert_eq!(receiver.join().expect("the receiver"), sent);
        sent
    })
}

/// Returns the counters of a router's drops that are not zero.
fn drops(device: &str) -> Vec<String> {
    let text = client::metrics(Path::new("/var/run/wireguard"), device).expect("it runs").expect("metrics");
    let lines = text.lines().filter(|line| line.contains("dropped_packets_total{") && !line.ends_with(" 0"));
    lines.map(str::to_owned).collect()
}

/// Takes a router over again and again while both directions carry traffic. With `share`, its workers seal and open for
/// each other.
fn loses_nothing(lanes: usize, share: bool) {
    let tunnel = Tunnel::new(lanes, &[("LANEWAY_SHARE", if share { "on" } else { "off" })]);
    for side in [&tunnel.lab.left, &tunnel.lab.right] {
        // On a busy machine an acknowledgement may take longer than TCP waits by default before it sends a segment again,
        // lost or not. One that is lost is still sent again as soon as later ones are acknowledged.
        sysctl(side, "ipv4/tcp_early_retrans", "0");
        if Path::new("/proc/sys/net/ipv4/tcp_rto_min_us").exists() {
            sysctl(side, "ipv4/tcp_rto_min_us", "5000000");
        }
    }
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
    for (flow, direction) in flows.into_iter().zip(["outbound", "inbound"]) {
        let (sent, received) = flow.stop();
        let missing: Vec<u64> = {
            let arrived: HashSet<_> = received.iter().copied().collect();
            (0..sent).filter(|number| !arrived.contains(number)).collect()
        };
        let dropped = || [&tunnel.device, &tunnel.right.device].map(|device| drops(device));
        assert!(missing.is_empty(), "{direction}: of {sent} these are missing: {missing:?}; {:?}", dropped());
        assert!(received.is_sorted() && received.len() as u64 == sent, "{direction}: out of order, or twice");
    }
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

/// Collects the receiver index and counter of each data message that arrives at the right end.
struct Wire {
    stopping: Arc<AtomicBool>,
    seen: Arc<Mutex<HashSet<(u32, u64)>>>,
    watcher: JoinHandle<()>,
}

impl Wire {
    fn watch(side: &Side) -> Wire {
        let open = || {
            let kind = (AddressFamily::Packet, SockType::Raw);
            socket(kind.0, kind.1, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
        };
        let socket = side.namespace.run(open).expect("enter").expect("a packet socket");
        setsockopt(&socket, RcvBufForce, &(64 << 20)).expect("a buffer");
        setsockopt(&socket, ReceiveTimeout, &TimeVal::milliseconds(20)).expect("a limit");
        let (stopping, seen) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (stop, notes): (_, Arc<Mutex<HashSet<_>>>) = (Arc::clone(&stopping), Arc::clone(&seen));
        let watcher = thread::spawn(move || {
            let mut frame = vec![0; 65_536];
            while !stop.load(SeqCst) {
                let Ok(length) = recv(socket.as_raw_fd(), &mut frame, MsgFlags::empty()) else { continue };
                if let Some(message) = data_message(&frame[..length]) {
                    assert!(notes.lock().expect("a set").insert(message), "{message:?} was sent twice");
                }
            }
        });
        Wire { stopping, seen, watcher }
    }

    /// Ends the watch. Returns how many messages it has seen.
    fn stop(self) -> usize {
        self.stopping.store(true, SeqCst);
        self.watcher.join().expect("no counter was sent twice");
        self.seen.lock().expect("a set").len()
    }
}

/// Returns the receiver index and the counter, if this is the frame of a data message to the right end over IPv4.
fn data_message(frame: &[u8]) -> Option<(u32, u64)> {
    const ETHERNET: usize = 14;
    const HEADERS: usize = ETHERNET + 20 + 8;
    let message = frame.get(HEADERS..HEADERS + 16)?;
    let is_udp = frame[12..14] == [8, 0] && frame[ETHERNET] == 0x45 && frame[ETHERNET + 9] == 17;
    let to_router = frame[HEADERS - 6..HEADERS - 4] == PORT.to_be_bytes();
    let is_data = is_udp && to_router && message[..4] == [4, 0, 0, 0];
    is_data.then(|| {
        let index = u32::from_le_bytes(message[4..8].try_into().expect("four bytes"));
        (index, u64::from_le_bytes(message[8..16].try_into().expect("eight bytes")))
    })
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
    let mut successor = tunnel.start(&[(UNDERSTANDS, "2")]);
    assert_eq!(router.wait(), Some(0), "{}\n{}", router.said(), successor.said());
    tunnel.wait_for_packets();
    assert!(successor.is_running());
    let said = successor.said();
    assert!(said.contains("the state has version 1"), "{said}");
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
