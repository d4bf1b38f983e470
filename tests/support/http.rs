//! Requests to a router's HTTP service, as probes and scrapers make them.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};

use laneway::cli::demo::lab::Side;

use super::DEADLINE;

/// The HTTP port of every router that is [`SERVED`]: namespaces keep them apart.
pub const PORT: u16 = 9586;

/// The variable that makes a router serve HTTP on [`PORT`].
pub const SERVED: (&str, &str) = ("LANEWAY_METRICS_ADDR", "127.0.0.1:9586");

/// Requests `path` of the router in `side`. Returns status and body.
///
/// # Panics
/// If nothing listens, or the answer is incomplete.
pub fn get(side: &Side, path: &str) -> (u16, String) {
    let mut stream = side.namespace.run(|| TcpStream::connect((Ipv4Addr::LOCALHOST, PORT))).unwrap().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer}"));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}
