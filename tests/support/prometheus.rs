//! Debian's Prometheus inside a side of the lab, and queries to it.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Stdio;

use laneway::cli::demo::lab::Side;
use serde_json::Value;

use super::process::{Process, command_in};
use super::{DEADLINE, wait_until};

/// Its address in the side's namespace.
const ADDRESS: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 9090);

/// A running Prometheus.
#[derive(Debug)]
pub struct Prometheus<'a> {
    side: &'a Side,
    process: Process,
}

/// One series of a query result: labels and value.
#[derive(Clone, Debug)]
pub struct Series {
    labels: Value,
    /// The value, in the query's unit.
    pub value: f64,
}

impl Series {
    /// Returns the value of label `name`, if the series has it.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels[name].as_str()
    }
}

impl<'a> Prometheus<'a> {
    /// Starts it in one side of the lab with a configuration file, next to which it stores its data, and waits
    /// until it is ready.
    ///
    /// # Panics
    /// If it does not come up; the message contains its stderr.
    pub fn start(side: &'a Side, configuration: &Path) -> Prometheus<'a> {
        let mut command = command_in(&side.namespace, "prometheus");
        command
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!("--storage.tsdb.path={}", configuration.with_extension("data").display()))
            .arg(format!("--web.listen-address={}", SocketAddr::from(ADDRESS)))
            .stdin(Stdio::null());
        let mut prometheus = Prometheus { side, process: Process::start_quietly(&mut command) };
        wait_until("Prometheus", || {
            let running = prometheus.process.is_running();
            assert!(running, "Prometheus exited during the start: {}", prometheus.process.said());
            get(side, ADDRESS.into(), "/-/ready").is_some()
        });
        prometheus
    }

    /// Evaluates a query now.
    ///
    /// # Panics
    /// If the query is invalid.
    pub fn query(&self, query: &str) -> Vec<Series> {
        let answer = self.api(&format!("/api/v1/query?query={}", encoded(query)));
        let series = answer["result"].as_array().unwrap_or_else(|| panic!("{query}: {answer}"));
        let one = |series: &Value| Series {
            labels: series["metric"].clone(),
            value: series["value"][1].as_str().and_then(|value| value.parse().ok()).expect("a number"),
        };
        series.iter().map(one).collect()
    }

    /// Returns type and help of each family, as scraped from its targets.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn metadata(&self) -> Value {
        self.api("/api/v1/metadata")
    }

    fn api(&self, path: &str) -> Value {
        let body = get(self.side, ADDRESS.into(), path).unwrap_or_else(|| panic!("no answer to {path}"));
        let answer: Value = serde_json::from_str(&body).expect("JSON");
        answer["data"].clone()
    }
}

/// Returns the body of an HTTP response from the side's namespace, or `None` if nothing listens or the status is
/// not 200.
///
/// # Panics
/// If the connection breaks in the middle of the response.
pub fn get(side: &Side, address: SocketAddr, path: &str) -> Option<String> {
    let mut stream = side.namespace.run(|| TcpStream::connect(address)).expect("enter a namespace").ok()?;
    stream.set_read_timeout(Some(DEADLINE)).expect("a limit");
    // HTTP/1.0: the body is not chunked and ends with the connection.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").expect("ask");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    head.split(' ').nth(1).is_some_and(|status| status == "200").then(|| body.to_owned())
}

/// Percent-encodes a query (RFC 3986, section 2.1).
fn encoded(query: &str) -> String {
    let mut encoded = String::new();
    for byte in query.bytes() {
        let _ = write!(encoded, "%{byte:02X}");
    }
    encoded
}
