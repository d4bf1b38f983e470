//! Floods of handshake messages: 20,000 a second, as far as this machine sends them. Live traffic goes on, what
//! the flood may cost is bounded, and who has a right to get in gets in. `cargo bench --bench flood` measures what
//! it costs.

mod support;

use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Instant;

use laneway::cli::demo::lab::{Lab, Side};
use laneway::config::update::DeviceUpdate;
use laneway::router::start::Router;
use laneway::uapi::Device as _;
use laneway::wireguard::keys::PublicKey;
use laneway::wireguard::limiter::LoadLimits;
use laneway::wireguard::timers::REKEY_AFTER_TIME;
use support::flood::{Flood, RATE, target};
use support::router::{self, total};
use support::tunnel::Family;
use support::{DEADLINE, Finally, bulk, lab, ping::answers, require_root, wait_until, wait_within};

/// Messages of a flood that have been dropped when it counts as begun. Load begins before that.
const BEGUN: u64 = RATE / 4;

/// Two routers that carry traffic, and the key of the right one, which is flooded.
fn tunnel() -> (Lab, [Router; 2], PublicKey) {
    let lab = lab();
    Flood::prepare(&lab.left, &lab.right);
    let keys = [router::key(), router::key()];
    // The right one only answers, so that the number of handshakes is known.
    let routers = router::pair_of(&lab, Family::V4, &keys, |own, config| {
        if own == 1 {
            config.update.peers[0].endpoint = None;
        }
    });
    wait_until("an echo", || answers(&lab.left.namespace, Family::V4.inside(2)));
    wait_until("the handshake to be counted", || handshakes(&routers[1]) == 1);
    (lab, routers, keys[1].public_key())
}

/// Handshakes that the router has answered to the end.
fn handshakes(router: &Router) -> u64 {
    total(router, "laneway_handshakes_total", &["role=\"responder\"", "result=\"done\""])
}

fn refused(router: &Router, reason: &str) -> u64 {
    let label = format!("reason=\"{reason}\"");
    total(router, "laneway_handshake_messages_dropped_total", &[&label])
}

/// Floods the right side while `scene` plays, and before, until a quarter of a second's worth has been dropped.
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
fn live_traffic_goes_on_and_the_work_for_strangers_is_bounded() {
    if !require_root() {
        return;
    }
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
    assert!(
        handshakes(right) <= 1 + renewals,
        "the session went on, and there was no other but for renewals"
    );
    assert!(refused(right, "mac1") >= BEGUN, "a wrong MAC costs no key agreement");
    assert!(refused(right, "cookie_demanded") >= BEGUN, "and without a cookie there is none");
    // A pause between two floods ends the load, so each second may begin anew.
    let agreed = refused(right, "unknown_peer");
    let bound = u64::from(LoadLimits::default().begins_over) * (start.elapsed().as_secs() + 2);
    assert!(agreed > 0 && agreed <= bound, "{agreed} strangers were listened to, at most {bound} may be");
}

#[test]
fn a_peer_gets_in_during_a_flood_with_the_cookie_that_it_is_given() {
    if !require_root() {
        return;
    }
    let (lab, routers, victim) = tunnel();
    let right = &routers[1];
    under_flood(Flood::ManySources, &lab.left, &lab, &victim, right, || {
        // The left one forgets its sessions: a key is taken away and given back.
        let key = routers[0].device().status().expect("it runs").private_key;
        for private_key in [None, key] {
            let update = DeviceUpdate { private_key: Some(private_key), ..DeviceUpdate::default() };
            routers[0].device().apply(update).expect("a key");
        }
        // A cookie is used with the next initiation, 5 s after the first, and each message may get lost.
        wait_within(3 * DEADLINE, "an echo", || answers(&lab.left.namespace, Family::V4.inside(2)));
    });
    wait_until("the handshake to be counted", || handshakes(right) >= 2);
}

#[test]
fn what_was_configured_during_a_flood_holds() {
    if !require_root() {
        return;
    }
    let (lab, routers, victim) = tunnel();
    let right = &routers[1];
    under_flood(Flood::Strangers, &lab.left, &lab, &victim, right, || {
        for round in 1..=20_u16 {
            // A new port each time: the old one is free when its worker has let go of it.
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
    // The left one learns the port from the first packet.
    wait_until("an echo", || answers(&lab.right.namespace, Family::V4.inside(1)));
}
