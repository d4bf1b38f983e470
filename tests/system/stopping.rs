//! A `laneway` process that is told to stop exits in time, at any moment and whichever thread is stuck, and leaves
//! nothing behind.

use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::background::{self, Background};
use crate::support::binary::{BINARY, command, serves};
use crate::support::folder::Folder;
use crate::support::freeze::Stopped;
use crate::support::process::{Process, command_in, output};
use crate::support::wg::{KeyPair, control_socket};
use crate::support::{device_name, lab, links, require_root, wait_until};
use laneway::cli::demo::lab::{Lab, Side};
use laneway::cli::signals::EXIT_STUCK;
use laneway::router::stopping;
use nix::sys::signal::Signal;

/// The tolerance for a process that keeps its bound on a busy machine.
const LATE: Duration = Duration::from_secs(10);

/// A sidecar that routes everything to its peer, so that it has an interface, addresses, routes, rules and a
/// socket.
struct Sidecar {
    lab: Lab,
    folder: Folder,
    device: String,
    before: String,
}

impl Sidecar {
    fn new() -> Sidecar {
        let (lab, folder, device) = (lab(), Folder::new(), device_name("lw"));
        let [own, peer] = [KeyPair::generate(&lab.left), KeyPair::generate(&lab.left)];
        let text = format!(
            "[Interface]\nPrivateKey = {}\nAddress = 10.77.0.1/24, fd77::1/64\n\
             [Peer]\nPublicKey = {}\nAllowedIPs = 0.0.0.0/0, ::/0\nEndpoint = {}:51820\n",
            own.private, peer.public, lab.right.underlay4
        );
        folder.write(&format!("{device}.conf"), &text);
        let before = state(&lab.left);
        Sidecar { lab, folder, device, before }
    }

    fn start(&self) -> Process {
        let file = self.folder.join(&format!("{}.conf", self.device));
        let environment = [("LANEWAY_METRICS_ADDR", "off"), ("LANEWAY_LOG", "info")];
        Process::start_quietly(&mut command(&self.lab.left, &["run", "--config", &file], &environment))
    }

    /// Like [`start`](Self::start), and waits until it is up.
    fn start_and_wait(&self) -> Process {
        let mut process = self.start();
        wait_until("the router", || {
            assert!(process.is_running(), "it exited during the start: {}", process.said());
            serves(&self.device)
        });
        process
    }

    /// Asserts that nothing is left of it.
    fn assert_gone(&self, said: &str) {
        assert!(!control_socket(&self.device).exists(), "the control socket was left behind: {said}");
        // The kernel removes the device asynchronously.
        wait_until("the initial state", || state(&self.lab.left) == self.before);
    }
}

/// Returns the devices of a side, which own its addresses and routes, and its rules.
fn state(side: &Side) -> String {
    let rules = [["ip", "-4", "rule"], ["ip", "-6", "rule"]].map(|words| output(&side.namespace, &words, ""));
    format!("{:?}\n{}", links(side), rules.concat())
}

/// Returns whether the process catches or blocks the signal.
fn takes(process: &Process, signal: Signal) -> bool {
    is_in(process, "SigCgt:", signal) || is_in(process, "SigBlk:", signal)
}

/// Returns whether the signal is in a set of the process (`proc_pid_status(5)`).
fn is_in(process: &Process, set: &str, signal: Signal) -> bool {
    // It may have exited.
    let Ok(status) = fs::read_to_string(format!("/proc/{}/status", process.id())) else { return false };
    let mask = status.lines().find_map(|line| line.strip_prefix(set)).expect("a line about signals");
    u64::from_str_radix(mask.trim(), 16).expect("a mask") >> (signal as u32 - 1) & 1 == 1
}

/// Sleeps for a pseudo-random time of up to `most` milliseconds.
fn pause(number: u64, most: u64) {
    let micros = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    thread::sleep(Duration::from_micros(micros % (most * 1000)));
}

#[test]
fn whoever_is_stuck_a_signal_ends_it_in_time_and_the_log_names_who() {
    require_root!();
    let sidecar = Sidecar::new();
    for name in ["peers", "inside-0", "outside-0", "admin"] {
        let mut process = sidecar.start_and_wait();
        let stopped = Stopped::new(&process, name);
        let start = Instant::now();
        process.signal(Signal::SIGTERM);
        stopped.wait_for_end();
        assert_eq!(process.wait(), Some(EXIT_STUCK.into()), "{name}: {}", process.said());
        assert!(start.elapsed() < stopping::PROCESS + LATE, "{name}: {:?}", start.elapsed());
        let said = process.said();
        let named = format!("laneway: {name} did not end within {} s", stopping::THREADS.as_secs());
        assert!(said.contains(&named), "{said}");
        sidecar.assert_gone(&said);
    }
}

#[test]
fn requests_and_a_reload_that_wait_for_who_is_stuck_do_not_hold_it_up() {
    require_root!();
    let sidecar = Sidecar::new();
    let mut process = sidecar.start_and_wait();
    let stopped = Stopped::new(&process, "peers");
    let mut client = UnixStream::connect(control_socket(&sidecar.device)).unwrap();
    client.write_all(b"get=1\n\n").unwrap();
    process.signal(Signal::SIGHUP);
    // Each has its own thread while it waits.
    let requests = || {
        let tasks = fs::read_dir(format!("/proc/{}/task", process.id())).unwrap();
        let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.filter(|name| name.trim() == "request").count()
    };
    wait_until("both requests to block", || requests() >= 2);
    process.signal(Signal::SIGTERM);
    stopped.wait_for_end();
    assert_eq!(process.wait(), Some(EXIT_STUCK.into()), "{}", process.said());
    let said = process.said();
    assert!(said.contains("laneway: peers did not end"), "the wrong thread was reported: {said}");
    sidecar.assert_gone(&said);
}

#[test]
fn even_a_main_thread_that_is_stuck_does_not_keep_the_process() {
    require_root!();
    let sidecar = Sidecar::new();
    let mut process = sidecar.start_and_wait();
    let stopped = Stopped::new(&process, "laneway");
    let start = Instant::now();
    process.signal(Signal::SIGTERM);
    // Its rules stay: the thread that ends the process by force cannot use netlink. They reject packets.
    assert_eq!(process.wait(), Some(EXIT_STUCK.into()), "{}", process.said());
    stopped.forget();
    assert!(start.elapsed() >= stopping::PROCESS, "ended by force too early: {:?}", start.elapsed());
    assert!(process.said().contains("ended by force"), "{}", process.said());
    assert!(!control_socket(&sidecar.device).exists());
    wait_until("the device to disappear", || links(&sidecar.lab.left) == ["lo", "underlay"]);
    // The next router adopts the rules, and removes them.
    let mut next = sidecar.start_and_wait();
    next.signal(Signal::SIGTERM);
    assert_eq!(next.wait(), Some(0), "{}", next.said());
    sidecar.assert_gone(&next.said());
}

#[test]
fn a_signal_at_any_moment_of_the_start_leaves_nothing() {
    require_root!();
    let sidecar = Sidecar::new();
    for number in 0..80 {
        let signal = [Signal::SIGTERM, Signal::SIGINT][number as usize % 2];
        let mut process = sidecar.start();
        // First at growing delays after it takes signals; then at any time, even before it does.
        let taken = number < 60;
        if taken {
            wait_until("it to handle signals", || takes(&process, signal) && takes(&process, Signal::SIGHUP));
        } else {
            // Until `env` has reset it, a signal that the test ignores would be lost.
            wait_until("the signal not to be ignored", || !is_in(&process, "SigIgn:", signal));
        }
        pause(number, if number % 4 < 2 { 5 } else { 80 });
        process.signal(signal);
        let status = process.wait();
        let said = process.said();
        assert!(status == Some(0) || !taken && status.is_none(), "number {number}: {status:?} {said}");
        sidecar.assert_gone(&format!("number {number}: {said}"));
    }
}

#[test]
fn a_sighup_during_the_start_is_a_reload_afterwards() {
    require_root!();
    let sidecar = Sidecar::new();
    for number in 0..8 {
        let mut process = sidecar.start();
        wait_until("it to handle signals", || takes(&process, Signal::SIGHUP));
        pause(number, 20);
        process.signal(Signal::SIGHUP);
        wait_until("the reload", || {
            assert!(process.is_running(), "number {number}: it ended: {}", process.said());
            process.said().contains("configuration reloaded from the file")
        });
        process.signal(Signal::SIGTERM);
        assert_eq!(process.wait(), Some(0), "{}", process.said());
        sidecar.assert_gone(&process.said());
    }
}

#[test]
fn a_command_that_is_interrupted_on_its_way_to_the_background_leaves_nothing_there() {
    require_root!();
    background::adopt_orphans();
    let (lab, device) = (lab(), device_name("lw"));
    for number in 0..20 {
        let mut parent = Process::start_quietly(&mut command(&lab.left, &[&device], &[]));
        wait_until("it to handle signals", || {
            takes(&parent, Signal::SIGTERM) && takes(&parent, Signal::SIGHUP)
        });
        pause(number, 30);
        // It may be done already.
        if parent.is_running() {
            parent.signal([Signal::SIGTERM, Signal::SIGINT][number as usize % 2]);
        }
        // It was done before the signal, or the router is stopping already and its socket may go at any moment.
        if parent.wait() == Some(0)
            && let Some(router) = Background::try_find(&device)
        {
            router.signal(Signal::SIGTERM);
            assert_eq!(router.wait(), Some(0));
        }
        wait_until("the device to disappear", || links(&lab.left) == ["lo", "underlay"]);
        assert!(!control_socket(&device).exists(), "number {number}: {}", parent.said());
    }
}

#[test]
fn a_signal_that_is_ignored_at_exec_stays_ignored() {
    require_root!();
    let sidecar = Sidecar::new();
    let file = sidecar.folder.join(&format!("{}.conf", sidecar.device));
    let mut command = command_in(&sidecar.lab.left.namespace, "env");
    command.args(["--ignore-signal=INT,HUP", BINARY, "run", "--config", &file]);
    command.envs([("LANEWAY_METRICS_ADDR", "off"), ("LANEWAY_LOG", "info")]);
    let mut process = Process::start_quietly(&mut command);
    wait_until("the router", || {
        assert!(process.is_running(), "it exited during the start: {}", process.said());
        serves(&sidecar.device)
    });
    for signal in [Signal::SIGHUP, Signal::SIGINT] {
        process.signal(signal);
    }
    // Nothing is expected to happen, so there is no condition to poll.
    thread::sleep(Duration::from_secs(1));
    let said = process.said();
    assert!(process.is_running(), "SIGINT stopped it: {said}");
    assert!(!said.contains("configuration reloaded from the file"), "SIGHUP reloaded it: {said}");
    process.signal(Signal::SIGTERM);
    assert_eq!(process.wait(), Some(0), "{}", process.said());
    sidecar.assert_gone(&process.said());
}
