//! What users and the supervisor rely on, over real sockets on the loopback interface.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};

use nix::errno::Errno;

use super::*;
use crate::control::config::update::{DeviceStatus, DeviceUpdate};

/// A device that says no to everything.
struct Stopping;

impl Device for Stopping {
    fn apply(&self, _: DeviceUpdate) -> Result<(), Errno> {
        Err(Errno::ENODEV)
    }

    fn status(&self) -> Result<DeviceStatus, Errno> {
        Err(Errno::ENODEV)
    }

    fn metrics(&self) -> String {
        String::new()
    }
}

fn admin() -> Admin {
    Admin {
        registry: Arc::new(Registry::new()),
        device: Arc::new(Stopping),
        shutdown: Arc::new(Shutdown::new().unwrap()),
        metrics: None,
        uapi: None,
        link: None,
        signals: None,
    }
}

fn request(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn metrics_are_served_until_the_router_stops() {
    let listener = listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = listener.local_addr().unwrap();
    let admin = Admin { metrics: Some(listener), ..admin() };
    let shutdown = Arc::clone(&admin.shutdown);
    let thread = admin.spawn().unwrap();
    let answer = request(address, "/metrics");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
    assert!(answer.contains("\nlaneway_build_info{version="), "{answer}");
    assert!(request(address, "/").starts_with("HTTP/1.1 404 "));
    shutdown.signal();
    assert_eq!(thread.join().unwrap(), End::Stopped);
    assert!(TcpStream::connect(address).is_err(), "nobody listens any more");
}

#[test]
fn a_taken_address_is_named_with_the_variable_that_changes_it() {
    let taken = listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = taken.local_addr().unwrap();
    let message = listen(address).unwrap_err().to_string();
    assert!(message.contains(&address.to_string()) && message.contains("LANEWAY_METRICS_ADDR"), "{message}");
}

#[test]
fn removing_the_control_socket_stops_the_router() {
    let directory = std::env::temp_dir().join(format!("laneway-admin-{}", std::process::id()));
    let server = uapi::Server::bind(&directory, "lw0").unwrap();
    let admin = Admin { uapi: Some(Box::new(|| Ok(server))), ..admin() };
    let shutdown = Arc::clone(&admin.shutdown);
    let thread = admin.spawn().unwrap();
    std::fs::remove_file(directory.join("lw0.sock")).unwrap();
    assert_eq!(thread.join().unwrap(), End::SocketGone);
    assert!(shutdown.is_signalled());
    std::fs::remove_dir(&directory).unwrap();
}

#[test]
fn an_interface_that_is_not_there_is_told_at_once() {
    let admin = Admin { link: Some(("lw-not-there".into(), Box::new(|_| {}))), ..admin() };
    assert!(matches!(admin.spawn(), Err(AdminError::Netlink(_))));
}
