//! `laneway doctor`: its report on the machine that the test runs on, and on machines where something is missing.

use std::process::Output;

use crate::support::binary::BINARY;
use crate::support::folder::Folder;
use crate::support::network::sysctl;
use crate::support::process::{attempt, command_in, output};
use crate::support::{lab, links, require_root, skip, wait_until};
use laneway::cli::demo::lab::Lab;
use serde_json::Value;

/// Runs the doctor through the command `words`, in the left side of a lab.
fn doctor(lab: &Lab, before: &[&str], arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let words: Vec<&str> = [before, &[BINARY, "doctor"], arguments].concat();
    let mut command = command_in(&lab.left.namespace, words[0]);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LANEWAY_") {
            command.env_remove(name);
        }
    }
    command.args(&words[1..]).envs(environment.iter().copied()).output().unwrap()
}

/// Returns the report as JSON, and the exit status.
fn report(lab: &Lab, before: &[&str], environment: &[(&str, &str)]) -> (Value, Option<i32>) {
    let done = doctor(lab, before, &["--json"], environment);
    let said = String::from_utf8(done.stdout).unwrap();
    let report = serde_json::from_str(&said)
        .unwrap_or_else(|error| panic!("{error}: {said} {}", String::from_utf8_lossy(&done.stderr)));
    (report, done.status.code())
}

fn check<'r>(report: &'r Value, name: &str) -> &'r Value {
    let checks = report["checks"].as_array().unwrap();
    checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name} in {report}"))
}

/// The program that drops a capability from its child.
const WITHOUT_NET_ADMIN: [&str; 3] = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"];

/// The clone device disappears the same way: an empty directory is mounted over its own.
const WITHOUT_TUN: [&str; 6] =
    ["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /dev/net && exec \"$@\"", "sh"];

#[test]
fn a_strict_reverse_path_filter_is_tried_and_nothing_is_left_behind() {
    require_root!();
    let lab = lab();
    let found = |words: &str| {
        let (report, _) = report(&lab, &[], &[]);
        let check = check(&report, "reverse path filter");
        let found = check["found"].as_str().unwrap();
        assert!(check["verdict"] == "good" && found.contains(words), "{check:#}");
    };
    found("there is no IPv4 route");
    let way = lab.right.underlay4.to_string();
    output(&lab.left.namespace, &["ip", "route", "add", "default", "via", &way], "");
    let rules = || output(&lab.left.namespace, &["ip", "rule"], "");
    let before = rules();
    found("not strict");
    sysctl(&lab.left, "ipv4/conf/all/rp_filter", "1");
    found("rules let datagrams to the router's port pass");
    assert_eq!(rules(), before);
}

#[test]
fn doctor_finds_that_a_router_runs_here_and_leaves_nothing_behind() {
    require_root!();
    let lab = lab();
    let before = links(&lab.left);
    let (report, status) = report(&lab, &[], &[]);
    assert_eq!((status, &report["runs"]), (Some(0), &Value::Bool(true)), "{report:#}");
    // The kernel removes devices asynchronously.
    wait_until("the initial devices", || links(&lab.left) == before);
    for (name, word) in [
        ("configuration", "valid"),
        ("capabilities", "CAP_NET_ADMIN"),
        ("TUN device", "2 queues"),
        ("TUN offload, TCP", "TSO"),
        ("UDP socket", "any free port"),
        ("UDP GSO", "one system call"),
        ("UDP GRO", "one message"),
        ("socket buffers", "32768 KiB"),
        ("CPUs and pinning", "inside+outside worker per queue: "),
    ] {
        let check = check(&report, name);
        let found = check["found"].as_str().unwrap();
        assert!(check["verdict"] == "good" && found.contains(word), "{check:#}");
    }
    // Where superpackets in tunnels are read, it has tried to write one.
    let reads = check(&report, "TUN offload, tunnels")["verdict"] == "good";
    let tried = report["checks"].as_array().unwrap().iter().any(|check| check["name"] == "TUN tunnel writes");
    assert_eq!(reads, tried, "{report:#}");
    // Every finding that is not good names its remedy, wherever the router runs.
    for check in report["checks"].as_array().unwrap() {
        let remedied = ["docker", "compose", "kubernetes", "systemd", "host"]
            .iter()
            .all(|place| check["remedy"][place].as_str().is_some_and(|text| !text.is_empty()));
        assert_eq!(remedied, check["verdict"] != "good", "{check:#}");
    }
}

#[test]
fn without_the_capability_it_says_how_to_grant_it() {
    require_root!();
    let lab = lab();
    let (report, status) = report(&lab, &WITHOUT_NET_ADMIN, &[]);
    assert_eq!((status, &report["runs"]), (Some(1), &Value::Bool(false)));
    for name in ["capabilities", "TUN device"] {
        let check = check(&report, name);
        assert_eq!(check["verdict"], "missing");
        assert_eq!(check["remedy"]["docker"], "--cap-add NET_ADMIN");
        assert_eq!(check["remedy"]["compose"], "cap_add: [NET_ADMIN]");
    }
    let done = doctor(&lab, &WITHOUT_NET_ADMIN, &[], &[]);
    let said = String::from_utf8(done.stdout).unwrap();
    assert_eq!(done.status.code(), Some(1));
    assert_eq!(said.matches("Docker: --cap-add NET_ADMIN\n").count(), 1, "{said}");
    assert!(said.ends_with("A router cannot run here yet.\n"), "{said}");
}

#[test]
fn without_the_device_it_says_how_to_pass_it_in() {
    require_root!();
    let (report, status) = report(&lab(), &WITHOUT_TUN, &[]);
    assert_eq!(status, Some(1));
    let tun = check(&report, "TUN device");
    assert_eq!((&tun["verdict"], &tun["found"]), (&"missing".into(), &"/dev/net/tun is missing".into()));
    assert_eq!(tun["remedy"]["docker"], "--device /dev/net/tun");
    assert!(tun["remedy"]["kubernetes"].as_str().unwrap().contains("CharDevice"));
}

#[test]
fn a_file_or_a_folder_in_place_of_the_device_is_called_that() {
    require_root!();
    let lab = lab();
    for make in [": > /dev/net/tun", "mkdir /dev/net/tun", "ln -s /dev/null /dev/net/tun"] {
        let script = format!("mount -t tmpfs none /dev/net && {make} && exec \"$@\"");
        let (report, status) = report(&lab, &["unshare", "--mount", "sh", "-c", &script, "sh"], &[]);
        assert_eq!(status, Some(1));
        let tun = check(&report, "TUN device");
        assert!(
            tun["found"].as_str().unwrap().contains("is not the TUN device but a file, a folder"),
            "{tun:#}"
        );
        assert!(tun["remedy"]["host"].as_str().unwrap().starts_with("rm -r /dev/net/tun; "), "{tun:#}");
    }
}

#[test]
fn a_mistake_in_the_environment_and_a_taken_port_are_found() {
    require_root!();
    let lab = lab();
    let (wrong, status) = report(&lab, &[], &[("LANEWAY_QUEUES", "many")]);
    assert_eq!(status, Some(1));
    assert!(check(&wrong, "configuration")["found"].as_str().unwrap().starts_with("LANEWAY_QUEUES=many"));

    let wishes = [("LANEWAY_INSIDE_CPUS", "1023")];
    assert_eq!(check(&report(&lab, &[], &wishes).0, "CPUs and pinning")["verdict"], "missing");

    let held = lab.left.namespace.run(|| std::net::UdpSocket::bind("[::]:0")).unwrap().unwrap();
    let port = held.local_addr().unwrap().port().to_string();
    let (taken, status) = report(&lab, &[], &[("LANEWAY_LISTEN_PORT", &port)]);
    assert_eq!((status, &check(&taken, "UDP socket")["verdict"]), (Some(0), &"limited".into()));
}

#[test]
fn doctor_asks_for_ipv6_only_if_the_configuration_needs_it() {
    require_root!();
    let lab = lab();
    let switch = ["sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"];
    output(&lab.left.namespace, &switch, "");
    let (none, status) = report(&lab, &[], &[]);
    assert_eq!((status, &check(&none, "IPv6")["verdict"]), (Some(0), &"good".into()));

    let folder = Folder::new();
    let text = "[Interface]\nAddress = 10.77.0.1/24, fd77::1/64\n";
    let (wanted, status) = report(&lab, &[], &[("LANEWAY_CONFIG", &folder.write("lw0.conf", text))]);
    let ipv6 = check(&wanted, "IPv6");
    assert_eq!((status, &ipv6["verdict"]), (Some(1), &"missing".into()), "{wanted:#}");
    assert!(ipv6["found"].as_str().unwrap().contains("fd77::1/64"), "{ipv6:#}");
    assert_eq!(ipv6["remedy"]["host"], "sysctl -w net.ipv6.conf.all.disable_ipv6=0");
}

#[test]
fn the_command_against_injection_works_as_printed_and_then_is_not_printed() {
    require_root!();
    let lab = lab();
    if attempt(&lab.left.namespace, &["nft", "add", "table", "inet", "probe"], "").is_err() {
        skip::report("this kernel has no nftables");
        return;
    }
    let folder = Folder::new();
    let text = "[Interface]\nAddress = 10.77.0.1/24, fd77::1/64\n[Peer]\n\
                PublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=\nAllowedIPs = 0.0.0.0/0, ::/0\n";
    let environment = [("LANEWAY_CONFIG", &*folder.write("lw0.conf", text))];
    let filter = || check(&report(&lab, &[], &environment).0, "injection filter").clone();
    let found = |filter: &Value| filter["found"].as_str().unwrap().to_owned();
    let missing = filter();
    assert_eq!(missing["verdict"], "limited", "{missing:#}");
    // Rules of another program for one of the addresses.
    let rules = "add table ip wg-quick-lw0\nadd chain ip wg-quick-lw0 preraw { type filter hook prerouting priority -300; }\n\
                 add rule ip wg-quick-lw0 preraw iifname != \"lw0\" ip daddr 10.77.0.1 fib saddr type != local drop\n";
    output(&lab.left.namespace, &["nft", "-f", "-"], rules);
    let half = found(&filter());
    assert!(half.contains("fd77::1") && !half.contains("10.77.0.1"), "{half}");
    output(&lab.left.namespace, &["nft", "flush", "ruleset"], "");

    // Rules that do not keep packets from it: for other packets, or that no packet passes.
    let rules = "add table inet other\nadd chain inet other pre { type filter hook prerouting priority -300; }\n\
                 add chain inet other out { type filter hook output priority 0; }\nadd chain inet other unused\n\
                 add rule inet other pre iifname != \"lw0\" ip saddr 10.77.0.1 drop\n\
                 add rule inet other pre oifname != \"lw0\" ip daddr 10.77.0.1 drop\n\
                 add rule inet other pre iifname != \"lw0\" ip daddr 10.77.0.1 tcp dport 22 drop\n\
                 add rule inet other pre iifname != \"lw0\" ip daddr 10.77.0.1 accept\n\
                 add rule inet other out oifname != \"lw0\" ip daddr 10.77.0.1 drop\n\
                 add rule inet other unused iifname != \"lw0\" ip daddr 10.77.0.1 drop\n";
    output(&lab.left.namespace, &["nft", "-f", "-"], rules);
    assert_eq!(filter(), missing);
    output(&lab.left.namespace, &["nft", "flush", "ruleset"], "");

    let whole = found(&missing);
    let command = &whole[whole.find("nft '").expect("a command")..];
    output(&lab.left.namespace, &["sh", "-c", command], "");
    assert_eq!(filter()["verdict"], "good");
    output(&lab.left.namespace, &["nft", "delete", "table", "inet", "laneway_filter_lw0"], "");
    assert_eq!(filter()["verdict"], "limited");
    // What is in quotes is a file for nft, too.
    let file = command.split('\'').nth(1).expect("quotes");
    output(&lab.left.namespace, &["nft", "-f", "-"], &format!("{file}\n"));
    assert_eq!(filter()["verdict"], "good");
}
