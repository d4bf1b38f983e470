//! What the panic of a worker costs: the packets in its hands, counted in their direction. Batches return to their
//! pools, shortcuts work on, and the next packets pass. Panics are injected at every stage ([`laneway::faults`]), which
//! takes a debug build.
#![cfg(debug_assertions)]

mod support;

use std::collections::HashSet;
use std::io::ErrorKind::WouldBlock;
use std::net::UdpSocket;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use laneway::cli::demo::lab::{Lab, Side};
use laneway::config::update::{DeviceUpdate, PeerEndpoint, PeerUpdate};
use laneway::config::{Queues, Sharing};
use laneway::faults::{self, Faults, Stage};
use laneway::router::start::Router;
use laneway::sys::udp::IntOption;
use laneway::uapi::Device as _;
use laneway::wireguard::keys::PrivateKey;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::RcvBufForce;
use support::tunnel::Family;
use support::{DEADLINE, lab, metrics, require_root, router, wait_until};

/// Panics per stage: more than lose all batches of a pool if each loses eight.
const PANICS: u32 = 3;

/// Datagrams per burst, which the kernel hands to the router in one superpacket, and their size in bytes.
const BURST: usize = 16;
const SIZE: usize = 100;

/// Bursts whose batches are large enough to be shared, how many are sent at once, and the size of their datagrams in
/// bytes.
const LARGE_BURST: usize = 48;
const LARGE_BURSTS: usize = 6;
const LARGE_SIZE: usize = 1200;

/// Panics of shared jobs, fewer than stop a router (8 within a minute).
const JOB_PANICS: u64 = 3;

/// How long a router may take to carry a datagram before it counts as dead, in the report of [`survey`].
const PATIENCE: Duration = Duration::from_secs(8);

/// How long datagrams and counts may take to show up.
const SETTLE: Duration = Duration::from_secs(2);

/// How a test makes a worker reach a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Bursts from the router with the faults.
    Out,
    /// Bursts to it.
    In,
    /// Lone datagrams from it.
    LoneOut,
    /// Lone datagrams to it.
    LoneIn,
    /// A packet that no peer takes.
    Refused,
    /// Bursts from it while it has no session.
    Staged,
}

fn way(stage: Stage) -> Way {
    use Stage as S;
    match stage {
        S::Read | S::Route | S::Cut | S::Seal | S::HandOver | S::Send | S::Sent | S::Finish => Way::Out,
        S::Take | S::Write | S::Return | S::Receive | S::Open | S::Place | S::Settle | S::Push => Way::In,
        S::Stage | S::Release | S::Command | S::Handshake => Way::Staged,
        S::SendShortcut => Way::LoneOut,
        S::WriteShortcut => Way::LoneIn,
        S::Reject => Way::Refused,
        S::SealJob | S::OpenJob | S::Help => unreachable!("only with sharing on"),
    }
}

/// Two routers, of which the left one has faults.
struct Pair<'l> {
    lab: &'l Lab,
    left: Router,
    right: Router,
    keys: [PrivateKey; 2],
    faults: Arc<Faults>,
    /// A socket on each side, connected to the other.
    sockets: [UdpSocket; 2],
    /// The size of the datagrams in bytes.
    size: usize,
    sent: u32,
    /// The numbers received at each side, and the last one.
    received: [HashSet<u32>; 2],
    last: [Option<u32>; 2],
    /// Whether all datagrams have arrived in order.
    in_order: bool,
}

impl<'l> Pair<'l> {
    fn start(lab: &'l Lab, lanes: usize, share: Sharing, size: usize) -> Self {
        let keys = [router::key(), router::key()];
        let faults = Arc::new(Faults::new());
        let [left, right] = router::pair_of(lab, Family::V4, &keys, |own, config| {
            config.queues = Queues::Fixed(lanes);
            config.share = share;
            faults::install((own == 0).then(|| Arc::clone(&faults)));
        });
        let bind = |side: &Side, host| {
            let bound = side.namespace.run(|| UdpSocket::bind((Family::V4.inside(host), 0)));
            bound.expect("enter a namespace").expect("bind")
        };
        let sockets = [bind(&lab.left, 1), bind(&lab.right, 2)];
        for (own, other) in [(0, 1), (1, 0)] {
            sockets[own].connect(sockets[other].local_addr().expect("a port")).expect("a route");
            sockets[own].set_nonblocking(true).expect("set");
            setsockopt(&sockets[own], RcvBufForce, &(64 << 20)).expect("a buffer");
        }
        let received = Default::default();
        let (last, in_order) = ([None; 2], true);
        let mut pair =
            Pair { lab, left, right, keys, faults, sockets, size, sent: 0, received, last, in_order };
        assert!(pair.passes(DEADLINE), "nothing passes without a panic");
        pair
    }

    /// Sends datagrams from one side in one system call.
    fn send(&mut self, from: usize, datagrams: usize) {
        let socket = &self.sockets[from];
        let size = self.size;
        let mut burst = vec![0; datagrams * size];
        for datagram in burst.chunks_mut(size) {
            datagram[..4].copy_from_slice(&self.sent.to_be_bytes());
            self.sent += 1;
        }
        IntOption::UDP_SEGMENT.set(socket.as_fd(), size.try_into().expect("small")).expect("UDP GSO");
        while socket.send(&burst).is_err() {
            // An earlier datagram met no socket, or the device's queue is full.
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Takes what has arrived.
    fn receive(&mut self) {
        let sides = self.sockets.iter().zip(&mut self.received).zip(&mut self.last);
        for ((socket, received), last) in sides {
            let mut datagram = [0; 2 * LARGE_SIZE];
            loop {
                match socket.recv(&mut datagram) {
                    Ok(len) if len == self.size => {
                        let number = u32::from_be_bytes(datagram[..4].try_into().expect("four bytes"));
                        assert!(received.insert(number), "{number} arrived twice");
                        self.in_order &= *last < Some(number);
                        *last = Some(number);
                    }
                    Ok(len) => panic!("a datagram of {len} bytes"),
                    Err(error) if error.kind() == WouldBlock => break,
                    // An ICMP error about an earlier datagram.
                    Err(_) => {}
                }
            }
        }
    }

    /// Returns the packets that the left router's workers lost by panics, outbound and inbound.
    fn lost(&self) -> [u64; 2] {
        ["outbound", "inbound"].map(|direction| self.dropped(direction, "worker_restart"))
    }

    fn dropped(&self, direction: &str, reason: &str) -> u64 {
        let labels = [("direction", direction), ("reason", reason)];
        metrics::total(&self.left, "laneway_dropped_packets_total", &labels)
    }

    /// Returns how many datagrams have neither arrived nor been counted as lost.
    fn uncounted(&mut self) -> i64 {
        self.receive();
        let received = self.received.iter().map(|numbers| numbers.len() as u64).sum::<u64>();
        // The right router may use the session that [`forget_session`](Self::forget_session) removed a little longer.
        let late = self.dropped("inbound", "unknown_index");
        let [outbound, inbound] = self.lost();
        i64::from(self.sent) - (received + late + outbound + inbound).cast_signed()
    }

    fn restarts(&self) -> u64 {
        metrics::total(&self.left, "laneway_worker_restarts_total", &[])
    }

    fn shortcuts(&self) -> [u64; 2] {
        ["outbound", "inbound"].map(|direction| {
            metrics::total(&self.left, "laneway_shortcuts_total", &[("direction", direction)])
        })
    }

    /// Removes the right peer from the left router and adds it again, without a session.
    fn forget_session(&self) {
        let peer = self.keys[1].public_key();
        let remove = PeerUpdate { remove: true, ..PeerUpdate::new(peer) };
        let endpoint = Some(PeerEndpoint::Address(Family::V4.endpoint(&self.lab.right)));
        let allowed = format!("{}/32", Family::V4.inside(2));
        let add = PeerUpdate { endpoint, ..router::peer(peer, &[&allowed]) };
        let update = DeviceUpdate { peers: vec![remove, add], ..DeviceUpdate::default() };
        self.left.device().apply(update).expect("the router runs");
    }

    /// Sends traffic once, so that a worker reaches the stage to which `way` leads.
    fn drive(&mut self, way: Way) {
        match way {
            Way::Out => self.send(0, BURST),
            Way::In => self.send(1, BURST),
            Way::LoneOut => self.send(0, 1),
            Way::LoneIn => self.send(1, 1),
            Way::Refused => {
                let stranger = self.lab.left.namespace.run(|| UdpSocket::bind("0.0.0.0:0"));
                let stranger = stranger.expect("enter a namespace").expect("bind");
                stranger.send_to(&[0], (Family::V4.inside(77), 9)).expect("the device routes its subnet");
            }
            Way::Staged => {
                self.forget_session();
                self.send(0, BURST);
            }
        }
    }

    /// Waits until a datagram passes each way. Returns whether it did.
    fn passes(&mut self, patience: Duration) -> bool {
        let start = Instant::now();
        for from in [0, 1] {
            let before = self.received[1 - from].len();
            for looks in 0.. {
                if looks % 100 == 0 {
                    self.send(from, 1);
                }
                self.receive();
                if self.received[1 - from].len() > before {
                    break;
                }
                if start.elapsed() > patience {
                    return false;
                }
                thread::sleep(Duration::from_millis(2));
            }
        }
        true
    }

    /// Waits until a panic at `stage` has happened. Returns whether it did.
    fn panic_at(&mut self, stage: Stage) -> bool {
        self.faults.arm(stage, 1);
        let start = Instant::now();
        while self.faults.left(stage) > 0 {
            self.drive(way(stage));
            let driven = Instant::now();
            // One burst suffices. A lone packet takes the shortcut only if a worker sleeps, and may have to be repeated.
            let lone = matches!(way(stage), Way::LoneOut | Way::LoneIn);
            let pause = if lone { Duration::from_millis(20) } else { PATIENCE };
            while self.faults.left(stage) > 0 && driven.elapsed() < pause {
                thread::sleep(Duration::from_millis(1));
            }
            if start.elapsed() > PATIENCE {
                return false;
            }
        }
        true
    }
}

/// What panics at one stage did.
#[derive(Debug, Default)]
struct Row {
    /// After how many panics nothing passed any more.
    dead_after: Option<u32>,
    /// Packets counted as lost, outbound and inbound.
    lost: [u64; 2],
    /// Datagrams that neither arrived nor are counted.
    uncounted: i64,
    /// Whether lone packets still take the shortcuts, outbound and inbound.
    shortcuts: [bool; 2],
    /// What `/healthz` would report about batches.
    missing: Vec<String>,
}

fn survey(lab: &Lab, stage: Stage, lanes: usize, panics: u32) -> Row {
    let mut pair = Pair::start(lab, lanes, Sharing::Off, SIZE);
    let mut row = Row::default();
    for n in 1..=panics {
        if !pair.panic_at(stage) || !pair.passes(PATIENCE) {
            row.dead_after = Some(n);
            break;
        }
    }
    let start = Instant::now();
    let mut settled = || {
        row.uncounted = pair.uncounted();
        row.lost = pair.lost();
        row.uncounted == 0
    };
    while !settled() && start.elapsed() < SETTLE {
        thread::sleep(Duration::from_millis(20));
    }
    let custody = pair.left.threads();
    while !custody.custody().audit() && start.elapsed() < 2 * PATIENCE {
        thread::sleep(Duration::from_millis(1));
    }
    row.missing = custody.custody().missing();
    if row.dead_after.is_none() {
        let before = pair.shortcuts();
        for _ in 0..1000 {
            pair.passes(PATIENCE);
            // Lets the workers fall asleep, without which there are no shortcuts.
            thread::sleep(Duration::from_millis(2));
            let now = pair.shortcuts();
            row.shortcuts = [now[0] > before[0], now[1] > before[1]];
            if row.shortcuts == [true; 2] {
                break;
            }
        }
        assert_eq!(pair.restarts(), u64::from(panics));
        for router in [pair.left, pair.right] {
            router.stop().expect("a router stops cleanly after panics");
        }
    }
    row
}

/// Checks that panics at every stage cost what is in hand, and nothing else.
fn every_stage(lanes: usize, panics: u32) {
    let lab = lab();
    let of_jobs = [Stage::SealJob, Stage::OpenJob, Stage::Help];
    for &stage in Stage::ALL.iter().filter(|stage| !of_jobs.contains(stage)) {
        // Each costs a handshake's retransmission timeout, 5 s.
        let handshake = matches!(stage, Stage::Command | Stage::Handshake);
        let panics = if handshake { 1 } else { panics };
        let row = survey(&lab, stage, lanes, panics);
        eprintln!("{stage:?}, {lanes} lanes: {row:?}");
        // A lost handshake message is counted, too, and is none of the datagrams.
        let uncounted = if handshake { -1 } else { 0 };
        assert_eq!((row.dead_after, row.uncounted), (None, uncounted), "{stage:?}: {row:?}");
        assert_eq!((row.shortcuts, &row.missing[..]), ([true; 2], &[][..]), "{stage:?}: {row:?}");
        let (outbound, inbound) = match way(stage) {
            Way::Staged if handshake => (1, 1),
            // The packet was sent, written or counted before, or is sealed and leaves after the restart.
            _ if matches!(stage, Stage::Sent | Stage::Finish | Stage::Return) => (0, 0),
            Way::Refused | Way::LoneOut => (0, 0),
            Way::Out | Way::Staged => (BURST as u64, 0),
            Way::In => (0, BURST as u64),
            Way::LoneIn => (0, 1),
        };
        let panics = u64::from(panics);
        assert!(row.lost[0] <= panics * outbound && row.lost[1] <= panics * inbound, "{stage:?}: {row:?}");
    }
}

#[test]
fn a_panic_costs_what_is_in_hand() {
    require_root!();
    every_stage(1, PANICS);
}

#[test]
fn a_panic_in_one_of_three_lanes_costs_what_is_in_hand() {
    require_root!();
    every_stage(3, 1);
}

/// With sharing on, a panic inside of a job costs the datagrams of its batch, whichever worker has it in hand; batches
/// behind it keep their order.
#[test]
fn a_panic_in_a_shared_job_costs_its_batch_and_nothing_is_reordered() {
    require_root!();
    let lab = lab();
    // Datagrams from the left router are sealed by it, and those to it opened. The owner may be the first to have a job in
    // hand, so there is also a stage that only helpers reach.
    for (stage, from) in [(Stage::SealJob, 0), (Stage::Help, 0), (Stage::OpenJob, 1), (Stage::Help, 1)] {
        let mut pair = Pair::start(&lab, 3, Sharing::On, LARGE_SIZE);
        let start = Instant::now();
        let mut panics = 0;
        while panics < JOB_PANICS {
            pair.faults.arm(stage, 1);
            while pair.faults.left(stage) > 0 {
                assert!(start.elapsed() < DEADLINE, "{stage:?}: no batch was shared");
                for _ in 0..LARGE_BURSTS {
                    pair.send(from, LARGE_BURST);
                }
                // Datagrams in both directions also keep the kernel from moving the flow to another queue, which it does
                // after three seconds without (`TUN_FLOW_EXPIRE` in `drivers/net/tun.c`).
                assert!(pair.passes(PATIENCE), "{stage:?}: nothing passes after {panics} panics");
            }
            panics += 1;
        }
        wait_until("every datagram to arrive or be counted", || pair.uncounted() == 0);
        let (lost, sent) = (pair.lost()[from], u64::from(pair.sent));
        // A panic of the owner costs what it has in hand in addition.
        let most = panics * ((LARGE_BURSTS + 1) * LARGE_BURST) as u64;
        assert!((1..=most).contains(&lost), "{stage:?}: {lost} of {sent} lost in {panics} panics");
        assert_eq!(pair.lost()[1 - from], 0, "{stage:?}: {panics} panics");
        assert!(pair.in_order, "{stage:?}: reordered");
        assert_eq!(pair.restarts(), panics, "{stage:?}");
        let custody = pair.left.threads();
        wait_until("the batches to be counted", || custody.custody().audit());
        assert_eq!(custody.custody().missing(), [""; 0], "{stage:?}");
        for router in [pair.left, pair.right] {
            router.stop().expect("a router stops cleanly after panics");
        }
    }
}
