//! Tests of the admin thread over real sockets on the loopback interface.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};

use nix::errno::Errno;

use crate::config::update::{DeviceStatus, DeviceUpdate};
use crate::lane::ring::doorbell::{Awaited, Doorbell};
use crate::lane::wait::sleep::Sleeper;
use crate::router::admin::*;

/// A device that answers every request with `ENODEV`.
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

    fn drops(&self, _: u64) -> String {
        String::new()
    }
}

fn admin() -> Admin {
    let shutdown = Arc::new(Shutdown::new().unwrap());
    Admin {
        registry: Arc::new(Registry::new()),
        threads: Arc::default(),
        readiness: Arc::new(Readiness::new(
            Arc::default(),
            None,
            Arc::new(true.into()),
            Arc::clone(&shutdown),
        )),
        device: Arc::new(Stopping),
        shutdown,
        metrics: None,
        before: None,
        uapi: None,
        link: None,
        paths: None,
        shared_port: None,
        hangups: None,
    }
}

fn request(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn metrics_are_served_until_the_router_stops() {
    let bound = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = bound.local_addr().unwrap();
    let admin = Admin { metrics: Some(Http { bound, from_tunnel: false, web: None }), ..admin() };
    let shutdown = Arc::clone(&admin.shutdown);
    let thread = admin.spawn().unwrap();
    let answer = request(address, "/metrics");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-type: text/plain; version=0.0.4"), "{answer}");
    assert!(answer.contains("\nlaneway_build_info{version="), "{answer}");
    let openmetrics = request(address, "/metrics HTTP/1.1\r\nAccept: application/openmetrics-text\r\nX:");
    assert!(
        openmetrics.contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{openmetrics}"
    );
    assert!(openmetrics.ends_with("\n# EOF\n"), "{openmetrics}");
    assert!(request(address, "/").contains("href=\"/metrics\""));
    assert!(request(address, "/nothing").starts_with("HTTP/1.1 404 "));
    shutdown.signal();
    assert_eq!(thread.join().unwrap(), AdminEnd::Stopped);
    assert!(TcpStream::connect(address).is_err(), "the listener is still open");
}

#[test]
fn a_taken_address_is_named_with_the_variable_that_changes_it() {
    let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = taken.local_addr().unwrap();
    let message = bind(address).unwrap_err().to_string();
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
    assert_eq!(thread.join().unwrap(), AdminEnd::SocketGone);
    assert!(shutdown.is_signalled());
    std::fs::remove_dir(&directory).unwrap();
}

#[test]
fn an_interface_that_is_not_there_is_told_at_once() {
    let admin = Admin {
        link: Some(Link {
            interface: "lw-not-there".into(),
            on_mtu: Box::new(|_| {}),
            on_path_mtu: None,
            on_addresses: Box::new(|_| {}),
            on_loss: None,
            on_ports: None,
            tun: None,
            actor: None,
            tunnels: TunnelsSeen::default(),
        }),
        ..admin()
    };
    assert!(matches!(admin.spawn(), Err(AdminError::Netlink(_))));
}

/// Runs `test` against the HTTP server of `admin`.
fn with_http(admin: Admin, test: impl FnOnce(SocketAddr)) {
    let bound = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let address = bound.local_addr().unwrap();
    let shutdown = Arc::clone(&admin.shutdown);
    let thread =
        Admin { metrics: Some(Http { bound, from_tunnel: false, web: None }), ..admin }.spawn().unwrap();
    test(address);
    shutdown.signal();
    thread.join().unwrap();
}

#[test]
fn a_worker_that_is_stuck_makes_the_router_unhealthy_and_is_named() {
    let admin = admin();
    let sleeper = |_| Sleeper::new(Arc::new(Doorbell::new().unwrap()), Arc::clone(&admin.shutdown));
    let [healthy, stuck] = [0, 1].map(sleeper);
    admin.threads.register(Some(0), "inside", Some(Arc::clone(healthy.heartbeat())));
    admin.threads.register(Some(3), "outside", Some(Arc::clone(stuck.heartbeat())));
    let shutdown = Arc::clone(&admin.shutdown);
    let worker =
        |sleeper: Sleeper| move || while sleeper.sleep(Awaited::WORK, None, None, || true).is_ok() {};
    let first = thread::spawn(worker(healthy));
    let (free, is_free) = std::sync::mpsc::channel();
    with_http(admin, |address| {
        let answer = request(address, "/healthz");
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        let seconds = answer.lines().find_map(|line| {
            line.strip_prefix("outside-3 has not run for ")?.strip_suffix(" s")?.parse::<u64>().ok()
        });
        assert!(seconds >= Some(2), "{answer}");
        assert!(!answer.contains("inside-0"), "{answer}");
        // Once the worker runs again, the router is healthy.
        let second = thread::spawn(move || {
            is_free.recv().unwrap();
            worker(stuck)();
        });
        free.send(()).unwrap();
        while request(address, "/healthz").starts_with("HTTP/1.1 503 ") {}
        assert!(request(address, "/healthz").ends_with("\r\n\r\nok\n"));
        shutdown.signal();
        second.join().unwrap();
    });
    first.join().unwrap();
}

#[test]
fn readiness_is_told_with_what_is_missing() {
    let admin = admin();
    let readiness = Arc::clone(&admin.readiness);
    with_http(admin, |address| {
        assert!(request(address, "/readyz").starts_with("HTTP/1.1 200 "));
        readiness.set_interface_up(false);
        let answer = request(address, "/readyz");
        assert!(
            answer.starts_with("HTTP/1.1 503 ") && answer.ends_with("the interface is down\n"),
            "{answer}"
        );
    });
}

#[test]
fn clients_that_say_nothing_do_not_keep_others_out() {
    with_http(admin(), |address| {
        let mut silent: Vec<_> = (0..40).map(|_| TcpStream::connect(address).unwrap()).collect();
        // All connection slots are taken, so this request waits until the first clients time out.
        assert!(request(address, "/metrics").starts_with("HTTP/1.1 200 "));
        assert_eq!(silent[0].read(&mut [0; 1]).unwrap_or(0), 0, "the silent connection is still open");
    });
}
