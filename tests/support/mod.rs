//! The lab of the integration tests: the demo's two namespaces and traffic generator, and other programs that run
//! inside them.
//!
//! Each test binary uses only part of this module.
#![allow(dead_code, unreachable_pub, unused_imports, unused_macros)]

pub mod addresses;
pub mod background;
pub mod binary;
pub mod boringtun;
pub mod bottleneck;
pub mod certificates;
pub mod echo;
pub mod flood;
pub mod folder;
pub mod freeze;
pub mod http;
pub mod implementation;
pub mod kernel;
pub mod metrics;
pub mod network;
pub mod ping;
pub mod process;
pub mod prometheus;
pub mod router;
pub mod skip;
pub mod tunnel;
pub mod wg;
pub mod wireguard_go;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use laneway::cli::demo::lab::{CABLE, Lab, Side};
use laneway::cli::demo::traffic::{self, Limit, Outcome, TrafficPlan};

use self::ping::ping;
use self::process::output;
use self::tunnel::Family;

pub(crate) use self::skip::require_root;

/// How long a test waits for something that must happen: far longer than it takes, for slow and busy machines.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// How long TCP may stall during floods that starve it: its retransmission timeout doubles each time.
const SILENCE: Duration = Duration::from_secs(180);

/// Creates a pair of namespaces and waits until the cable between them carries packets.
pub fn lab() -> Lab {
    let lab = Lab::create().unwrap_or_else(|error| panic!("{error}"));
    // The kernel notices the carrier asynchronously, and drops the cable's packets until then.
    for side in [&lab.left, &lab.right] {
        let words = ["ip", "-brief", "link", "show", "dev", CABLE];
        wait_until("the cable", || {
            output(&side.namespace, &words, "").split_whitespace().nth(1) == Some("UP")
        });
    }
    lab
}

/// Returns a device name that no other test on this machine uses: `prefix`, process id, counter. All tests share
/// the directory of control sockets, which are named after their devices.
pub fn device_name(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("{prefix}{}x{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
    assert!(name.len() < 16, "{name} is too long for a device");
    name
}

/// Returns the device names of a side, sorted.
///
/// # Panics
/// If `ip` fails.
pub fn links(side: &Side) -> Vec<String> {
    let listed = output(&side.namespace, &["ip", "-brief", "link"], "");
    let name = |line: &str| line.split([' ', '@']).next().unwrap_or_default().to_owned();
    let mut names: Vec<String> = listed.lines().map(name).collect();
    names.sort();
    names
}

/// Polls until `condition` holds.
///
/// # Panics
/// If it does not hold within [`DEADLINE`]; the message contains `what`.
pub fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    wait_within(DEADLINE, what, condition);
}

/// Like [`wait_until`] with another limit, for operations that take several attempts.
///
/// # Panics
/// If `condition` does not hold in time; the message contains `what`.
pub fn wait_within(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "{what}: not within {} s", limit.as_secs());
        thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until `read` returns the same value twice, 200 ms apart, and returns that value. Workers publish their
/// counts at the end of a turn, after the packets are visible to others.
///
/// # Panics
/// If the value keeps changing; the message contains `what`.
pub fn settled<T: PartialEq>(what: &str, mut read: impl FnMut() -> T) -> T {
    let mut last = read();
    wait_until(&format!("{what} to settle"), || {
        thread::sleep(Duration::from_millis(200));
        let now = read();
        let same = now == last;
        last = now;
        same
    });
    last
}

/// Sets a flag on drop, so that threads that watch it end even when their test fails.
pub struct Finally<'a>(pub &'a AtomicBool);

impl Drop for Finally<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Sends `bytes` on each of `streams` TCP connections from one side to `address` on the other, and verifies every
/// byte on arrival.
///
/// # Panics
/// If a byte is wrong or missing.
pub fn bulk(from: &Side, to: &Side, address: IpAddr, streams: u16, bytes: u64) -> Outcome {
    let (from, to) = (&from.namespace, &to.namespace);
    let plan = TrafficPlan { from, to, address, streams, limit: Limit::Bytes(bytes), patience: SILENCE };
    let outcome =
        traffic::run(&plan, &AtomicBool::new(false), |_| {}).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(outcome.verified, u64::from(streams) * bytes);
    outcome
}

/// Sends through a tunnel what every one must carry: echoes of all sizes, and bulk TCP both ways, over IPv4 and
/// IPv6.
///
/// # Panics
/// If anything is lost or altered.
pub fn exercise(lab: &Lab) {
    for inside in Family::ALL {
        ping(&lab.left.namespace, inside.inside(2));
        ping(&lab.right.namespace, inside.inside(1));
        bulk(&lab.left, &lab.right, inside.inside(2), 2, 8 << 20);
        bulk(&lab.right, &lab.left, inside.inside(1), 2, 8 << 20);
    }
}
