//! What an orchestrator's probes see of a `laneway` process: alive, stuck, ready, not ready yet.

mod support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};

use laneway::cli::demo::lab::Side;
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use support::binary::Laneway;
use support::ping::ping;
use support::process::output;
use support::tunnel::{Family, address};
use support::wg::{self, KeyPair, Setting};
use support::{DEADLINE, lab, require_root, wait_until};

/// Where every router of these tests serves HTTP: namespaces keep them apart.
const PORT: u16 = 9586;
const SERVED: (&str, &str) = ("LANEWAY_METRICS_ADDR", "127.0.0.1:9586");

/// Status and body.
fn get(side: &Side, path: &str) -> (u16, String) {
    let mut stream = side.namespace.run(|| TcpStream::connect((Ipv4Addr::LOCALHOST, PORT))).unwrap().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer}"));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// The kernel's number for a thread of the process.
fn thread(laneway: &Laneway, name: &str) -> Pid {
    let tasks = fs::read_dir(format!("/proc/{}/task", laneway.process.id())).unwrap();
    // Another thread may end meanwhile.
    let is_it = |task: &fs::DirEntry| {
        fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name)
    };
    let task = tasks.map(Result::unwrap).find(is_it).unwrap_or_else(|| panic!("no thread is called {name}"));
    Pid::from_raw(task.file_name().to_str().unwrap().parse().unwrap())
}

#[test]
fn a_thread_that_stands_still_makes_the_process_unhealthy_until_it_goes_on() {
    if !require_root() {
        return;
    }
    let lab = lab();
    let laneway = Laneway::start(&lab.left, &[SERVED]);
    wait_until("health", || get(&lab.left, "/healthz") == (200, "ok\n".to_owned()));
    for name in ["inside-0", "outside-0", "peers"] {
        // A tracer can stop one thread of a process, which no signal can.
        let stopped = thread(&laneway, name);
        ptrace::seize(stopped, ptrace::Options::empty()).unwrap();
        ptrace::interrupt(stopped).unwrap();
        waitpid(stopped, Some(WaitPidFlag::__WALL)).unwrap();

        // Others may be late too for a moment, on a busy machine, but only this one stands still.
        wait_until(name, || {
            let (status, body) = get(&lab.left, "/healthz");
            let lines: Vec<_> = body.lines().collect();
            let named = format!("{name} has not run for ");
            assert!(status == 503 && lines.iter().any(|line| line.starts_with(&named)), "{status} {body}");
            lines.len() == 1
        });
        // Who looks at the metrics is not held up by it.
        let (status, metrics) = get(&lab.left, "/metrics");
        assert_eq!(status, 200);
        for series in ["laneway_worker_cpu_seconds_total{worker=\"admin\"} ", "process_open_fds "] {
            assert!(metrics.contains(&format!("\n{series}")), "{series}: {metrics}");
        }

        ptrace::detach(stopped, None).unwrap();
        wait_until("the thread to go on", || get(&lab.left, "/healthz").0 == 200);
    }
}

#[test]
fn it_is_ready_once_the_interface_is_up_and_the_awaited_peer_has_a_session() {
    if !require_root() {
        return;
    }
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
    not_ready("no peer has the public key");
    let endpoint = Some(Family::V4.endpoint(&lab.right));
    wg::set(&lab.left, &left.device, &keys[0], &Setting { endpoint, ..Setting::new(&keys[1], 2) });
    not_ready(&format!("no session with the peer {}", keys[1].public));
    wg::set(&lab.right, &right.device, &keys[1], &Setting::new(&keys[0], 1));
    address(&lab.left, &left.device, 1);
    address(&lab.right, &right.device, 2);
    ping(&lab.left.namespace, Family::V4.inside(2));
    assert_eq!(get(&lab.left, "/readyz"), (200, "ok\n".to_owned()));
}
