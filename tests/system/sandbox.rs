//! The privileges a router process keeps once it runs, as the kernel reports them, and that they suffice.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};

use crate::support::binary::{Laneway, command, serves};
use crate::support::folder::Folder;
use crate::support::process::{Process, output};
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

#[test]
fn no_core_dump_gets_the_memory() {
    require_root!();
    let lab = lab();
    let laneway = Laneway::start(&lab.left, &[]);
    let proc = format!("/proc/{}", laneway.process.id());
    let limits = fs::read_to_string(format!("{proc}/limits")).unwrap();
    let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().collect::<Vec<_>>(), ["0", "0", "bytes"]);
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
