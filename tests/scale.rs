//! Ten thousand peers and fifty thousand allowed IPs: they load, are listed, take little memory, and cost nothing
//! while idle.
//!
//! It has its own test binary because it counts the allocations of the whole process. Its tests run one at a time.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use laneway::cli::demo::lab::Side;
use laneway::config::update::{AllowedIpChange, DeviceUpdate, PeerEndpoint, PeerUpdate};
use laneway::uapi::{Device as _, client};
use laneway::wireguard::keys::PublicKey;
use support::binary::{Laneway, command};
use support::folder::Folder;
use support::process::{Process, attempt, output};
use support::tunnel::{Family, PORT};
use support::{DEADLINE, bulk, device_name, lab, ping::ping, require_root, router, wait_until, wait_within};

const PEERS: u32 = 10_000;

/// The number of allowed IPs of each peer.
const PREFIXES: usize = 5;

/// The most bytes that an idle peer may take, without its prefixes.
const PEER_BYTES: usize = 4096;

/// The most bytes that a prefix may take: two tree nodes, in an array that may have doubled.
const PREFIX_BYTES: usize = 256;

/// How often the peer actor may wake in [`IDLE`] while ten thousand idle peers are configured.
const WAKES: u64 = 4;

/// How long the idle actor is observed.
const IDLE: Duration = Duration::from_secs(2);

/// The number of single-peer changes.
const CHANGES: u32 = 1000;

/// The number of single-peer changes with one command each. Starting `wg` takes longer than its request.
const COMMANDS: u32 = 100;

/// The most bytes that a single-peer change may allocate on average. A copy of all peers and prefixes is some
/// megabytes.
const CHANGE_BYTES: usize = 32 << 10;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes currently allocated in the whole process.
static LIVE: AtomicUsize = AtomicUsize::new(0);

/// Total bytes ever allocated.
static EVER: AtomicUsize = AtomicUsize::new(0);

/// The system allocator, with counters.
struct Counting;

// SAFETY: every call goes to the system allocator unchanged, and counting neither allocates nor unwinds.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Relaxed);
        EVER.fetch_add(layout.size(), Relaxed);
        // SAFETY: the caller upholds the contract of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller upholds the contract of `GlobalAlloc::dealloc`.
        unsafe { System.dealloc(old, layout) }
    }
}

/// Returns the key of peer `number`, whose private key nobody has.
fn key(number: u32) -> PublicKey {
    let mut bytes = [0x5a; 32];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    PublicKey::from_bytes(bytes)
}

/// Returns the allowed IPs of peer `number`: overlapping networks and single addresses of both IP versions.
fn prefixes(number: u32) -> [IpNet; PREFIXES] {
    let [_, _, high, low] = number.to_be_bytes();
    let v4 = |address: [u8; 4], length| IpNet::new(Ipv4Addr::from(address).into(), length);
    let v6 = |first: u16, length| {
        let address = Ipv6Addr::new(first, number as u16, 0, 0, 0, 0, 0, 0);
        IpNet::new(IpAddr::V6(address), length)
    };
    let all = [
        v4([10, high, low, 0], 24),
        v4([10, high, low, 128], 25),
        v4([172, 16, high, low], 32),
        v6(0xfd00, 32),
        v6(0xfd01, 128),
    ];
    all.map(|net| net.expect("a prefix"))
}

fn peer(number: u32, prefixes: &[IpNet]) -> PeerUpdate {
    let allow = |net: &IpNet| AllowedIpChange { net: *net, remove: false };
    let endpoint = (Ipv4Addr::new(198, 51, 100, 1), 1024 + number as u16).into();
    PeerUpdate {
        endpoint: Some(PeerEndpoint::Address(endpoint)),
        replace_allowed_ips: true,
        allowed_ips: prefixes.iter().map(allow).collect(),
        ..PeerUpdate::new(key(number))
    }
}

/// Returns a configuration file with all peers, for `wg` or, with an address, for `laneway run`.
fn file(address: &str) -> String {
    let mut text = format!("[Interface]\n{address}ListenPort = {PORT}\n");
    for number in 0..PEERS {
        let nets = prefixes(number).map(|net| net.to_string()).join(", ");
        let _ = write!(text, "[Peer]\nPublicKey = {}\nAllowedIPs = {nets}\n", key(number));
    }
    text
}

/// Serialises the tests.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn ten_thousand_peers_load_change_and_show_through_wg() {
    require_root!();
    let _turn = alone();
    let lab = lab();
    let laneway = Laneway::start(&lab.left, &[]);
    let start = Instant::now();
    let step = |what: &str, words: &[&str], input: &str| {
        let said = output(&lab.left.namespace, words, input);
        println!("{what}: {} ms after the start", start.elapsed().as_millis());
        said
    };
    let (device, all) = (laneway.device.as_str(), file(""));
    // The first fills the device, the others replace every prefix individually.
    for command in ["setconf", "syncconf", "addconf"] {
        step(command, &["wg", command, device, "/dev/stdin"], &all);
        let dump = step("show", &["wg", "show", device, "dump"], "");
        assert_eq!(dump.lines().count(), 1 + PEERS as usize);
        let shown: usize = dump.lines().skip(1).map(|line| line.matches('/').count()).sum();
        assert!(shown >= PEERS as usize * PREFIXES, "{shown} prefixes after {command}");
    }
    let none = format!("[Interface]\nListenPort = {PORT}\n");
    step("syncconf to nothing", &["wg", "syncconf", device, "/dev/stdin"], &none);
    assert_eq!(step("show", &["wg", "show", device, "peers"], ""), "");
}

#[test]
fn the_memory_of_removed_peers_goes_back() {
    require_root!();
    let _turn = alone();
    let lab = lab();
    let laneway = Laneway::start(&lab.left, &[("LANEWAY_QUEUES", "1")]);
    let (device, memory) = (laneway.device.as_str(), || laneway.process.memory("VmRSS"));
    let left = |words: &[&str], input: &str| output(&lab.left.namespace, words, input);
    left(&["ip", "address", "add", "172.31.0.1/12", "dev", device], "");
    left(&["ip", "link", "set", device, "up"], "");
    let before = memory();
    left(&["wg", "setconf", device, "/dev/stdin"], &file(""));
    // Both workers load the snapshot with all peers, and keep it while they sleep.
    let socket =
        |side: &Side| side.namespace.run(|| UdpSocket::bind("0.0.0.0:0")).expect("enter").expect("bind");
    let (near, far) = (socket(&lab.left), socket(&lab.right));
    wait_until("both workers to drop a packet", || {
        let _ = near.send_to(b"no endpoint", "172.16.0.1:9");
        let _ = far.send_to(b"no message of WireGuard", (lab.left.underlay4, PORT));
        let text =
            client::metrics(Path::new("/var/run/wireguard"), device).expect("it runs").expect("metrics");
        let drops =
            text.lines().filter(|line| line.contains("dropped_packets_total{") && !line.ends_with(" 0"));
        let drops: Vec<_> = drops.collect();
        ["inbound", "outbound"].iter().all(|way| drops.iter().any(|line| line.contains(way)))
    });
    let with = memory();
    left(&["wg", "syncconf", device, "/dev/stdin"], &format!("[Interface]\nListenPort = {PORT}\n"));
    println!("{before} KiB before, {with} KiB with all peers");
    wait_until("memory to go back", || memory() < before + (with - before) / 2);
    println!("{} KiB without them", memory());
}

#[test]
fn ten_thousand_peers_load_from_a_file_with_their_routes() {
    require_root!();
    let _turn = alone();
    let lab = lab();
    let device = device_name("lw");
    let folder = Folder::new();
    let private = output(&lab.left.namespace, &["wg", "genkey"], "");
    let text = file(&format!("PrivateKey = {private}Address = 10.77.0.1/32\n"));
    let path = folder.write(&format!("{device}.conf"), &text);
    let arguments = ["run", "--config", &path];
    let start = Instant::now();
    let environment = [("LANEWAY_METRICS_ADDR", "off")];
    let mut laneway = Process::start_quietly(&mut command(&lab.left, &arguments, &environment));
    let wg = ["wg", "show", &device, "peers"];
    wait_within(3 * DEADLINE, "all peers", || {
        assert!(laneway.is_running(), "{}", laneway.said());
        attempt(&lab.left.namespace, &wg, "").is_ok_and(|peers| peers.lines().count() == PEERS as usize)
    });
    println!("up with all routes after {} ms", start.elapsed().as_millis());
    for (family, count) in [("-4", 3), ("-6", 2)] {
        let routes = output(&lab.left.namespace, &["ip", family, "route", "show", "dev", &device], "");
        let static_routes = routes.lines().filter(|route| !route.contains("kernel")).count();
        assert_eq!(static_routes, count * PEERS as usize);
    }
}

#[test]
fn an_idle_peer_is_small_and_its_timers_cost_nothing() {
    require_root!();
    let _turn = alone();
    let lab = lab();
    let routers = router::pair(&lab, Family::V4);
    let live = || LIVE.load(Relaxed);
    let load = |prefixes: &dyn Fn(u32) -> Vec<IpNet>| {
        let peers = (0..PEERS).map(|number| peer(number, &prefixes(number))).collect();
        routers[0].device().apply(DeviceUpdate { peers, ..DeviceUpdate::default() }).expect("room for all");
        // Workers release the previous snapshot on their next turn.
        ping(&lab.left.namespace, Family::V4.inside(2));
        live()
    };
    let empty = live();
    let peers = load(&|_| Vec::new());
    let all = load(&|number| prefixes(number).to_vec());
    let each = peers.saturating_sub(empty) / PEERS as usize;
    let prefix = all.saturating_sub(peers) / (PEERS as usize * PREFIXES);
    println!("{each} bytes per idle peer, {prefix} bytes per allowed IP");
    assert!(each > 0 && each < PEER_BYTES, "{each} bytes per idle peer");
    assert!(prefix > 0 && prefix < PREFIX_BYTES, "{prefix} bytes per allowed IP");

    // The one active peer among them is found, without a loss of speed.
    bulk(&lab.left, &lab.right, Family::V6.inside(2), 1, 8 << 20);
    drop(routers);

    let alone = router::start(&lab.left, &router::config(1, &router::key()));
    let peers = (0..PEERS).map(|number| peer(number, &prefixes(number))).collect();
    alone.device().apply(DeviceUpdate { peers, ..DeviceUpdate::default() }).expect("room for all");
    let (start, before) = (Instant::now(), wakes());
    thread::sleep(IDLE);
    let woke = wakes() - before;
    // A busy machine may oversleep.
    let most = WAKES * start.elapsed().as_millis().div_ceil(IDLE.as_millis()) as u64;
    assert!(woke <= most, "the idle peer actor woke {woke} times");
}

#[test]
fn a_change_of_one_peer_copies_no_others() {
    require_root!();
    let _turn = alone();
    let lab = lab();
    let router = router::start(&lab.left, &router::config(1, &router::key()));
    let peers = (0..PEERS).map(|number| peer(number, &prefixes(number))).collect();
    router.device().apply(DeviceUpdate { peers, ..DeviceUpdate::default() }).expect("room for all");
    let each = |what: &str, change: &dyn Fn(u32) -> PeerUpdate| {
        let (start, before) = (Instant::now(), EVER.load(Relaxed));
        for number in 0..CHANGES {
            let peers = vec![PeerUpdate { update_only: true, ..change(number) }];
            router.device().apply(DeviceUpdate { peers, ..DeviceUpdate::default() }).expect("a change");
        }
        let allocated = (EVER.load(Relaxed) - before) / CHANGES as usize;
        println!(
            "{what}: {} us and {allocated} bytes each",
            start.elapsed().as_micros() / u128::from(CHANGES)
        );
        assert!(allocated < CHANGE_BYTES, "{what}: {allocated} bytes");
    };
    each("persistent-keepalive", &|number| PeerUpdate {
        persistent_keepalive: Some(0),
        ..PeerUpdate::new(key(number))
    });
    each("allowed-ips as they are", &|number| peer(number, &prefixes(number)));
    each("allowed-ips of another", &|number| peer(number, &prefixes(number + CHANGES)));
    each("allowed-ips of its own", &|number| peer(number, &prefixes(number)));
    // Peers do not get back prefixes that were moved away.
    let status = router.device().status().expect("it runs");
    let counts = |from: u32| {
        status.peers[from as usize..].iter().take(CHANGES as usize).map(|peer| peer.allowed_ips.len())
    };
    assert!(counts(0).all(|count| count == PREFIXES) && counts(CHANGES).all(|count| count == 0));
    assert!(counts(2 * CHANGES).all(|count| count == PREFIXES));
}

#[test]
fn single_changes_come_through_wg() {
    require_root!();
    let _turn = alone();
    let lab = lab();
    let laneway = Laneway::start(&lab.left, &[]);
    let device = laneway.device.as_str();
    output(&lab.left.namespace, &["wg", "setconf", device, "/dev/stdin"], &file(""));
    let set = |number: u32, what: &str, value: &str| {
        let key = key(number).to_string();
        output(&lab.left.namespace, &["wg", "set", device, "peer", &key, what, value], "");
    };
    let start = Instant::now();
    (0..COMMANDS).for_each(|number| set(number, "persistent-keepalive", "25"));
    println!("{COMMANDS} times wg set persistent-keepalive: {} ms", start.elapsed().as_millis());
    let start = Instant::now();
    (0..COMMANDS).for_each(|number| set(number, "allowed-ips", &format!("192.0.2.{}/32", number % 64)));
    println!("{COMMANDS} times wg set allowed-ips: {} ms", start.elapsed().as_millis());
    let dump = output(&lab.left.namespace, &["wg", "show", device, "dump"], "");
    let changed = dump.lines().filter(|line| line.ends_with("\t25")).count();
    assert_eq!(changed, COMMANDS as usize);
    assert_eq!(dump.matches("192.0.2.").count(), 64, "an address has several owners");
}

/// Returns how often the peer actor's thread has slept (`proc_pid_status(5)`).
fn wakes() -> u64 {
    let tasks = fs::read_dir("/proc/self/task").expect("/proc");
    let peers = tasks
        .filter_map(Result::ok)
        .map(|task| task.path())
        .find(|task| fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "peers"));
    let status = fs::read_to_string(peers.expect("the actor's thread").join("status")).expect("/proc");
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.and_then(|count| count.trim().parse().ok()).expect("a count")
}
