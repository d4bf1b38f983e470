//! A peer behind a NAT router.

use std::thread;
use std::time::Duration;

use laneway::cli::demo::lab::Side;

use super::{Tunnel, endpoint_of_peer, others, reaches};
use crate::support::implementation::Kind;
use crate::support::network::{cable, host, ip, sysctl};
use crate::support::ping::answers;
use crate::support::process::attempt;
use crate::support::tunnel::Family;
use crate::support::{require_root, skip, wait_until, wg};

/// A home host, its NAT router with short timeouts, and a host on the internet.
///
/// ```text
///   host 192.168.7.2 ── 192.168.7.1 router 192.0.2.1 ── 192.0.2.2 world
/// ```
struct Home {
    host: Side,
    router: Side,
    world: Side,
}

/// Seconds of silence after which the router drops a mapping.
const FORGETS_AFTER: u64 = 2;

impl Home {
    /// Returns `None`, and reports the test as skipped, if the kernel has no NAT.
    fn new() -> Option<Home> {
        let inside = host([192, 168, 7, 2], "::");
        let router = host([192, 0, 2, 1], "::");
        let world = host([192, 0, 2, 2], "::");
        cable((&inside, "lan", &["192.168.7.2/24"]), (&router, "lan", &["192.168.7.1/24"]));
        cable((&router, "wan", &["192.0.2.1/24"]), (&world, "wan", &["192.0.2.2/24"]));
        ip(&inside, "route add default via 192.168.7.1");
        sysctl(&router, "ipv4/ip_forward", "1");
        let rules = "table ip home { chain leaving { type nat hook postrouting priority 100; \
                     oifname \"wan\" masquerade; }; }";
        if let Err(said) = attempt(&router.namespace, &["nft", "-f", "-"], rules) {
            skip::report(format_args!("this kernel has no NAT: {said}"));
            return None;
        }
        for name in ["nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"] {
            sysctl(&router, &format!("netfilter/{name}"), &FORGETS_AFTER.to_string());
        }
        Some(Home { host: inside, router, world })
    }

    /// Sleeps until every idle mapping has expired.
    fn be_silent() {
        thread::sleep(Duration::from_secs(2 * FORGETS_AFTER));
    }
}

#[test]
fn a_persistent_keepalive_keeps_the_way_home_open_and_without_it_it_closes() {
    require_root!();
    // Most of the time is spent waiting, so all run at once.
    thread::scope(|scope| {
        for other in others() {
            scope.spawn(move || keeps_the_way_home_open(other));
        }
    });
}

fn keeps_the_way_home_open(other: Kind) {
    let Some(net) = Home::new() else { return };
    let tunnel = Tunnel::new(&net.host, &net.world, other, "192.0.2.2:51820");
    reaches(&net.host, 2);
    let seen = endpoint_of_peer(&net.world, tunnel.right.device());
    assert!(seen.starts_with("192.0.2.1:"), "{seen} is not the router");
    let hears = || answers(&net.world.namespace, Family::V4.inside(1));
    wait_until("the way back", hears);
    Home::be_silent();
    assert!(!hears(), "the NAT mapping did not expire");

    tunnel.tell_left(&net.host, &["persistent-keepalive", "1"]);
    wait_until("the way back", hears);
    Home::be_silent();
    // On a busy machine a late keepalive may close it for a moment.
    wait_until("the way back", hears);
}

#[test]
fn a_peer_is_found_again_when_the_router_before_it_gets_another_address() {
    require_root!();
    let Some(net) = Home::new() else { return };
    for other in others() {
        let tunnel = Tunnel::new(&net.host, &net.world, other, "192.0.2.2:51820");
        tunnel.tell_left(&net.host, &["persistent-keepalive", "1"]);
        reaches(&net.host, 2);
        let handshake = wg::peers(&net.host, tunnel.left.device())[0].latest_handshake;
        for (new, old) in [("192.0.2.9", "192.0.2.1"), ("192.0.2.1", "192.0.2.9")] {
            ip(&net.router, &format!("address del {old}/24 dev wan"));
            ip(&net.router, &format!("address add {new}/24 dev wan"));
            let (world, device) = (&net.world, tunnel.right.device());
            wait_until("the new address", || endpoint_of_peer(world, device).starts_with(new));
            wait_until("an echo", || answers(&net.world.namespace, Family::V4.inside(1)));
        }
        let peer = &wg::peers(&net.host, tunnel.left.device())[0];
        assert_eq!(peer.latest_handshake, handshake, "the session was replaced");
    }
}
