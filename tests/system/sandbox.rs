//! The privileges a router process keeps once it runs, as the kernel reports them, and that they suffice.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::ExitStatusExt as _;

use crate::support::binary::{BINARY, Laneway, command, serves};
use crate::support::folder::Folder;
use crate::support::process::{Process, attempt, command_in, output};
use crate::support::wg::{KeyPair, control_socket};
use crate::support::{device_name, lab, require_root, wait_until};
use laneway::cli::demo::lab::Side;
use nix::sys::signal::Signal;

/// Capability bits in `/proc` (`linux/capability.h`).
const DAC_READ_SEARCH: u64 = 1 << 2;
const NET_BIND_SERVICE: u64 = 1 << 10;
const NET_ADMIN: u64 = 1 << 12;

/// The privileges of one thread.
#[derive(Debug, PartialEq, Eq)]
struct Privileges {
    capabilities: u64,
    gains_none: bool,
    filtered: bool,
}

fn privileges(process: &Process) -> Vec<Privileges> {
    let of = |task: std::io::Result<fs::DirEntry>| {
        let status = fs::read_to_string(task.ok()?.path().join("status")).ok()?;
        let field = |name: &str| Some(status.lines().find_map(|line| line.strip_prefix(name))?.trim());
        Some(Privileges {
            capabilities: u64::from_str_radix(field("CapPrm:")?, 16).ok()?,
            gains_none: field("NoNewPrivs:")? == "1",
            filtered: field("Seccomp:")? == "2",
        })
    };
    fs::read_dir(format!("/proc/{}/task", process.id())).unwrap().filter_map(of).collect()
}

fn wait_for(process: &Process, capabilities: u64, filtered: bool) {
    let wanted = Privileges { capabilities, gains_none: true, filtered };
    wait_until(&format!("{wanted:?}"), || {
        let found = privileges(process);
        found.len() >= 4 && found.iter().all(|found| *found == wanted)
    });
}

#[test]
fn every_thread_keeps_what_a_router_needs_and_nothing_else() {
    require_root!();
    let lab = lab();
    let laneway = Laneway::start(&lab.left, &[("LANEWAY_QUEUES", "2")]);
    wait_for(&laneway.process, NET_ADMIN | NET_BIND_SERVICE, true);
    let mode = fs::metadata(laneway.socket()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "the control socket is accessible to others");
}

/// Starts a program with no limit on the size of its core in an empty directory, and ends it with `signal` once it is
/// `ready`. Returns whether the kernel dumped core, and how many files are in the directory then.
fn dumps_core(side: &Side, program: &[&str], signal: Signal, ready: impl Fn(&mut Process)) -> (bool, usize) {
    let folder = Folder::new();
    let directory = folder.join("");
    let mut command = command_in(&side.namespace, "prlimit");
    command.arg("--core=unlimited:unlimited").args(program).current_dir(&directory);
    let mut process = Process::start_quietly(&mut command);
    ready(&mut process);
    // Rust's handler of SIGSEGV only restores the default action if the fault is not a stack overflow.
    wait_until("the end", || {
        let ended = !process.is_running();
        if !ended {
            process.signal(signal);
        }
        ended
    });
    let status = process.status();
    assert_eq!(status.signal(), Some(signal as i32), "{}", process.said());
    (status.core_dumped(), fs::read_dir(&directory).unwrap().count())
}

#[test]
fn a_signal_that_dumps_core_leaves_none_of_a_router() {
    require_root!();
    let lab = lab();
    let (control, _) = dumps_core(&lab.left, &["sleep", "60"], Signal::SIGABRT, |process| {
        let program = format!("/proc/{}/exe", process.id());
        wait_until("sleep", || fs::read_link(&program).is_ok_and(|path| path.ends_with("sleep")));
    });
    if !control {
        eprintln!("this host dumps no core of any process (/proc/sys/kernel/core_pattern)");
    }
    for signal in [Signal::SIGSEGV, Signal::SIGABRT] {
        let device = device_name("lw");
        let dumped = dumps_core(&lab.left, &[BINARY, "-f", &device], signal, |process| {
            wait_until("laneway", || {
                assert!(process.is_running(), "{}", process.said());
                serves(&device)
            });
            let limits = fs::read_to_string(format!("/proc/{}/limits", process.id())).unwrap();
            let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
            assert_eq!(core.split_whitespace().collect::<Vec<_>>(), ["0", "0", "bytes"]);
        });
        let _ = fs::remove_file(control_socket(&device));
        assert_eq!(dumped, (false, 0), "{signal}");
    }
}

#[test]
fn a_process_with_the_same_privileges_cannot_read_the_memory() {
    require_root!();
    let lab = lab();
    let capabilities = ["--bounding-set=-all,+net_admin,+net_bind_service", "--inh-caps=-all"];
    let laneway = Laneway::start(&lab.left, &[]);
    let mut sleep = command_in(&lab.left.namespace, "setpriv");
    let sleep = Process::start(sleep.args(capabilities).args(["sleep", "60"]));
    // The list of mappings may be read by whoever may read the memory and trace the process.
    let read = |process: &Process, user: &[&str]| {
        let maps = format!("/proc/{}/maps", process.id());
        let words = [&["setpriv"], &capabilities[..], user, &["cat", &maps]].concat();
        attempt(&lab.left.namespace, &words, "")
    };
    let other = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    wait_until("sleep", || read(&sleep, &[]).is_ok_and(|maps| maps.contains("/sleep")));
    for user in [&[][..], &other] {
        let refused = read(&laneway.process, user).unwrap_err();
        assert!(refused.contains("Permission denied"), "{user:?}: {refused}");
    }
}

#[test]
fn the_filter_can_be_left_out() {
    require_root!();
    let lab = lab();
    let laneway = Laneway::start(&lab.left, &[("LANEWAY_SECCOMP", "off")]);
    wait_for(&laneway.process, NET_ADMIN | NET_BIND_SERVICE, false);
}

/// A sidecar whose configuration file belongs to another user.
fn sidecar(side: &Side, folder: &Folder, device: &str) -> (String, Process) {
    let private = KeyPair::generate(side).private;
    let text = format!("[Interface]\nPrivateKey = {private}\nAddress = 10.50.0.1/24\n");
    let file = folder.write(&format!("{device}.conf"), &text);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    chown(&file, Some(65_534), Some(65_534)).unwrap();
    let environment = [("LANEWAY_METRICS_ADDR", "off"), ("LANEWAY_LOG_FORMAT", "json")];
    let mut process = Process::start_quietly(&mut command(side, &["run", "--config", &file], &environment));
    wait_until("the sidecar", || {
        assert!(process.is_running(), "{}", process.said());
        serves(device)
    });
    (file, process)
}

#[test]
fn what_is_left_is_enough_for_every_change_while_it_runs() {
    require_root!();
    let (lab, folder, device) = (lab(), Folder::new(), device_name("lw"));
    let (file, mut process) = sidecar(&lab.left, &folder, &device);
    // Root may read another user's file, and must do so again on SIGHUP.
    wait_for(&process, NET_ADMIN | NET_BIND_SERVICE | DAC_READ_SEARCH, true);
    let left = |words: &str| output(&lab.left.namespace, &words.split(' ').collect::<Vec<_>>(), "");
    left(&format!("wg set {device} listen-port 500 fwmark 0x2a"));
    assert_eq!(left(&format!("wg show {device} listen-port")).trim(), "500");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{text}Address = 10.51.0.1/24\nMTU = 1300\n")).unwrap();
    process.signal(Signal::SIGHUP);
    let link = || left(&format!("ip addr show {device}"));
    wait_until("the new address", || link().contains("10.51.0.1/24") && link().contains("mtu 1300"));
    process.signal(Signal::SIGTERM);
    assert_eq!(process.wait(), Some(0), "{}", process.said());
    assert!(!control_socket(&device).exists());
}

#[test]
fn one_line_at_the_start_says_what_the_router_is() {
    require_root!();
    let (lab, folder, device) = (lab(), Folder::new(), device_name("lw"));
    let (_, process) = sidecar(&lab.left, &folder, &device);
    wait_until("the line", || process.said().contains("router is up"));
    let said = process.said();
    let lines: Vec<serde_json::Value> =
        said.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect();
    let up = |line: &&serde_json::Value| line["fields"]["message"] == "router is up";
    let [line] = lines.iter().filter(up).collect::<Vec<_>>()[..] else { panic!("{said}") };
    let fields = &line["fields"];
    assert_eq!(fields["interface"], device.as_str());
    assert_eq!((&fields["mtu"], &fields["addresses"]), (&1420.into(), &"10.50.0.1/24".into()));
    for field in ["queues", "cpus", "tso", "uso", "gso", "gro", "port"] {
        assert!(!fields[field].is_null(), "{field}: {line}");
    }
}
