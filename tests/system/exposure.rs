//! Who can reach a router's HTTP service and control socket: silent clients do not keep others out, peers do
//! not reach the service through the tunnel, and web pages do not reach it through a browser.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::support::binary::Laneway;
use crate::support::ping::ping;
use crate::support::process::output;
use crate::support::tunnel::{Family, address, allowed_ips};
use crate::support::wg::{self, KeyPair, Setting};
use crate::support::{DEADLINE, lab, require_root, wait_until};
use laneway::cli::demo::lab::Side;

/// The HTTP port of every router in these tests: namespaces keep them apart.
const PORT: u16 = 9586;
const LOOPBACK: (&str, &str) = ("LANEWAY_METRICS_ADDR", "127.0.0.1:9586");
const EVERYWHERE: (&str, &str) = ("LANEWAY_METRICS_ADDR", "0.0.0.0:9586");

/// An address of the left side that is neither the tunnel's nor the cable's.
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 77));

/// How long a connection attempt that must fail may take. One that succeeds takes milliseconds.
const ATTEMPT: Duration = Duration::from_secs(2);

fn connect(side: &Side, to: SocketAddr) -> io::Result<TcpStream> {
    let stream = side.namespace.run(|| TcpStream::connect_timeout(&to, ATTEMPT)).unwrap()?;
    stream.set_read_timeout(Some(DEADLINE))?;
    Ok(stream)
}

/// Requests `path` and returns the status.
fn status(side: &Side, address: IpAddr, path: &str, host: &str) -> u16 {
    let mut stream = connect(side, (address, PORT).into()).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap_or_else(|| panic!("no status: {answer:?}")).parse().unwrap()
}

/// Returns whether the other end has not closed the connection.
fn is_open(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    matches!(stream.peek(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

#[test]
fn silent_http_clients_delay_neither_probes_nor_scrapes() {
    require_root!();
    let lab = lab();
    let _laneway = Laneway::start(&lab.left, &[LOOPBACK]);
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    wait_until("HTTP", || connect(&lab.left, (here, PORT).into()).is_ok());
    for path in ["/healthz", "/readyz", "/metrics"] {
        // On a busy machine, the request may take longer than the second after which silent clients are
        // disconnected. One round in which it does not shows that it did not wait for them.
        wait_until("a response while silent clients are connected", || {
            let mut silent: Vec<_> =
                (0..200).map(|_| connect(&lab.left, (here, PORT).into()).unwrap()).collect();
            for stream in silent.iter_mut().skip(1).step_by(2) {
                let _ = stream.write_all(b"GET /metrics HTTP/1.1\r\n");
            }
            // The interface is down, so the router is not ready.
            let expected = if path == "/readyz" { 503 } else { 200 };
            assert_eq!(status(&lab.left, here, path, "localhost"), expected);
            is_open(silent.last().unwrap())
        });
    }
}

#[test]
fn silent_clients_of_the_control_socket_delay_nobody() {
    require_root!();
    let lab = lab();
    let laneway = Laneway::start(&lab.left, &[]);
    let connect = || {
        let stream = UnixStream::connect(laneway.socket()).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    };
    let mut silent: Vec<_> = (0..200).map(|_| connect()).collect();
    for stream in silent.iter_mut().skip(1).step_by(2) {
        let _ = stream.write_all(b"set=1\n");
    }
    for _ in 0..20 {
        assert!(output(&lab.left.namespace, &["wg", "show", &laneway.device], "").contains("interface: "));
        silent.push(connect());
    }
    let mut held = connect();
    held.write_all(b"get=1\n").unwrap();
    silent.extend((0..20).map(|_| connect()));
    held.write_all(b"\n").unwrap();
    let mut answer = [0; 12];
    held.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"listen_port=", "{}", String::from_utf8_lossy(&answer));
}

#[test]
fn only_requests_to_an_address_or_localhost_are_served_on_loopback() {
    require_root!();
    let lab = lab();
    let _laneway = Laneway::start(&lab.left, &[LOOPBACK]);
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    wait_until("HTTP", || connect(&lab.left, (here, PORT).into()).is_ok());
    for path in ["/metrics", "/healthz"] {
        for (host, expected) in [
            ("127.0.0.1:9586", 200),
            ("localhost:9586", 200),
            ("[::1]", 200),
            ("rebound.example:9586", 403),
            ("localhost.rebound.example", 403),
        ] {
            assert_eq!(status(&lab.left, here, path, host), expected, "{path} {host}");
        }
    }
}

#[test]
fn peers_reach_the_service_only_if_it_is_allowed() {
    require_root!();
    for allowed in [false, true] {
        let lab = lab();
        let policy = ("LANEWAY_METRICS_FROM_TUNNEL", if allowed { "allow" } else { "refuse" });
        // Refusal is the default.
        let variables = if allowed { vec![EVERYWHERE, policy] } else { vec![EVERYWHERE] };
        let (left, right) = (Laneway::start(&lab.left, &variables), Laneway::start(&lab.right, &[]));
        let keys = [KeyPair::generate(&lab.left), KeyPair::generate(&lab.right)];
        wg::set(&lab.left, &left.device, &keys[0], &Setting::new(&keys[1], 2));
        address(&lab.left, &left.device, 1);
        let endpoint = Some(Family::V4.endpoint(&lab.left));
        wg::set(&lab.right, &right.device, &keys[1], &Setting { endpoint, ..Setting::new(&keys[0], 1) });
        address(&lab.right, &right.device, 2);
        // The right side sends packets for another address of the left side through the tunnel too.
        let elsewhere = format!("{ELSEWHERE}/32");
        let ours = format!("{},{elsewhere}", allowed_ips(1));
        let words = ["wg", "set", &right.device, "peer", &keys[0].public, "allowed-ips", &ours];
        output(&lab.right.namespace, &words, "");
        output(&lab.right.namespace, &["ip", "route", "add", &elsewhere, "dev", &right.device], "");
        output(&lab.left.namespace, &["ip", "address", "add", &elsewhere, "dev", "lo"], "");
        ping(&lab.right.namespace, Family::V4.inside(1));

        let inside = Family::V4.inside(1);
        let other = lab.left.namespace.run(|| TcpListener::bind("0.0.0.0:0")).unwrap().unwrap();
        let port = other.local_addr().unwrap().port();
        for address in [inside, ELSEWHERE] {
            connect(&lab.right, (address, port).into())
                .expect("other services are reachable through the tunnel");
            let connected = connect(&lab.right, (address, PORT).into());
            assert_eq!(connected.is_ok(), allowed, "{address}: {connected:?}");
            // The same address is served to this host, and another address to the underlay.
            assert_eq!(status(&lab.left, address, "/metrics", "x"), 200);
        }
        assert_eq!(status(&lab.right, lab.left.underlay4.into(), "/metrics", "x"), 200);
    }
}
