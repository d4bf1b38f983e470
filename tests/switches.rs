//! What can be switched off, and that the same bytes cross without it.

mod support;

use laneway::config::{RouterConfig, Switch};
use laneway::router::start::Router;
use support::{exercise, lab, require_root, routers, settled};

/// What is counted of every packet on its way, by different workers.
const COUNTS: [&str; 4] = [
    "laneway_tun_read_superpackets_total",
    "laneway_udp_send_runs_total",
    "laneway_udp_run_segments_sum",
    "laneway_tun_write_superpackets_total",
];

/// Lets everything cross between two routers with these settings; their metrics once all of that is counted.
fn crossed(tune: impl Fn(&mut RouterConfig)) -> Option<[laneway::metrics::exposition::Exposition; 2]> {
    if !require_root() {
        return None;
    }
    let lab = lab();
    let routers = routers::start(&lab, tune);
    exercise(&lab);
    let counts = |router: &Router| {
        let metrics = routers::metrics(router);
        COUNTS.map(|family| metrics.sum(family, &[]))
    };
    settled("the counts", || routers.each_ref().map(counts));
    Some(routers.each_ref().map(routers::metrics))
}

#[test]
fn without_offloads_inside_every_read_and_write_is_one_packet() {
    let Some(metrics) = crossed(|config| config.tun_offload = Switch::Off) else { return };
    for metrics in metrics {
        assert!(metrics.sum("laneway_tun_gso_enabled", &[]) < 1.0);
        for kind in ["tso4", "tso6", "uso4", "uso6"] {
            let labels = [("kind", kind)];
            assert!(metrics.sum("laneway_tun_read_superpackets_total", &labels) < 1.0, "{kind}");
            assert!(metrics.sum("laneway_tun_write_superpackets_total", &labels) < 1.0, "{kind}");
        }
        assert!(metrics.sum("laneway_tun_read_superpackets_total", &[("kind", "none")]) > 1000.0);
        // What is read one by one still leaves in runs.
        assert!(
            metrics.sum("laneway_udp_send_runs_total", &[])
                < metrics.sum("laneway_udp_run_segments_sum", &[])
        );
    }
}

#[test]
fn without_offloads_outside_every_send_is_one_datagram() {
    let Some(metrics) = crossed(|config| config.udp_offload = Switch::Off) else { return };
    for metrics in metrics {
        let (runs, datagrams) = (
            metrics.sum("laneway_udp_send_runs_total", &[]),
            metrics.sum("laneway_udp_run_segments_sum", &[]),
        );
        assert!(runs > 1000.0 && (runs - datagrams).abs() < 1.0, "{runs} sends of {datagrams} datagrams");
        // The segments of what is received one by one are put together all the same.
        assert!(metrics.sum("laneway_tun_write_superpackets_total", &[("kind", "tso4")]) > 10.0);
    }
}

#[test]
fn spinning_workers_and_deep_inboxes_carry_the_same_bytes() {
    crossed(|config| {
        config.spin = std::time::Duration::from_micros(50);
        config.inbox_depth = Some(64);
        config.drain_cap = 1;
    });
}
