//! A router that is stopped under load sends and writes what it has already read, without delay.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Instant;

use crate::support::ping::ping;
use crate::support::tunnel::Family;
use crate::support::{DEADLINE, Finally, lab, metrics, require_root, router, settled, wait_until};
use laneway::config::Queues;
use laneway::metrics::Registry;

/// Returns the segments that a router has read but neither passed on nor counted as dropped: sealed but not sent,
/// opened but not written. Messages that are not data make these negative.
fn under_way(registry: &Registry) -> (f64, f64) {
    let scrape = metrics::parse(&registry.render());
    let segments = |direction| scrape.sum("laneway_segments_total", &[("direction", direction)]);
    let drops = |direction, reasons: &[&str]| -> f64 {
        let of = |reason: &&str| {
            scrape.sum("laneway_dropped_packets_total", &[("direction", direction), ("reason", reason)])
        };
        reasons.iter().map(of).sum()
    };
    let sent = scrape.sum("laneway_udp_run_segments_sum", &[]);
    let written = scrape.sum("laneway_tun_write_packets_total", &[]);
    (
        segments("outbound") - sent - drops("outbound", &["send_error", "too_big"]),
        segments("inbound") - written - drops("inbound", &["inbox_full", "tun_write", "interface_down"]),
    )
}

fn counted(registry: &Registry, name: &str, reason: &str) -> f64 {
    metrics::parse(&registry.render()).sum(name, &[("reason", reason)])
}

#[test]
fn a_stopping_router_sends_what_it_has_read() {
    require_root!();
    for lanes in [1, 2] {
        let lab = lab();
        let routers = router::pair_with(&lab, Family::V4, |config| config.queues = Queues::Fixed(lanes));
        ping(&lab.left.namespace, Family::V4.inside(2));
        let registries = routers.each_ref().map(|router| Arc::clone(router.registry()));
        let before = settled("the counts", || registries.each_ref().map(|registry| under_way(registry)));

        // Nothing reads what arrives, so only the routers' own drops count.
        let sink = lab.right.namespace.run(|| UdpSocket::bind((Family::V4.inside(2), 9))).unwrap().unwrap();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let _end = Finally(&over);
            for _ in 0..3 {
                let socket = lab.left.namespace.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
                let over = &over;
                scope.spawn(move || {
                    while !over.load(Relaxed) {
                        // The device may already be gone.
                        let _ = socket.send_to(&[7; 1200], (Family::V4.inside(2), 9));
                    }
                });
            }
            wait_until("the load", || {
                let scrape = metrics::parse(&registries[1].render());
                scrape.sum("laneway_segments_total", &[("direction", "inbound")]) > 20_000.0
            });
            let start = Instant::now();
            let [left, right] = routers;
            // The receiver first: it must write what it has opened while more arrives.
            right.stop().unwrap();
            left.stop().unwrap();
            assert!(start.elapsed() < DEADLINE, "{:?}", start.elapsed());
        });
        drop(sink);

        let after = registries.each_ref().map(|registry| under_way(registry));
        let lost = registries
            .each_ref()
            .map(|registry| counted(registry, "laneway_dropped_packets_total", "shutdown"));
        for end in 0..2 {
            let missing = (after[end].0 - before[end].0, after[end].1 - before[end].1);
            assert_eq!((missing, lost[end]), ((0.0, 0.0), 0.0), "{lanes} lanes, router {end}");
        }
    }
}
