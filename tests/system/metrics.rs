//! The metrics of a running pair: every family with its help, in a form that `promtool check metrics` accepts
//! without remarks.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::support::tunnel::Family;
use crate::support::{exercise, lab, metrics, require_root, router, wait_until};
use laneway::router::start::Router;

/// The families that dashboards and alerts use.
const FAMILIES: &str = "\
    laneway_drain_packets laneway_drain_end_total laneway_wakeups_total laneway_tun_read_superpackets_total \
    laneway_tun_read_bytes_total laneway_segments_total laneway_tun_write_superpackets_total \
    laneway_tun_write_packets_total laneway_coalesced_segments_total laneway_coalesce_seal_total \
    laneway_tun_write_errors_total laneway_tun_gso_enabled laneway_udp_send_runs_total laneway_udp_run_segments \
    laneway_udp_receive_batches_total laneway_udp_gro_segments laneway_udp_gso_disabled_total \
    laneway_udp_send_errors_total laneway_udp_socket_drops_total laneway_inbox_depth laneway_inbox_full_total \
    laneway_inbox_dropped_segments_total laneway_pool_exhausted_total laneway_worker_cpu_seconds_total \
    laneway_worker_cpu laneway_worker_restarts_total laneway_dropped_packets_total laneway_rejects_total \
    laneway_handshakes_total laneway_handshake_messages_dropped_total laneway_peers wireguard_sent_bytes_total \
    wireguard_received_bytes_total wireguard_latest_handshake_seconds laneway_build_info \
    process_cpu_seconds_total process_start_time_seconds process_resident_memory_bytes \
    process_virtual_memory_bytes process_threads process_open_fds process_max_fds laneway_shortcuts_total \
    laneway_interface_info laneway_helper_calls_total laneway_jobs_total laneway_tun_mtu_bytes \
    laneway_take_overs_total laneway_take_over_gap_seconds laneway_drop_sampling laneway_drop_samples_total";

#[test]
fn a_running_pair_shows_every_family_with_its_help_and_nothing_else() {
    require_root!();
    let lab = lab();
    let [left, _right] = router::pair(&lab, Family::V4);
    exercise(&lab);
    wait_until("the metrics of the left router's threads", || {
        metrics::of(&left).select("laneway_worker_cpu", &[]).count() == 3
    });
    let text = left.metrics_text();
    let wanted: BTreeSet<&str> = FAMILIES.split(' ').collect();
    let introduced = |word: &str| -> BTreeSet<&str> {
        let intros = text.lines().filter_map(|line| line.strip_prefix(word));
        intros.filter_map(|rest| rest.split(' ').next()).collect()
    };
    let extra =
        ["laneway_tun_write_bytes_total", "laneway_self_forwarded_packets_total"].into_iter().collect();
    for word in ["# HELP ", "# TYPE "] {
        let found = introduced(word);
        assert_eq!(found.difference(&wanted).copied().collect::<BTreeSet<_>>(), extra, "{word}");
        assert!(found.is_superset(&wanted), "missing: {:?}", wanted.difference(&found));
    }
    let help: Vec<_> = text.lines().filter(|line| line.starts_with("# HELP ")).collect();
    assert_eq!(help.len(), wanted.len() + extra.len(), "a family is described more than once");

    let mut checker = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool, from Debian's package prometheus");
    checker.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let verdict = checker.wait_with_output().unwrap();
    let said = [verdict.stdout, verdict.stderr].concat();
    assert!(verdict.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}

#[test]
fn a_peers_traffic_and_handshake_are_told_under_the_name_of_its_configuration() {
    require_root!();
    let lab = lab();
    let [left, right] = router::pair_with(&lab, Family::V6, |config| {
        config.update.peers[0].friendly_name = Some("the other end".into());
    });
    exercise(&lab);
    let own = |router: &Router, name| {
        let scrape = metrics::of(router);
        let labels = [("interface", router::DEVICE), ("friendly_name", "the other end")];
        scrape.sum(name, &labels)
    };
    assert!(own(&left, "wireguard_sent_bytes_total") > 32e6);
    // Nothing is in flight any more, so the bytes sent and received match.
    wait_until("the last packets", || {
        (own(&left, "wireguard_sent_bytes_total") - own(&right, "wireguard_received_bytes_total")).abs() < 0.5
    });
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let age = now - own(&left, "wireguard_latest_handshake_seconds");
    assert!((-1.0..120.0).contains(&age), "a handshake {age} s ago");
}
