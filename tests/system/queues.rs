//! Bulk flows are slowed down while a queue does not run empty: by marks if they are ECN-capable, else by losses.

use crate::support::metrics::total;
use crate::support::network::sysctl;
use crate::support::router::pair_with;
use crate::support::tunnel::Family;
use crate::support::{bulk, lab, require_root, wait_until};
use laneway::cli::demo::lab::Side;
use laneway::lane::standing::ShortQueues;

/// Returns how many packets with a congestion mark a side has received.
fn marked(side: &Side) -> u64 {
    let read = || std::fs::read_to_string("/proc/thread-self/net/netstat");
    let netstat = side.namespace.run(read).expect("enter a namespace").expect("read");
    let mut lines = netstat.lines().filter(|line| line.starts_with("IpExt:")).map(str::split_whitespace);
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let found = names.zip(values).find(|(name, _)| *name == "InCEPkts").expect("a counter");
    found.1.parse().expect("a number")
}

fn slows_down(ecn: bool) {
    let lab = lab();
    for side in [&lab.left, &lab.right] {
        sysctl(side, "ipv4/tcp_ecn", if ecn { "1" } else { "0" });
    }
    let routers = pair_with(&lab, Family::V4, |config| {
        config.short_queues = ShortQueues::On;
        // A drain that reads one packet leaves the others in the queue.
        config.drain_cap = 1;
    });
    let lost = || {
        let of = |router| total(router, "laneway_dropped_packets_total", &[("reason", "standing_queue")]);
        routers.iter().map(of).sum::<u64>()
    };
    let is_slowed = || if ecn { marked(&lab.right) > 0 } else { lost() > 0 };
    wait_until("a flow to be slowed down", || {
        // Verifies every byte.
        bulk(&lab.left, &lab.right, Family::V4.inside(2), 4, 4 << 20);
        is_slowed()
    });
    assert!(ecn || marked(&lab.right) == 0, "a mark that nobody understands");
    for router in routers {
        router.stop().expect("a clean stop");
    }
}

#[test]
fn a_standing_queue_is_shortened_by_losses() {
    require_root!();
    slows_down(false);
}

#[test]
fn a_standing_queue_is_shortened_by_marks() {
    require_root!();
    slows_down(true);
}
