//! The laboratory itself: if two peers written by others do not get along in it, no result from it counts.

mod support;

use std::process::Stdio;

use support::process::{Process, command_in};
use support::tunnel::{self, Family};
use support::wireguard_go::{self, KeyPair, WireGuardGo};
use support::{bulk, lab, ping::ping, require_root, wait_until};

const MIB: u64 = 1 << 20;

#[test]
fn two_wireguard_go_peers_carry_ping_and_bulk_tcp_over_either_protocol() {
    if !require_root() {
        return;
    }
    for outside in Family::ALL {
        let lab = lab();
        let (left, right) = (WireGuardGo::start(&lab.left), WireGuardGo::start(&lab.right));
        let (left_keys, right_keys) = (KeyPair::generate(&lab.left), KeyPair::generate(&lab.right));
        let endpoint = Some(outside.endpoint(&lab.right));
        wireguard_go::configure(&lab.left, &left.device, &left_keys, &right_keys, 2, endpoint);
        wireguard_go::configure(&lab.right, &right.device, &right_keys, &left_keys, 1, None);
        tunnel::address(&lab, &left.device, &right.device);

        for inside in Family::ALL {
            ping(&lab.left.namespace, inside.inside(2));
            bulk(&lab.left, &lab.right, inside.inside(2), 2, 8 * MIB);
            bulk(&lab.right, &lab.left, inside.inside(1), 2, 8 * MIB);
        }
    }
}

#[test]
fn programs_see_their_own_side_of_the_cable_and_end_when_they_are_dropped() {
    if !require_root() {
        return;
    }
    let lab = lab();
    ping(&lab.left.namespace, lab.right.underlay4.into());
    ping(&lab.right.namespace, lab.left.underlay6.into());

    let mut sleep = command_in(&lab.left.namespace, "sleep");
    let mut process = Process::start(sleep.arg("1000").stdin(Stdio::null()));
    assert!(process.is_running());
    let entry = format!("/proc/{}", process.id());
    drop(process);
    wait_until("the end of sleep", || !std::path::Path::new(&entry).exists());
}
