//! Bulk flows are slowed down while a queue does not run empty: by marks if they are ECN-capable, else by losses.

use std::net::IpAddr;
use std::thread;

use crate::support::metrics::total;
use crate::support::network::{cable, host, sysctl};
use crate::support::router::{self, key, pair_with, peer};
use crate::support::tunnel::{Family, PORT};
use crate::support::{bulk, lab, require_root, wait_until};
use laneway::cli::demo::lab::Side;
use laneway::config::update::PeerEndpoint;
use laneway::lane::standing::ShortQueues;
use laneway::router::start::Router;

/// Returns how many packets with a congestion mark a side has received.
fn marked(side: &Side) -> u64 {
    let read = || std::fs::read_to_string("/proc/thread-self/net/netstat");
    let netstat = side.namespace.run(read).expect("enter a namespace").expect("read");
    let mut lines = netstat.lines().filter(|line| line.starts_with("IpExt:")).map(str::split_whitespace);
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let found = names.zip(values).find(|(name, _)| *name == "InCEPkts").expect("a counter");
    found.1.parse().expect("a number")
}

/// Returns how many packets a router has dropped to slow their senders down.
fn lost(router: &Router) -> u64 {
    total(router, "laneway_dropped_packets_total", &[("reason", "standing_queue")])
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
    let lost = || routers.iter().map(lost).sum::<u64>();
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

#[test]
fn a_peer_with_more_than_its_share_of_a_standing_queue_is_slowed_down() {
    require_root!();
    let (lab, third) = (lab(), host([198, 51, 100, 2], "2001:db8:9::2"));
    cable((&lab.left, "third", &["198.51.100.1/30"]), (&third, "hub", &["198.51.100.2/30"]));
    for side in [&lab.left, &lab.right, &third] {
        sysctl(side, "ipv4/tcp_ecn", "0");
    }
    let keys = [key(), key(), key()];
    let known = |index: usize, address: IpAddr| {
        let mut peer =
            peer(keys[index].public_key(), &[&format!("{}/32", Family::V4.inside(index as u8 + 1))]);
        peer.endpoint = Some(PeerEndpoint::Address((address, PORT).into()));
        peer
    };
    let mut hub = router::config(1, &keys[0]);
    // A drain that reads one packet leaves the others in the queue.
    hub.drain_cap = 1;
    hub.update.peers = vec![known(1, lab.right.underlay4.into()), known(2, third.underlay4.into())];
    assert_eq!(hub.short_queues, ShortQueues::Auto, "the default");
    let hub = router::start(&lab.left, &hub);
    let spokes = [(&lab.right, lab.left.underlay4.into()), (&third, IpAddr::from([198, 51, 100, 1]))];
    let spokes = [1, 2].map(|index: usize| {
        let (side, at) = spokes[index - 1];
        let mut config = router::config(index as u8 + 1, &keys[index]);
        config.update.peers = vec![known(0, at)];
        router::start(side, &config)
    });
    wait_until("a flow to be slowed down", || {
        thread::scope(|scope| {
            scope.spawn(|| bulk(&lab.left, &third, Family::V4.inside(3), 1, 2 << 20));
            bulk(&lab.left, &lab.right, Family::V4.inside(2), 8, 2 << 20);
        });
        lost(&hub) > 0
    });
    for router in spokes.into_iter().chain([hub]) {
        router.stop().expect("a clean stop");
    }
}
