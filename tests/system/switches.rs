//! Optional features: the same bytes get through without them.

use crate::support::metrics::{self, Exposition};
use crate::support::tunnel::Family;
use crate::support::{exercise, lab, require_root, router, settled};
use laneway::config::{RouterConfig, Switch};
use laneway::router::start::Router;

/// Counters of every packet, by different workers.
const COUNTS: [&str; 4] = [
    "laneway_tun_read_superpackets_total",
    "laneway_udp_send_runs_total",
    "laneway_udp_run_segments_sum",
    "laneway_tun_write_superpackets_total",
];

/// Exercises two routers with these settings, and returns their metrics once they have settled.
fn crossed(tune: impl Fn(&mut RouterConfig)) -> [Exposition; 2] {
    let lab = lab();
    let routers = router::pair_with(&lab, Family::V4, tune);
    exercise(&lab);
    let counts = |router: &Router| {
        let metrics = metrics::of(router);
        COUNTS.map(|family| metrics.sum(family, &[]))
    };
    settled("the counts", || routers.each_ref().map(counts));
    routers.each_ref().map(metrics::of)
}

#[test]
fn without_offloads_inside_every_read_and_write_is_one_packet() {
    require_root!();
    let metrics = crossed(|config| config.tun_offload = Switch::Off);
    for metrics in metrics {
        assert!(metrics.sum("laneway_tun_gso_enabled", &[]) < 1.0);
        for kind in ["tso4", "tso6", "uso4", "uso6"] {
            let labels = [("kind", kind)];
            assert!(metrics.sum("laneway_tun_read_superpackets_total", &labels) < 1.0, "{kind}");
            assert!(metrics.sum("laneway_tun_write_superpackets_total", &labels) < 1.0, "{kind}");
        }
        assert!(metrics.sum("laneway_tun_read_superpackets_total", &[("kind", "none")]) > 1000.0);
        // Packets that are read one by one still leave in runs.
        assert!(
            metrics.sum("laneway_udp_send_runs_total", &[])
                < metrics.sum("laneway_udp_run_segments_sum", &[])
        );
    }
}

#[test]
fn without_offloads_outside_every_send_is_one_datagram() {
    require_root!();
    let metrics = crossed(|config| config.udp_offload = Switch::Off);
    for metrics in metrics {
        let (runs, datagrams) = (
            metrics.sum("laneway_udp_send_runs_total", &[]),
            metrics.sum("laneway_udp_run_segments_sum", &[]),
        );
        assert!(runs > 1000.0 && (runs - datagrams).abs() < 1.0, "{runs} sends for {datagrams} datagrams");
        // Segments of datagrams received one by one are still coalesced.
        assert!(metrics.sum("laneway_tun_write_superpackets_total", &[("kind", "tso4")]) > 10.0);
    }
}

#[test]
fn spinning_workers_and_deep_inboxes_carry_the_same_bytes() {
    require_root!();
    crossed(|config| {
        config.spin = std::time::Duration::from_micros(50);
        config.inbox_depth = Some(64);
        config.drain_cap = 1;
    });
}
