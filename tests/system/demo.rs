//! `laneway demo`, as a new user runs it, and as scripts run it.
//!
//! Its host is one side of a lab, so that leftovers cannot be confused with those of other programs on the
//! machine.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Stdio;

use crate::support::binary::command;
use crate::support::metrics::{self, Exposition};
use crate::support::process::{Process, output};
use crate::support::prometheus::get;
use crate::support::{lab, require_root, wait_until};
use laneway::cli::demo::interrupt::EXIT_STATUS;
use laneway::cli::demo::lab::Side;
use nix::sys::signal::Signal;
use serde_json::Value;

/// The metrics address of every demo: each host is a namespace of its own.
const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9586);

#[test]
fn the_demo_verifies_every_byte_and_shows_that_all_offloads_work() {
    require_root!();
    let lab = lab();
    let host = Host::look(&lab.left);
    let done = command(&lab.left, &["demo", "--json", "--seconds", "2", "--queues", "1"], &[]).output();
    let done = done.expect("run the demo");
    assert!(done.status.success(), "{}: {}", done.status, String::from_utf8_lossy(&done.stderr));
    let report: Value = serde_json::from_slice(&done.stdout).expect("one JSON object");

    assert!(report["bytes_verified"].as_u64() > Some(0), "{report}");
    assert!(report["gbit_per_second"].as_f64() > Some(0.0), "{report}");
    let routers = report["routers"].as_array().expect("routers");
    assert_eq!(routers.len(), 2);
    for queue in routers.iter().flat_map(|router| router["queues"].as_array().expect("queues")) {
        for (figure, least) in [
            ("segments_per_superpacket_read", 8.0),
            ("segments_per_superpacket_written", 8.0),
            ("datagrams_per_send", 16.0),
        ] {
            assert!(queue[figure].as_f64() >= Some(least), "{figure} below {least}: {report}");
        }
    }
    host.assert_nothing_is_left();
}

#[test]
fn the_demo_prints_a_table_without_json() {
    require_root!();
    let lab = lab();
    let done = command(&lab.left, &["demo", "--seconds", "1"], &[]).output().expect("run the demo");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let table = String::from_utf8(done.stdout).expect("text");
    assert!(table.contains("Gbit/s") && table.lines().count() > 3, "{table}");
    assert!(serde_json::from_str::<Value>(&table).is_err());
}

#[test]
fn metrics_can_be_read_while_the_demo_holds() {
    require_root!();
    let lab = lab();
    let host = Host::look(&lab.left);
    let address = METRICS.to_string();
    let arguments =
        ["demo", "--json", "--seconds", "1", "--queues", "1", "--hold", "600", "--metrics-addr", &address];
    let mut demo = Demo::start(&lab.left, &arguments);
    let report: Value = serde_json::from_str(&demo.line()).expect("one JSON object");

    let metrics = scrape(&lab.left).expect("it listens");
    let read = metrics.sum("laneway_tun_read_bytes_total", &[]);
    let verified = report["bytes_verified"].as_f64().expect("a number");
    // The first router sends half of the time, so it has read part of the verified bytes and little else.
    assert!(read > verified / 100.0 && read < verified * 1.2, "{read} of {verified} bytes");
    assert!(metrics.has("laneway_build_info"));

    demo.process.signal(Signal::SIGINT);
    assert_eq!(demo.process.wait(), Some(EXIT_STATUS.into()));
    assert!(scrape(&lab.left).is_none());
    host.assert_nothing_is_left();
}

#[test]
fn an_interrupted_demo_prints_its_result_and_cleans_up() {
    require_root!();
    let lab = lab();
    let host = Host::look(&lab.left);
    let address = METRICS.to_string();
    let mut demo =
        Demo::start(&lab.left, &["demo", "--json", "--seconds", "600", "--metrics-addr", &address]);
    wait_until("traffic", || {
        scrape(&lab.left).is_some_and(|metrics| metrics.sum("laneway_tun_read_bytes_total", &[]) > 1e6)
    });
    demo.process.signal(Signal::SIGINT);
    let report: Value = serde_json::from_str(&demo.line()).expect("one JSON object");
    assert!(report["bytes_verified"].as_u64() > Some(0), "{report}");
    assert_eq!(demo.process.wait(), Some(EXIT_STATUS.into()));
    host.assert_nothing_is_left();
}

#[test]
fn a_metrics_address_that_is_taken_is_named_before_anything_begins() {
    require_root!();
    let lab = lab();
    let _held = lab.left.namespace.run(|| TcpListener::bind(METRICS)).expect("enter").expect("bind");
    let done = command(&lab.left, &["demo", "--metrics-addr", &METRICS.to_string()], &[]).output();
    let done = done.expect("run the demo");
    assert_eq!(done.status.code(), Some(1));
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(said.contains(&METRICS.to_string()) && said.contains("--metrics-addr"), "{said}");
    assert!(done.stdout.is_empty());
}

/// A running demo.
struct Demo {
    process: Process,
    stdout: BufReader<std::io::PipeReader>,
}

impl Demo {
    fn start(host: &Side, arguments: &[&str]) -> Demo {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let mut command = command(host, arguments, &[]);
        let process = Process::start(command.stdout(writer).stderr(Stdio::null()));
        Demo { process, stdout: BufReader::new(reader) }
    }

    /// Reads the next line of its output.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("read");
        line
    }
}

/// The state of a host before a demo: its devices, and names shared by the whole machine.
struct Host<'a> {
    side: &'a Side,
    links: String,
    named: Vec<String>,
}

impl Host<'_> {
    fn look(side: &Side) -> Host<'_> {
        Host { side, links: links(side), named: named() }
    }

    fn assert_nothing_is_left(&self) {
        // The kernel removes devices asynchronously.
        wait_until("the initial devices", || links(self.side) == self.links);
        let left: Vec<String> = named().into_iter().filter(|name| !self.named.contains(name)).collect();
        assert_eq!(left, [""; 0]);
    }
}

fn links(side: &Side) -> String {
    output(&side.namespace, &["ip", "-brief", "link"], "")
}

/// Returns the control sockets and named namespaces that could be a demo's. Those of other tests have a number in
/// their name.
fn named() -> Vec<String> {
    let entries = ["/var/run/wireguard", "/run/netns"].into_iter().filter_map(|path| fs::read_dir(path).ok());
    let names = entries.flatten().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name.contains("laneway") || name.contains("demo")).collect()
}

/// Scrapes the metrics served on the host, if there are any.
fn scrape(host: &Side) -> Option<Exposition> {
    get(host, METRICS, "/metrics").map(|body| metrics::parse(&body))
}
