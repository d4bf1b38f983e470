//! Floods of handshake messages at 20,000 per second, or as fast as this machine sends them. Live traffic
//! continues, the cost of a flood is bounded, and peers can still handshake. `cargo bench --bench flood` measures
//! the cost.

use laneway::wireguard::settings::LoadLimits;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Instant;

use crate::support::flood::{Flood, RATE, target};
use crate::support::metrics::total;
use crate::support::router;
use crate::support::tunnel::Family;
use crate::support::{DEADLINE, Finally, bulk, lab, ping::answers, require_root, wait_until, wait_within};
use laneway::cli::demo::lab::{Lab, Side};
use laneway::config::update::DeviceUpdate;
use laneway::router::start::Router;
use laneway::uapi::Device as _;
use laneway::wireguard::keys::PublicKey;
use laneway::wireguard::timers::REKEY_AFTER_TIME;

/// The number of dropped messages after which a flood counts as begun. The router is under load before that.
const BEGUN: u64 = RATE / 4;

/// Starts two routers that carry traffic, and returns them with the key of the right one, the victim.
fn tunnel() -> (Lab, [Router; 2], PublicKey) {
    let lab = lab();
    Flood::prepare(&lab.left, &lab.right);
    let keys = [router::key(), router::key()];
    // The right one only responds, so that the number of handshakes is known.
    let routers = router::pair_of(&lab, Family::V4, &keys, |own, config| {
        if own == 1 {
            config.update.peers[0].endpoint = None;
        }
    });
    wait_until("an echo", || answers(&lab.left.namespace, Family::V4.inside(2)));
    wait_until("the handshake to be counted", || handshakes(&routers[1]) == 1);
    (lab, routers, keys[1].public_key())
}

/// Returns the number of handshakes that the router has completed as responder.
fn handshakes(router: &Router) -> u64 {
    total(router, "laneway_handshakes_total", &[("role", "responder"), ("result", "done")])
}

fn refused(router: &Router, reason: &str) -> u64 {
    total(router, "laneway_handshake_messages_dropped_total", &[("reason", reason)])
}

/// Floods the right side during `scene`, which begins after a quarter of a second's worth of messages has been
/// dropped.
fn under_flood<T>(
    flood: Flood,
    from: &Side,
    lab: &Lab,
    victim: &PublicKey,
    router: &Router,
    scene: impl FnOnce() -> T,
) -> T {
    let over = AtomicBool::new(false);
    let all = || total(router, "laneway_handshake_messages_dropped_total", &[]);
    let before = all();
    thread::scope(|scope| {
        scope.spawn(|| flood.run(from, target(&lab.right), victim, &over));
        let _end = Finally(&over);
        wait_until("the flood", || all() > before + BEGUN);
        scene()
    })
}

#[test]
fn a_flood_costs_bounded_work_and_leaves_live_traffic_alone() {
    require_root!();
    let (lab, routers, victim) = tunnel();
    let right = &routers[1];
    let start = Instant::now();
    for flood in Flood::ALL {
        under_flood(flood, &lab.left, &lab, &victim, right, || {
            bulk(&lab.left, &lab.right, Family::V4.inside(2), 2, 16 << 20);
            bulk(&lab.right, &lab.left, Family::V6.inside(1), 2, 16 << 20);
        });
    }
    let renewals = start.elapsed().as_secs() / REKEY_AFTER_TIME.as_secs();
    assert!(handshakes(right) <= 1 + renewals, "there were handshakes other than renewals");
    assert!(refused(right, "mac1") >= BEGUN, "too few messages with a wrong mac1 were dropped");
    assert!(refused(right, "cookie_demanded") >= BEGUN, "too few messages without a cookie were dropped");
    // A pause between two floods ends the load, so the rate limits may start afresh each second.
    let agreed = refused(right, "unknown_peer");
    let bound = u64::from(LoadLimits::default().begins_over) * (start.elapsed().as_secs() + 2);
    assert!(
        agreed > 0 && agreed <= bound,
        "{agreed} unknown initiators cost a key agreement; the bound is {bound}"
    );
}

#[test]
fn a_peer_gets_in_during_a_flood_with_the_cookie_that_it_is_given() {
    require_root!();
    let (lab, routers, victim) = tunnel();
    let right = &routers[1];
    under_flood(Flood::ManySources, &lab.left, &lab, &victim, right, || {
        // Removing and restoring the key makes the left router forget its sessions.
        let key = routers[0].device().status().expect("it runs").private_key;
        for private_key in [None, key] {
            let update = DeviceUpdate { private_key: Some(private_key), ..DeviceUpdate::default() };
            routers[0].device().apply(update).expect("a key");
        }
        // A cookie is used in the next initiation, 5 s after the first, and each message may be lost.
        wait_within(3 * DEADLINE, "an echo", || answers(&lab.left.namespace, Family::V4.inside(2)));
    });
    wait_until("the handshake to be counted", || handshakes(right) >= 2);
}

#[test]
fn what_was_configured_during_a_flood_holds() {
    require_root!();
    let (lab, routers, victim) = tunnel();
    let right = &routers[1];
    under_flood(Flood::Strangers, &lab.left, &lab, &victim, right, || {
        for round in 1..=20_u16 {
            // A new port each time: the old one is only free once its worker has closed it.
            let update = DeviceUpdate {
                listen_port: Some(52_000 + round),
                fwmark: Some(u32::from(round)),
                ..DeviceUpdate::default()
            };
            right.device().apply(update).expect("the order gets through");
        }
    });
    let status = right.device().status().expect("it runs");
    assert_eq!((status.listen_port, status.fwmark), (52_020, 20));
    // The left one learns the new port from the first packet.
    wait_until("an echo", || answers(&lab.right.namespace, Family::V4.inside(1)));
}
