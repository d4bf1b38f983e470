//! The operator's view: Debian's Prometheus scrapes two routers with the configuration, alerts and dashboard of
//! this repository.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::binary::command;
use crate::support::process::Process;
use crate::support::prometheus::{Prometheus, get};
use crate::support::tunnel::{Family, PORT, allowed_ips};
use crate::support::wg::KeyPair;
use crate::support::{bulk, lab, require_root, wait_until};
use laneway::cli::demo::lab::{Lab, Side};
use serde_json::Value;

/// The metrics port of a router, on every address of its namespace.
const METRICS: u16 = 9586;

/// The window of rates in this test, instead of an operator's minutes.
const WINDOW: &str = "6s";

#[test]
fn prometheus_knows_every_family_fills_every_panel_and_raises_the_alarm() {
    require_root!();
    let lab = lab();
    let folder = Folder::create();
    let [_left, right] = start_routers(&lab, &folder);
    let targets = [SocketAddr::from((Ipv4Addr::LOCALHOST, METRICS)), (lab.right.underlay4, METRICS).into()];
    let prometheus = Prometheus::start(&lab.left, &configuration(&folder, &targets));
    wait_until("both routers to be scraped", || !prometheus.query("sum(up) == 2").is_empty());

    assert_panels_rest(&prometheus);
    assert_families_are_known(&lab, &prometheus);
    assert_panels_fill(&lab, &prometheus, &targets);
    assert_no_false_alarm(&prometheus);

    let elsewhere = Family::V4.inside(9);
    await_alert(&lab, &prometheus, elsewhere, "LanewayDropsPackets", "reason", "no_route");
    drop(right);
    let peer = Family::V4.inside(2);
    await_alert(&lab, &prometheus, peer, "LanewayPeerSilent", "friendly_name", "the other side");
    await_alert(&lab, &prometheus, peer, "LanewayDown", "instance", &targets[1].to_string());
}

#[test]
fn rules_and_configuration_are_sound_and_each_alert_fires_on_what_it_is_about() {
    for (arguments, file) in [
        (["check", "config"], "prometheus.yml"),
        (["check", "rules"], "rules.yml"),
        (["test", "rules"], "rules-test.yml"),
    ] {
        let mut promtool = Command::new("promtool");
        let done = promtool.args(arguments).arg(file).current_dir(repository("deploy/prometheus")).output();
        let done = done.expect("promtool, from Debian's package prometheus");
        let said = [done.stdout, done.stderr].concat();
        assert!(done.status.success(), "{file}: {}", String::from_utf8_lossy(&said));
    }
}

#[test]
fn every_alert_has_a_test() {
    let tests = fs::read_to_string(repository("deploy/prometheus/rules-test.yml")).expect("the tests");
    let rules = fs::read_to_string(repository("deploy/prometheus/rules.yml")).expect("the rules");
    let alerts = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    let untested: Vec<_> = alerts.filter(|alert| !tests.contains(*alert)).collect();
    assert_eq!(untested, [""; 0]);
}

#[test]
fn every_alert_has_a_section_in_the_runbook_and_every_section_an_alert() {
    let rules = fs::read_to_string(repository("deploy/prometheus/rules.yml")).expect("the rules");
    let runbook = fs::read_to_string(repository("docs/runbook.md")).expect("the runbook");
    let named = |text: &str, prefix: &str| {
        let lines = text.lines().filter_map(|line| line.trim().strip_prefix(prefix));
        lines.map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let alerts = named(&rules, "- alert: ");
    assert!(alerts.len() > 10, "{alerts:?}");
    assert_eq!(alerts, named(&runbook, "## "));
    let urls = alerts.iter().map(|alert| alert.to_lowercase());
    let urls = urls.map(|anchor| format!("https://laneway.example/docs/runbook.md#{anchor}"));
    assert_eq!(urls.collect::<BTreeSet<_>>(), named(&rules, "runbook_url: "));
}

#[test]
fn the_dashboard_shows_every_family_but_those_that_the_documentation_leaves_out() {
    let shown = names(&dashboard_queries().join(" "));
    let documentation = fs::read_to_string(repository("docs/metrics.md")).expect("the documentation");
    let (_, left_out) = documentation.split_once("shows every family but").expect("what is left out");
    let left_out = names(left_out);
    let families = documented_families();
    assert!(families.len() > 40, "{families:?}");
    // A histogram is shown by its buckets, or by its sum and count.
    let is_shown = |family: &String| {
        let suffixes = ["", "_bucket", "_sum"];
        suffixes.iter().any(|suffix| shown.contains(&format!("{family}{suffix}")))
    };
    let missing: Vec<_> =
        families.iter().filter(|family| !is_shown(family) && !left_out.contains(*family)).collect();
    assert!(missing.is_empty(), "neither on the dashboard nor left out: {missing:?}");
    let both: Vec<_> = left_out.iter().filter(|family| is_shown(family)).collect();
    assert!(both.is_empty(), "left out and yet on the dashboard: {both:?}");
}

/// Returns the names of metric families in a text.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let families = ["laneway_", "wireguard_", "process_"];
    words.filter(|word| families.iter().any(|family| word.starts_with(family))).map(str::to_owned).collect()
}

/// Returns the families that docs/metrics.md describes.
fn documented_families() -> BTreeSet<String> {
    let documentation = fs::read_to_string(repository("docs/metrics.md")).expect("the documentation");
    let rows = documentation.lines().filter_map(|line| line.strip_prefix("| "));
    rows.filter_map(|row| row.split(" | ").next()).flat_map(names).collect()
}

/// Asserts that without traffic every query of the dashboard returns finite numbers, except those that have nothing
/// to tell before the first handshake.
fn assert_panels_rest(prometheus: &Prometheus<'_>) {
    let mut waiting = dashboard_queries();
    waiting.retain(|query| !query.contains("wireguard_latest_handshake_seconds"));
    wait_until("every query of the dashboard to answer without traffic", || {
        let before = waiting.len();
        waiting.retain(|query| {
            let series = prometheus.query(query);
            let odd: Vec<_> = series.iter().filter(|series| !series.value.is_finite()).collect();
            assert!(odd.is_empty(), "{query}: {odd:?}");
            series.is_empty()
        });
        if !waiting.is_empty() && waiting.len() < before {
            eprintln!("no answer yet: {waiting:#?}");
        }
        waiting.is_empty()
    });
}

/// Asserts that Prometheus has the type and help of each family, and docs/metrics.md describes it.
fn assert_families_are_known(lab: &Lab, prometheus: &Prometheus<'_>) {
    let text = get(&lab.left, (Ipv4Addr::LOCALHOST, METRICS).into(), "/metrics").expect("metrics");
    let helps = text.lines().filter_map(|line| line.strip_prefix("# HELP "));
    let helps: Vec<_> = helps.filter_map(|line| line.split_once(' ')).collect();
    assert!(helps.len() > 40, "{helps:#?}");
    let documented = documented_families();
    let undocumented: Vec<_> = helps.iter().filter(|(family, _)| !documented.contains(*family)).collect();
    assert!(undocumented.is_empty(), "not in docs/metrics.md: {undocumented:?}");
    // Prometheus asks for OpenMetrics, where counter families have no suffix.
    let named = |family: &str| family.strip_suffix("_total").unwrap_or(family).to_owned();
    // Some families only appear once they have a value.
    let mut known = Value::Null;
    wait_until("every family to be scraped", || {
        known = prometheus.metadata();
        helps.iter().all(|(family, _)| known[named(family)].is_array())
    });
    for (family, help) in helps {
        let known = &known[named(family)];
        assert_eq!(known[0]["help"], help, "{family}");
        let kind = known[0]["type"].as_str().expect("a type");
        assert!(text.contains(&format!("# TYPE {family} {kind}\n")), "{family} is not a {kind}");
    }
}

/// Asserts that under traffic every query of the dashboard returns numbers, and for both routers if it is grouped
/// by router.
fn assert_panels_fill(lab: &Lab, prometheus: &Prometheus<'_>, targets: &[SocketAddr; 2]) {
    let both: BTreeSet<String> = targets.iter().map(ToString::to_string).collect();
    let mut waiting = dashboard_queries();
    assert!(waiting.len() > 40, "{waiting:#?}");
    wait_until("every query of the dashboard to answer", || {
        bulk(&lab.left, &lab.right, Family::V4.inside(2), 2, 1 << 20);
        bulk(&lab.right, &lab.left, Family::V6.inside(1), 2, 1 << 20);
        waiting.retain(|query| {
            let series = prometheus.query(query);
            let numbers: Vec<_> = series.iter().filter(|series| series.value.is_finite()).collect();
            let routers: BTreeSet<String> =
                numbers.iter().filter_map(|series| series.label("instance")).map(str::to_owned).collect();
            numbers.is_empty() || !(routers.is_empty() || routers == both)
        });
        if !waiting.is_empty() {
            eprintln!("no answer yet: {waiting:#?}");
        }
        waiting.is_empty()
    });
}

/// Asserts that for two healthy routers no alert fires, except those about an overloaded machine. There a scrape
/// may also be late, but not repeatedly.
fn assert_no_false_alarm(prometheus: &Prometheus<'_>) {
    let late = "LanewayDown";
    let load = "LanewayInboxFull|LanewaySocketDrops|LanewayWorkerSaturated|LanewayDropsPackets";
    let firing = |of: &str| prometheus.query(&format!("ALERTS{{alertname{of}, alertstate=\"firing\"}}"));
    let alarms = firing(&format!("!~\"{load}|{late}\""));
    assert!(alarms.is_empty(), "{alarms:?}");
    wait_until("timely scrapes", || firing(&format!("=\"{late}\"")).is_empty());
}

/// Returns every query of the dashboard, as Grafana would send it.
fn dashboard_queries() -> Vec<String> {
    let text = fs::read_to_string(repository("dashboards/laneway.json")).expect("the dashboard");
    let dashboard: Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels").iter();
    let panels = panels.filter(|panel| panel["type"] != "row");
    let queries = panels.flat_map(|panel| {
        let targets =
            panel["targets"].as_array().unwrap_or_else(|| panic!("{} has no query", panel["title"]));
        targets.iter().map(|target| target["expr"].as_str().expect("a query"))
    });
    let filled = |query: &str| {
        let labels = ["$namespace", "$pod", "$instance"];
        let query = labels.iter().fold(query.to_owned(), |query, label| query.replace(label, ".*"));
        query.replace("$__rate_interval", WINDOW)
    };
    queries.map(filled).collect()
}

/// Sends packets from the left side to `to` until an alert fires whose `label` has this `value`.
fn await_alert(lab: &Lab, prometheus: &Prometheus<'_>, to: IpAddr, alert: &str, label: &str, value: &str) {
    let socket = lab.left.namespace.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)));
    let socket = socket.expect("enter a namespace").expect("a socket");
    let firing = format!("ALERTS{{alertname=\"{alert}\", alertstate=\"firing\", {label}=\"{value}\"}}");
    wait_until(alert, || {
        // Failed sends are the fault to provoke.
        let _ = socket.send_to(b"is anybody there?", (to, 9));
        !prometheus.query(&firing).is_empty()
    });
}

/// Starts two routers as their users do, each the other's only peer.
fn start_routers(lab: &Lab, folder: &Folder) -> [Process; 2] {
    let sides = [&lab.left, &lab.right];
    let keys = sides.map(KeyPair::generate);
    [0, 1].map(|own: usize| {
        let (other, host) = (1 - own, own as u8 + 1);
        let (v4, v6) = (Family::V4.inside(host), Family::V6.inside(host));
        let file = format!(
            "[Interface]\nPrivateKey = {}\nListenPort = {PORT}\nAddress = {v4}/24, {v6}/64\n\
             [Peer]\n# friendly_name = the other side\nPublicKey = {}\nAllowedIPs = {}\nEndpoint = {}\n",
            keys[own].private,
            keys[other].public,
            allowed_ips(other as u8 + 1),
            Family::V4.endpoint(sides[other]),
        );
        let path = folder.write(&format!("lw{own}.conf"), &file);
        start_router(sides[own], &path, &folder.0)
    })
}

fn start_router(side: &Side, configuration: &Path, folder: &Path) -> Process {
    let configuration = configuration.to_str().expect("a path in UTF-8");
    let environment = [
        ("LANEWAY_METRICS_ADDR", &*format!("0.0.0.0:{METRICS}")),
        ("LANEWAY_UAPI_DIR", folder.to_str().expect("a path in UTF-8")),
    ];
    Process::start_quietly(&mut command(side, &["run", "--config", configuration], &environment))
}

/// Writes the shipped configuration with these targets, and with seconds for minutes.
fn configuration(folder: &Folder, targets: &[SocketAddr; 2]) -> PathBuf {
    let shipped = |name| fs::read_to_string(repository("deploy/prometheus").join(name)).expect(name);
    let replaced = |text: &str, from: &str, to: &str| {
        assert!(text.contains(from), "{from:?} is not in the shipped file:\n{text}");
        text.replace(from, to)
    };
    let mut rules = shipped("rules.yml");
    for minutes in ["5m", "15m"] {
        rules = replaced(&rules, &format!("[{minutes}]"), &format!("[{WINDOW}]"));
        rules = replaced(&rules, &format!("for: {minutes}\n"), "for: 1s\n");
    }
    folder.write("rules.yml", &replaced(&rules, "for: 2m\n", "for: 1s\n"));
    let text = replaced(&shipped("prometheus.yml"), "scrape_interval: 15s", "scrape_interval: 1s");
    let text = replaced(&text, "[\"127.0.0.1:9586\"]", &format!("[\"{}\", \"{}\"]", targets[0], targets[1]));
    folder.write("prometheus.yml", &format!("global: {{evaluation_interval: 1s}}\n{text}"))
}

/// Returns a path in this repository.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A directory that is removed with its contents on drop.
struct Folder(PathBuf);

impl Folder {
    fn create() -> Folder {
        let path = std::env::temp_dir().join(format!("laneway-prometheus-{}", std::process::id()));
        fs::create_dir(&path).expect("a folder");
        Folder(path)
    }

    /// Writes a file and returns its path.
    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).expect("write a file");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
