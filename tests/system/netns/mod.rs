//! Real-world networks: hosts behind NAT, with two paths, with a default route through the tunnel, with narrow and
//! wide links. The topics are those of the kernel's own WireGuard test
//! (`tools/testing/selftests/wireguard/netns.sh`), as far as a userspace implementation can run them and other
//! tests do not cover them: `interop` (families, preshared keys), `uapi` (ports, prefixes that move), `rejects`
//! (paths that narrow), `abuse` (peers that move), `faults` (kills and restarts).

mod failover;
mod links;
mod routing;
mod translation;

use crate::support::implementation::{Kind, Running};
use crate::support::kernel;
use crate::support::ping::answers;
use crate::support::process::{attempt, output};
use crate::support::tunnel::{self, Family};
use crate::support::wg::{self, KeyPair, Setting};
use crate::support::{lab, require_root, wait_until};
use laneway::cli::demo::lab::{Lab, Side};

/// Returns the implementations at the other end.
fn others() -> Vec<Kind> {
    [mobile(), vec![Kind::BoringTun]].concat()
}

/// Like [`others`] without boringtun, which neither answers from the address it was asked at nor changes its port
/// at run time.
fn mobile() -> Vec<Kind> {
    let kernel = kernel::available().then_some(Kind::Kernel);
    [Kind::Laneway("1"), Kind::WireGuardGo].into_iter().chain(kernel).collect()
}

/// A Laneway at `left` and another implementation at `right`, each the other's peer. The left one initiates.
struct Tunnel {
    left: Running,
    right: Running,
    keys: [KeyPair; 2],
}

impl Tunnel {
    fn new(left: &Side, right: &Side, other: Kind, endpoint: &str) -> Tunnel {
        println!("with {other:?}");
        let tunnel = Tunnel {
            left: Kind::Laneway("2").start(left),
            right: other.start(right),
            keys: [KeyPair::generate(left), KeyPair::generate(right)],
        };
        wg::set(right, tunnel.right.device(), &tunnel.keys[1], &Setting::new(&tunnel.keys[0], 1));
        tunnel::address(right, tunnel.right.device(), 2);
        wg::set(left, tunnel.left.device(), &tunnel.keys[0], &Setting::new(&tunnel.keys[1], 2));
        tunnel.tell_left(left, &["endpoint", endpoint]);
        tunnel::address(left, tunnel.left.device(), 1);
        tunnel
    }

    /// Creates a Laneway on the left of `lab` and an `other` on the right, and waits until echoes return.
    fn up(lab: &Lab, other: Kind) -> Self {
        let endpoint = Family::V4.endpoint(&lab.right).to_string();
        let tunnel = Tunnel::new(&lab.left, &lab.right, other, &endpoint);
        reaches(&lab.left, 2);
        tunnel
    }

    /// Runs `wg set` for the peer of the left one.
    fn tell_left(&self, side: &Side, words: &[&str]) {
        let start = ["wg", "set", self.left.device(), "peer", &self.keys[1].public];
        output(&side.namespace, &[&start[..], words].concat(), "");
    }

    /// Runs `wg set` for the peer of the right one.
    fn tell_right(&self, side: &Side, words: &[&str]) {
        let start = ["wg", "set", self.right.device(), "peer", &self.keys[0].public];
        output(&side.namespace, &[&start[..], words].concat(), "");
    }
}

/// Waits until echoes return over both IP versions.
fn reaches(from: &Side, host: u8) {
    for family in Family::ALL {
        wait_until("an echo", || answers(&from.namespace, family.inside(host)));
    }
}

fn endpoint_of_peer(side: &Side, device: &str) -> String {
    wg::peers(side, device).remove(0).endpoint
}

#[test]
fn a_new_private_key_and_a_peer_that_is_oneself() {
    require_root!();
    for other in others() {
        let lab = lab();
        let tunnel = Tunnel::up(&lab, other);
        let (left, right) = (tunnel.left.device(), tunnel.right.device());
        let new = KeyPair::generate(&lab.left);
        output(&lab.left.namespace, &["wg", "set", left, "private-key", "/dev/stdin"], &new.private);
        assert!(
            !answers(&lab.left.namespace, Family::V4.inside(2)),
            "the peer does not know the new key yet"
        );
        let allowed = tunnel::allowed_ips(1);
        output(&lab.right.namespace, &["wg", "set", right, "peer", &new.public, "allowed-ips", &allowed], "");
        reaches(&lab.left, 2);

        // A device that takes the key of a peer loses that peer, and a device is never its own peer.
        let words = ["wg", "set", left, "private-key", "/dev/stdin"];
        output(&lab.left.namespace, &words, &tunnel.keys[1].private);
        assert_eq!(wg::peers(&lab.left, left).len(), 0);
        let own = &tunnel.keys[1].public;
        let _ = attempt(&lab.left.namespace, &["wg", "set", left, "peer", own], "");
        assert_eq!(wg::peers(&lab.left, left).len(), 0);
    }
}
