//! The lab itself: if two other implementations cannot talk to each other in it, no other result from it counts.

use std::process::Stdio;

use crate::support::addresses::{UNDERLAY, UNDERLAY_MTU};
use crate::support::boringtun::BoringTun;
use crate::support::process::{Process, command_in};
use crate::support::tunnel::{self, Family};
use crate::support::wireguard_go::WireGuardGo;
use crate::support::{exercise, lab, ping::ping, require_root, wait_until};
use laneway::cli::demo::lab::CABLE_MTU;

#[test]
fn two_wireguard_go_peers_carry_ping_and_bulk_tcp_over_either_protocol() {
    require_root!();
    for outside in Family::ALL {
        let lab = lab();
        let (left, right) = (WireGuardGo::start(&lab.left), WireGuardGo::start(&lab.right));
        tunnel::join(&lab, &left.device, &right.device, outside);
        exercise(&lab);
    }
}

#[test]
fn boringtun_and_wireguard_go_carry_ping_and_bulk_tcp_whichever_begins() {
    require_root!();
    let begins = lab();
    let (left, right) = (BoringTun::start(&begins.left), WireGuardGo::start(&begins.right));
    tunnel::join(&begins, &left.device, &right.device, Family::V4);
    exercise(&begins);

    let answers = lab();
    let (left, right) = (WireGuardGo::start(&answers.left), BoringTun::start(&answers.right));
    tunnel::join(&answers, &left.device, &right.device, Family::V6);
    exercise(&answers);
}

#[test]
fn programs_see_their_own_side_of_the_cable_and_end_when_they_are_dropped() {
    require_root!();
    let lab = lab();
    ping(&lab.left.namespace, lab.right.underlay4.into());
    ping(&lab.right.namespace, lab.left.underlay6.into());

    let mut sleep = command_in(&lab.left.namespace, "sleep");
    let mut process = Process::start(sleep.arg("1000").stdin(Stdio::null()));
    assert!(process.is_running());
    let entry = format!("/proc/{}", process.id());
    drop(process);
    wait_until("sleep to exit", || !std::path::Path::new(&entry).exists());
}

#[test]
fn the_cable_has_the_addresses_and_the_mtu_that_the_benchmarks_share() {
    require_root!();
    let lab = lab();
    assert_eq!([&lab.left, &lab.right].map(|side| side.underlay4.to_string()), UNDERLAY);
    assert_eq!(CABLE_MTU, UNDERLAY_MTU);
}
