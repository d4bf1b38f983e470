//! The `laneway` command and other WireGuard implementations: who initiates, over which IP version, with how many
//! lanes, with or without a preshared key. Each row of the tables must carry `crate::support::exercise`.

use std::thread;
use std::time::Duration;

use crate::support::implementation::{Kind, Running};
use crate::support::kernel;
use crate::support::tunnel::{self, Family};
use crate::support::wg::{self, KeyPair, Setting};
use crate::support::{exercise, lab, require_root};
use laneway::cli::demo::lab::Lab;

/// One tunnel: initiator, responder, outer IP version.
struct Row {
    begins: Kind,
    answers: Kind,
    outside: Family,
    preshared: bool,
}

const WITH_WIREGUARD_GO: [Row; 2] = [
    Row { begins: Kind::Laneway("1"), answers: Kind::WireGuardGo, outside: Family::V4, preshared: true },
    Row { begins: Kind::WireGuardGo, answers: Kind::Laneway("2"), outside: Family::V6, preshared: false },
];

const WITH_BORINGTUN: [Row; 2] = [
    Row { begins: Kind::Laneway("2"), answers: Kind::BoringTun, outside: Family::V6, preshared: false },
    Row { begins: Kind::BoringTun, answers: Kind::Laneway("1"), outside: Family::V4, preshared: true },
];

const WITH_THE_KERNEL: [Row; 4] = [
    Row { begins: Kind::Laneway("1"), answers: Kind::Kernel, outside: Family::V4, preshared: true },
    Row { begins: Kind::Laneway("2"), answers: Kind::Kernel, outside: Family::V6, preshared: false },
    Row { begins: Kind::Kernel, answers: Kind::Laneway("2"), outside: Family::V4, preshared: false },
    Row { begins: Kind::Kernel, answers: Kind::Laneway("1"), outside: Family::V6, preshared: true },
];

const WITH_ITSELF: [Row; 2] = [
    Row { begins: Kind::Laneway("1"), answers: Kind::Laneway("1"), outside: Family::V4, preshared: false },
    Row { begins: Kind::Laneway("1"), answers: Kind::Laneway("3"), outside: Family::V6, preshared: true },
];

#[test]
fn laneway_and_wireguard_go_carry_everything_whichever_begins() {
    WITH_WIREGUARD_GO.iter().for_each(Row::run);
}

#[test]
fn laneway_and_boringtun_carry_everything_whichever_begins() {
    WITH_BORINGTUN.iter().for_each(Row::run);
}

#[test]
fn laneway_and_the_kernel_carry_everything_whichever_begins() {
    require_root!();
    if kernel::available() {
        WITH_THE_KERNEL.iter().for_each(Row::run);
    }
}

/// The initiator renews a session after two minutes.
#[test]
#[ignore = "takes over two minutes"]
fn laneway_and_the_kernel_renew_a_session_under_way() {
    require_root!();
    if !kernel::available() {
        return;
    }
    let watched = |row: &Row| {
        let tunnel = row.set_up();
        let (left, right) = (&tunnel.lab.left, &tunnel.lab.right);
        let ends = [(left, tunnel.left.device()), (right, tunnel.right.device())];
        let handshakes = || ends.map(|(side, device)| wg::peers(side, device)[0].latest_handshake);
        exercise(&tunnel.lab);
        let first = handshakes();
        let renewed = || handshakes().iter().zip(first).all(|(now, first)| *now > first);
        crate::support::wait_within(Duration::from_secs(180), "a new session", || {
            let through = [(left, 2), (right, 1)]
                .map(|(from, host)| crate::support::ping::answers(&from.namespace, Family::V4.inside(host)));
            assert_eq!(through, [true; 2], "{:?} to {:?}", row.begins, row.answers);
            renewed()
        });
        exercise(&tunnel.lab);
    };
    // Most of the time is spent waiting, so both run at once.
    thread::scope(|scope| {
        for row in [&WITH_THE_KERNEL[1], &WITH_THE_KERNEL[3]] {
            scope.spawn(move || watched(row));
        }
    });
}

#[test]
fn two_laneways_carry_everything() {
    WITH_ITSELF.iter().for_each(Row::run);
}

#[test]
fn peers_with_different_preshared_keys_exchange_nothing() {
    require_root!();
    let lab = lab();
    let (left, right) = (Kind::Laneway("1").start(&lab.left), Kind::WireGuardGo.start(&lab.right));
    let keys = [KeyPair::generate(&lab.left), KeyPair::generate(&lab.right)];
    let preshared = [KeyPair::generate(&lab.left).private, KeyPair::generate(&lab.left).private];
    let endpoint = Some(Family::V4.endpoint(&lab.right));
    let peer = |key, preshared, host| Setting { preshared: Some(preshared), ..Setting::new(key, host) };
    wg::set(&lab.left, left.device(), &keys[0], &Setting { endpoint, ..peer(&keys[1], &preshared[0], 2) });
    wg::set(&lab.right, right.device(), &keys[1], &peer(&keys[0], &preshared[1], 1));
    tunnel::address(&lab.left, left.device(), 1);
    tunnel::address(&lab.right, right.device(), 2);
    assert!(!crate::support::ping::answers(&lab.left.namespace, Family::V4.inside(2)));

    // With the same key on both sides they do, so the key was the cause.
    wg::set(&lab.left, left.device(), &keys[0], &Setting { endpoint, ..peer(&keys[1], &preshared[1], 2) });
    crate::support::wait_until("an echo", || {
        crate::support::ping::answers(&lab.left.namespace, Family::V4.inside(2))
    });
}

/// The running tunnel of a row.
struct Tunnel {
    left: Running,
    right: Running,
    lab: Lab,
}

impl Row {
    /// Sets the tunnel up and exercises it.
    fn run(&self) {
        require_root!();
        exercise(&self.set_up().lab);
    }

    /// Sets the tunnel up with `wg set`.
    fn set_up(&self) -> Tunnel {
        println!("{:?} begins with {:?} over {:?}", self.begins, self.answers, self.outside);
        let lab = lab();
        let (left, right) = (self.begins.start(&lab.left), self.answers.start(&lab.right));
        let keys = [KeyPair::generate(&lab.left), KeyPair::generate(&lab.right)];
        let secret = KeyPair::generate(&lab.left).private;
        let preshared = self.preshared.then_some(secret.as_str());
        let endpoint = Some(self.outside.endpoint(&lab.right));
        let to_left = Setting { preshared, ..Setting::new(&keys[0], 1) };
        let to_right = Setting { endpoint, preshared, ..Setting::new(&keys[1], 2) };
        // The responder is ready first, so that the first initiation is not lost.
        wg::set(&lab.right, right.device(), &keys[1], &to_left);
        tunnel::address(&lab.right, right.device(), 2);
        wg::set(&lab.left, left.device(), &keys[0], &to_right);
        tunnel::address(&lab.left, left.device(), 1);
        Tunnel { left, right, lab }
    }
}
