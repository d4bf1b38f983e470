//! The laboratory of the integration tests: the demo's two namespaces and its traffic generator, and other
//! people's programs run inside them.
//!
//! Every test binary takes from here what it needs, so parts are unused in each of them.
#![allow(dead_code, unreachable_pub)]

pub mod background;
pub mod binary;
pub mod boringtun;
pub mod echo;
pub mod flood;
pub mod folder;
pub mod freeze;
pub mod implementation;
pub mod kernel;
pub mod network;
pub mod ping;
pub mod process;
pub mod prometheus;
pub mod router;
pub mod routers;
pub mod tunnel;
pub mod wg;
pub mod wireguard_go;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use laneway::cli::demo::lab::{CABLE, Lab, Side};
use laneway::cli::demo::traffic::{self, Limit, Outcome, Plan};

use self::ping::ping;
use self::process::output;
use self::tunnel::Family;

/// How long something that must happen soon may take before a test gives up: on a machine that is slow and has
/// other things to do, much longer than on one that is neither. Where all is well nobody waits for it.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// How long TCP may be silent among floods that starve it. Each of its retries comes twice as late as the one before.
const SILENCE: Duration = Duration::from_secs(180);

/// Whether this machine lets the test make namespaces. `LANEWAY_SKIP_NETNS=1` says that it does not and that
/// this is known: the test returns early. Otherwise a missing right is a failure that says what to do.
#[must_use]
pub fn require_root() -> bool {
    if std::env::var_os("LANEWAY_SKIP_NETNS").is_some_and(|skip| skip == "1") {
        eprintln!("skipped: LANEWAY_SKIP_NETNS=1");
        return false;
    }
    let allowed = laneway::netns::may_administer().expect("read /proc");
    assert!(
        allowed,
        "this test makes network namespaces and TUN devices: run it as root \
         (CAP_NET_ADMIN and CAP_SYS_ADMIN), or set LANEWAY_SKIP_NETNS=1 to leave it out"
    );
    true
}

/// A fresh pair of namespaces with a cable between them, over which packets go.
pub fn lab() -> Lab {
    let lab = Lab::create().unwrap_or_else(|error| panic!("{error}"));
    // The kernel looks at carriers in its own time, and until then has nothing but drops for the cable's packets.
    for side in [&lab.left, &lab.right] {
        let words = ["ip", "-brief", "link", "show", "dev", CABLE];
        wait_until("the cable", || {
            output(&side.namespace, &words, "").split_whitespace().nth(1) == Some("UP")
        });
    }
    lab
}

/// A device name that no other test of this machine uses: `prefix`, the process, a number. Tests share the
/// directory of the control sockets, which are called after their devices.
pub fn device_name(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("{prefix}{}x{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
    assert!(name.len() < 16, "{name} is too long for a device");
    name
}

/// The devices of a side, sorted.
///
/// # Panics
/// When `ip` does not say.
pub fn links(side: &Side) -> Vec<String> {
    let listed = output(&side.namespace, &["ip", "-brief", "link"], "");
    let name = |line: &str| line.split([' ', '@']).next().unwrap_or_default().to_owned();
    let mut names: Vec<String> = listed.lines().map(name).collect();
    names.sort();
    names
}

/// Looks again and again until `condition` holds.
///
/// # Panics
/// When it does not within [`DEADLINE`]; the message names `what`.
pub fn wait_until(what: &str, condition: impl FnMut() -> bool) {
    wait_within(DEADLINE, what, condition);
}

/// The same with another limit, for what has to be tried several times.
///
/// # Panics
/// When `condition` does not hold in time; the message names `what`.
pub fn wait_within(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "{what}: not within {} s", limit.as_secs());
        thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until `read` gives the same twice in a row, a while apart, and returns it: workers tell what they did at
/// the end of a turn, each at its own, and so a little after others can see it.
///
/// # Panics
/// When it goes on changing; the message names `what`.
pub fn settled<T: PartialEq>(what: &str, mut read: impl FnMut() -> T) -> T {
    let mut last = read();
    wait_until(&format!("{what} to stand still"), || {
        thread::sleep(Duration::from_millis(200));
        let now = read();
        let same = now == last;
        last = now;
        same
    });
    last
}

/// Sets a flag when it is dropped, so that threads which look at it end even when their test fails.
pub struct Finally<'a>(pub &'a AtomicBool);

impl Drop for Finally<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// Carries `bytes` on each of `streams` TCP connections from one side to `address` on the other, and compares
/// every byte on arrival.
///
/// # Panics
/// When a byte is wrong or missing.
pub fn bulk(from: &Side, to: &Side, address: IpAddr, streams: u16, bytes: u64) -> Outcome {
    let (from, to) = (&from.namespace, &to.namespace);
    let plan = Plan { from, to, address, streams, limit: Limit::Bytes(bytes), patience: SILENCE };
    let outcome =
        traffic::run(&plan, &AtomicBool::new(false), |_| {}).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(outcome.verified, u64::from(streams) * bytes);
    outcome
}

/// What every working tunnel must carry: echoes of all sizes, and bulk TCP both ways, over IPv4 and IPv6.
///
/// # Panics
/// When something does not come back, or not unchanged.
pub fn exercise(lab: &Lab) {
    for inside in Family::ALL {
        ping(&lab.left.namespace, inside.inside(2));
        ping(&lab.right.namespace, inside.inside(1));
        bulk(&lab.left, &lab.right, inside.inside(2), 2, 8 << 20);
        bulk(&lab.right, &lab.left, inside.inside(1), 2, 8 << 20);
    }
}
