//! Peers that come and go while other workers than the one that reads seal and open for them.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use laneway::cli::demo::lab::Side;
use laneway::clock;
use laneway::config::update::{DeviceUpdate, PeerEndpoint, PeerUpdate};
use laneway::config::{Queues, Sharing};
use laneway::router::start::Router;
use laneway::uapi::Device as _;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{RcvBufForce, UdpGsoSegment};

use crate::support::metrics::total;
use crate::support::router::{self, key, peer};
use crate::support::tunnel::Family;
use crate::support::{Finally, lab, require_root, wait_until};

/// How often the peer is removed.
const REMOVALS: u32 = 8;

/// Superpackets of a burst, and their datagrams: large enough to be shared.
const BURST: usize = 6;
const DATAGRAMS: usize = 40;
const SIZE: usize = 1200;

/// Superpackets that may be on their way in one direction.
const IN_FLIGHT: u64 = 4 * BURST as u64;

/// One-way datagrams, each with the number of the removal that came before it.
struct Flow {
    sender: UdpSocket,
    receiver: UdpSocket,
    sent: AtomicU64,
    arrived: AtomicU64,
    /// The highest number that has arrived.
    newest: AtomicU32,
}

impl Flow {
    fn new(from: (&Side, u8), to: (&Side, u8)) -> Self {
        let bind = |(side, host): (&Side, u8)| {
            let socket = side.namespace.run(|| UdpSocket::bind((Family::V4.inside(host), 0)));
            socket.expect("enter a namespace").expect("bind")
        };
        let (sender, receiver) = (bind(from), bind(to));
        setsockopt(&receiver, RcvBufForce, &(64 << 20)).expect("a buffer");
        setsockopt(&sender, UdpGsoSegment, &i32::try_from(SIZE).expect("small")).expect("UDP GSO");
        receiver.set_read_timeout(Some(Duration::from_millis(20))).expect("a limit");
        sender.connect(receiver.local_addr().expect("bound")).expect("connect");
        let [sent, arrived] = Default::default();
        Flow { sender, receiver, sent, arrived, newest: AtomicU32::new(0) }
    }

    /// Sends bursts until `over`. Datagrams that do not arrive are given up.
    fn send(&self, removals: &AtomicU32, over: &AtomicBool) {
        while !over.load(SeqCst) {
            for _ in 0..BURST {
                let number = removals.load(SeqCst).to_be_bytes();
                let superpacket: Vec<u8> =
                    (0..DATAGRAMS).flat_map(|_| number.into_iter().chain([0; SIZE - 4])).collect();
                // Refused only by an error of an earlier datagram.
                if self.sender.send(&superpacket).is_ok() {
                    self.sent.fetch_add(DATAGRAMS as u64, SeqCst);
                }
            }
            let missing = || self.sent.load(SeqCst).saturating_sub(self.arrived.load(SeqCst));
            let mut looks = 0;
            while missing() > IN_FLIGHT * DATAGRAMS as u64 {
                looks += 1;
                if looks > 20 {
                    self.sent.store(self.arrived.load(SeqCst), SeqCst);
                }
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    /// Receives until `over`. No datagram that was sent after a removal may arrive while the peer is `gone`.
    fn receive(&self, gone: &AtomicU32, over: &AtomicBool) {
        let mut datagram = [0; SIZE];
        while !over.load(SeqCst) {
            let Ok(len) = self.receiver.recv(&mut datagram) else { continue };
            assert_eq!(len, SIZE);
            let number = u32::from_be_bytes(datagram[..4].try_into().expect("four bytes"));
            assert!(number == 0 || gone.load(SeqCst) != number, "delivered after removal {number}");
            self.arrived.fetch_add(1, SeqCst);
            self.newest.fetch_max(number, SeqCst);
        }
    }
}

#[test]
fn a_peer_is_removed_while_its_batches_are_with_other_workers() {
    require_root!();
    let (lab, keys) = (lab(), [key(), key()]);
    let [left, right] = router::pair_of(&lab, Family::V4, &keys, |_, config| {
        config.queues = Queues::Fixed(3);
        config.share = Sharing::On;
    });
    let (known, stranger) = (keys[1].public_key(), key().public_key());
    let allowed = format!("{}/32", Family::V4.inside(2));
    let at = |key| {
        let endpoint = Some(PeerEndpoint::Address(Family::V4.endpoint(&lab.right)));
        PeerUpdate { endpoint, ..peer(key, &[&allowed]) }
    };
    let apply = |peers| {
        left.device().apply(DeviceUpdate { peers, ..DeviceUpdate::default() }).expect("the router runs");
    };
    let gone_is = |key| PeerUpdate { remove: true, ..PeerUpdate::new(key) };

    let flows = [Flow::new((&lab.left, 1), (&lab.right, 2)), Flow::new((&lab.right, 2), (&lab.left, 1))];
    // The number of removals applied, and that of the one in force (0: none).
    let [removals, gone] = [(); 2].map(|()| AtomicU32::new(0));
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let finally = Finally(&over);
        for flow in &flows {
            scope.spawn(|| flow.send(&removals, &over));
            scope.spawn(|| flow.receive(&gone, &over));
        }
        for number in 1..=REMOVALS {
            let before = jobs_by_helpers(&left);
            wait_until("helpers", || jobs_by_helpers(&left) > before);
            // A stranger inherits the prefix, so that packets are still routed and wait for it.
            apply(vec![gone_is(known), at(stranger)]);
            wait_for_turns(&left);
            gone.store(number, SeqCst);
            removals.store(number, SeqCst);
            thread::sleep(Duration::from_millis(10));
            gone.store(0, SeqCst);
            apply(vec![gone_is(stranger), at(known)]);
            wait_until("packets of the peer that is back", || {
                flows.iter().all(|flow| flow.newest.load(SeqCst) == number)
            });
        }
        drop(finally);
    });
    for router in [&left, &right] {
        assert_eq!(total(router, "laneway_worker_restarts_total", &[]), 0);
        wait_until("all batches to return", || router.threads().custody().audit());
        assert_eq!(router.threads().custody().missing(), [""; 0]);
    }
    for router in [left, right] {
        router.stop().expect("a clean stop");
    }
}

/// Waits until every worker has begun a turn, for which it takes the current peers.
fn wait_for_turns(router: &Router) {
    router.threads().call(clock::now());
    wait_until("a turn of every worker", || router.threads().silent(clock::now()).is_empty());
}

fn jobs_by_helpers(router: &Router) -> u64 {
    total(router, "laneway_jobs_total", &[("by", "helper")])
}
