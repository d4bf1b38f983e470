//! The health and readiness probes of a `laneway` process: alive, stuck, ready, not ready yet.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use crate::support::binary::{self, Laneway};
use crate::support::folder::Folder;
use crate::support::freeze::Stopped;
use crate::support::http::{SERVED, get};
use crate::support::network::sysctl;
use crate::support::ping::ping;
use crate::support::process::{Process, output};
use crate::support::tunnel::{Family, address};
use crate::support::wg::{self, KeyPair, Setting, control_socket};
use crate::support::{DEADLINE, device_name, lab, require_root, wait_until};
use laneway::cli::demo::lab::Side;
use nix::sys::signal::Signal;

/// Asserts that `/healthz` reports `thread` as stuck. On a busy machine others may be late for a moment, but
/// eventually it is the only one.
fn assert_names(side: &Side, thread: &str) {
    wait_until(thread, || {
        let (status, body) = get(side, "/healthz");
        let lines: Vec<_> = body.lines().collect();
        let named = format!("{thread} has not run for ");
        assert!(status == 503 && lines.iter().any(|line| line.starts_with(&named)), "{status} {body}");
        lines.len() == 1
    });
}

#[test]
fn a_stuck_thread_makes_the_process_unhealthy() {
    require_root!();
    let lab = lab();
    let laneway = Laneway::start(&lab.left, &[SERVED]);
    wait_until("health", || get(&lab.left, "/healthz") == (200, "ok\n".to_owned()));
    let (status, page) = get(&lab.left, "/");
    assert!(status == 200 && page.contains("Laneway 0.1.0") && page.contains("href=\"/metrics\""), "{page}");
    for name in ["inside-0", "outside-0", "peers"] {
        let stopped = Stopped::new(&laneway.process, name);

        assert_names(&lab.left, name);
        // A scrape is not held up by it.
        let (status, metrics) = get(&lab.left, "/metrics");
        assert_eq!(status, 200);
        for series in ["laneway_worker_cpu_seconds_total{worker=\"admin\"} ", "process_open_fds "] {
            assert!(metrics.contains(&format!("\n{series}")), "{series}: {metrics}");
        }

        drop(stopped);
        wait_until("the thread to run again", || get(&lab.left, "/healthz").0 == 200);
    }
}

#[test]
fn requests_that_wait_for_a_stuck_thread_block_no_others() {
    require_root!();
    let lab = lab();
    let (device, folder, keys) = (device_name("lw"), Folder::new(), KeyPair::generate(&lab.left));
    let write = |port: u16| {
        let text = format!("[Interface]\nPrivateKey = {}\nListenPort = {port}\n", keys.private);
        folder.write(&format!("{device}.conf"), &text)
    };
    let file = write(51820);
    let mut command = binary::command(&lab.left, &["run", "--config", &file], &[SERVED]);
    let mut process = Process::start_quietly(&mut command);
    let socket = control_socket(&device);
    wait_until("the router", || {
        assert!(process.is_running(), "it exited during the start: {}", process.said());
        socket.exists()
    });

    let stopped = Stopped::new(&process, "peers");
    let clients = ["get=1\n\n", "set=1\nfwmark=7\n\n", "get=1\n\n"].map(|request| {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        stream
    });
    write(51821);
    process.signal(Signal::SIGHUP);
    assert_names(&lab.left, "peers");
    assert_eq!(get(&lab.left, "/metrics").0, 200);

    // Pending requests are answered.
    drop(stopped);
    for mut client in clients {
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("errno=0\n\n"), "{answer}");
    }
    wait_until("the reload", || process.said().contains("configuration reloaded from the file"));
    assert_eq!(output(&lab.left.namespace, &["wg", "show", &device, "listen-port"], "").trim(), "51821");
    process.signal(Signal::SIGTERM);
    assert_eq!(process.wait(), Some(0), "{}", process.said());
}

#[test]
fn it_is_ready_once_the_interface_is_up_and_the_awaited_peer_has_a_session() {
    require_root!();
    let lab = lab();
    let keys = [KeyPair::generate(&lab.left), KeyPair::generate(&lab.right)];
    let left = Laneway::start(&lab.left, &[SERVED, ("LANEWAY_READY_PEER", &keys[1].public)]);
    let right = Laneway::start(&lab.right, &[]);
    let not_ready = |what: &str| {
        let (status, body) = get(&lab.left, "/readyz");
        assert_eq!(status, 503);
        assert!(body.contains(what), "{body}");
    };
    not_ready("the interface is down");
    output(&lab.left.namespace, &["ip", "link", "set", &left.device, "up"], "");
    wait_until("the link", || !get(&lab.left, "/readyz").1.contains("is down"));
    not_ready("no peer with public key");
    let endpoint = Some(Family::V4.endpoint(&lab.right));
    wg::set(&lab.left, &left.device, &keys[0], &Setting { endpoint, ..Setting::new(&keys[1], 2) });
    not_ready(&format!("no session with the peer {}", keys[1].public));
    wg::set(&lab.right, &right.device, &keys[1], &Setting::new(&keys[0], 1));
    address(&lab.left, &left.device, 1);
    address(&lab.right, &right.device, 2);
    ping(&lab.left.namespace, Family::V4.inside(2));
    assert_eq!(get(&lab.left, "/readyz"), (200, "ok\n".to_owned()));
}

#[test]
fn it_is_not_ready_while_routes_are_missing_that_cannot_be_added() {
    require_root!();
    let lab = lab();
    let (device, folder, keys) = (device_name("lw"), Folder::new(), KeyPair::generate(&lab.left));
    let text = format!(
        "[Interface]\nPrivateKey = {}\nAddress = 10.9.0.1/24, fd09::1/64\n[Peer]\nPublicKey = {}\n\
         AllowedIPs = 10.10.0.0/16, fd10::/64\n",
        keys.private,
        KeyPair::generate(&lab.right).public
    );
    let file = folder.write(&format!("{device}.conf"), &text);
    let mut command = binary::command(&lab.left, &["run", "--config", &file], &[SERVED]);
    let mut process = Process::start_quietly(&mut command);
    wait_until("the router", || {
        assert!(process.is_running(), "it exited during the start: {}", process.said());
        binary::serves(&device)
    });
    assert_eq!(get(&lab.left, "/readyz"), (200, "ok\n".to_owned()));

    let ipv6 = |state| sysctl(&lab.left, &format!("ipv6/conf/{device}/disable_ipv6"), state);
    ipv6("1");
    wait_until("the loss to be seen", || get(&lab.left, "/readyz").0 == 503);
    // Whoever asks may not know the configuration, so the reason is in the log only.
    let (_, body) = get(&lab.left, "/readyz");
    assert!(
        body.contains("routes or rules of the interface are missing") && !body.contains("fd09"),
        "{body}"
    );
    let said = process.said();
    assert!(said.contains("lost addresses, routes or rules: cannot add the address fd09::1/64"), "{said}");
    assert!(said.contains("IPv6 is disabled"), "{said}");
    // Nothing tells the router that it could add them now.
    ipv6("0");
    wait_until("the addresses", || get(&lab.left, "/readyz") == (200, "ok\n".to_owned()));
    let routes = output(&lab.left.namespace, &["ip", "-6", "route", "show", "dev", &device], "");
    assert!(routes.contains("fd10::/64"), "{routes}");
}
