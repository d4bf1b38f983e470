//! A path MTU that has grown is used again once the limit recorded for it expires.
//!
//! A limit lasts five minutes (these routers do not watch the network: `netns` covers a link that is widened). The test
//! does not wait: it replaces `clock_gettime` for the whole process, which is why it has its own test binary, and advances
//! the clock under two running routers.

#[path = "support/clock_ahead.rs"]
mod clock_ahead;
mod support;

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use clock_ahead::AHEAD;
use laneway::cli::demo::lab::{CABLE, Lab};
use laneway::clock;
use laneway::lane::path_limit::HOLDS;
use support::metrics::total;
use support::network::{ip, probe};
use support::router;
use support::tunnel::Family;
use support::{bulk, lab, require_root, wait_until};

/// The payload in bytes of a datagram that fits the tunnel's MTU but not a path MTU of 1,280 bytes.
const PAYLOAD: usize = 1300;

#[test]
fn a_path_that_has_grown_again_is_used_again_after_its_limit_has_aged() {
    require_root!();
    let lab = lab();
    let routers = router::pair(&lab, Family::V4);
    cable_mtu(&lab, 1280);
    bulk(&lab.left, &lab.right, Family::V4.inside(2), 1, 4 << 20);
    wait_until("the path to be too narrow", || {
        total(&routers[0], "laneway_rejects_total", &[("kind", "too_big")]) > 0
    });

    cable_mtu(&lab, 1500);
    let (from, to) = (probe(&lab.left, Family::V4.inside(1)), probe(&lab.right, Family::V4.inside(2)));
    from.connect(to.local_addr().unwrap()).unwrap();
    for _ in 0..3 {
        from.send(&[1; PAYLOAD]).unwrap();
        let refused = from.recv(&mut [0; PAYLOAD]).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EMSGSIZE), "the path limit should still hold");
    }

    let before = clock::now();
    AHEAD.store(HOLDS.as_secs().cast_signed(), Relaxed);
    assert!(clock::now().since(before) >= HOLDS, "clock_gettime was not replaced");
    // The session has expired with the limit, so the first datagrams wait for a handshake; and a worker may still
    // be in a turn that read the clock earlier.
    to.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    wait_until("a datagram that the path now takes", || {
        let mut datagram = [0; PAYLOAD];
        let crossed = from.send(&[2; PAYLOAD]).and_then(|_| to.recv(&mut datagram));
        crossed.is_ok_and(|len| datagram[..len] == [2; PAYLOAD])
    });
}

fn cable_mtu(lab: &Lab, mtu: u32) {
    for side in [&lab.left, &lab.right] {
        ip(side, &format!("link set {CABLE} mtu {mtu}"));
    }
}
