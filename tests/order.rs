//! Order: what one socket sends arrives in the order it was sent, however many lanes carry it and however short
//! their inboxes are.
//!
//! UDP shows it, for TCP would put right what came in the wrong order. Datagrams may get lost here, and do: the
//! senders are faster than the tunnel, so every inbox runs full, which is when order is in danger. Each flow goes
//! one way only. That is on purpose: the kernel sends a flow to the TUN queue on which its opposite direction was
//! last written (`tun_flow_update` in Linux's `drivers/net/tun.c`), so the first answer of a two-way flow can move
//! it to another queue, and to another lane, while its first packets are still on their way. That one change of
//! lane is the kernel's choice and not in our hands.

mod support;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::Range;
use std::thread;
use std::time::Duration;

use laneway::cli::demo::lab::{Lab, Side};
use laneway::control::config::Queues;
use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};
use support::ping::ping;
use support::tunnel::Family;
use support::{DEADLINE, bulk, lab, require_root, routers};

/// Datagrams of each flow.
const NUMBERS: Range<u32> = 0..20_000;

/// Flows from each side over each protocol.
const FLOWS: usize = 3;

/// Payload bytes of a datagram when the kernel is given many at once (`UDP_SEGMENT`).
const GSO_SIZE: usize = 1200;

/// Datagrams that a sender sends in one go. Then it rests for [`PAUSE`]: a full TUN queue drops at once and costs
/// its senders nothing, so without a pause a flow would be over before the tunnel has seen any of it.
const BURST: u32 = 32;

/// How long a sender rests after each burst. All of them together are still faster than the tunnel.
const PAUSE: Duration = Duration::from_millis(1);

/// A receiver that hears nothing more for this long has heard everything.
const SILENCE: Duration = Duration::from_secs(2);

#[test]
fn every_flow_arrives_in_order_with_one_lane_whatever_its_inboxes_hold() {
    for depth in [Some(1), Some(2), None] {
        flows_cross_in_order(1, depth);
    }
}

#[test]
fn every_flow_arrives_in_order_with_three_lanes_whatever_their_inboxes_hold() {
    for depth in [Some(1), Some(2), None] {
        flows_cross_in_order(3, depth);
    }
}

/// Sends all flows at once, with TCP among them, through routers of so many lanes.
fn flows_cross_in_order(lanes: usize, inbox_depth: Option<usize>) {
    if !require_root() {
        return;
    }
    let lab = lab();
    let _routers = routers::start(&lab, |config| {
        config.queues = Queues::Fixed(lanes);
        config.inbox_depth = inbox_depth;
    });
    // The handshake is done and both protocols cross before the flood begins.
    for inside in Family::ALL {
        ping(&lab.left.namespace, inside.inside(2));
    }

    thread::scope(|scope| {
        for inside in Family::ALL {
            for (from, to, host) in [(&lab.left, &lab.right, 2), (&lab.right, &lab.left, 1)] {
                for flow in 0..FLOWS {
                    let (sender, receiver) = sockets(from, to, inside.inside(host));
                    let gso = flow == 0;
                    scope.spawn(move || send(&sender, gso));
                    scope.spawn(move || {
                        let arrived = receive(&receiver);
                        let what =
                            format!("flow {flow} ({inside:?}), {lanes} lanes, inboxes {inbox_depth:?}");
                        assert_in_order(&arrived, &what);
                    });
                }
            }
        }
        tcp_crosses(&lab);
    });
}

fn tcp_crosses(lab: &Lab) {
    bulk(&lab.left, &lab.right, Family::V4.inside(2), 2, 4 << 20);
    bulk(&lab.right, &lab.left, Family::V6.inside(1), 2, 4 << 20);
}

/// A connected sender on one side, and its receiver at `address` on the other.
fn sockets(from: &Side, to: &Side, address: IpAddr) -> (UdpSocket, UdpSocket) {
    let bind = |side: &Side, address: SocketAddr| {
        side.namespace.run(|| UdpSocket::bind(address)).expect("enter a namespace").expect("bind")
    };
    let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let (sender, receiver) = (bind(from, (any, 0).into()), bind(to, (address, 0).into()));
    sender.connect(receiver.local_addr().expect("bound")).expect("connect");
    // The first datagram waits behind a full TUN queue, on a machine that may have other work.
    receiver.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    (sender, receiver)
}

/// Sends the numbers, each in a datagram of its own: with `gso` all equal and a burst in one call, otherwise one by
/// one, with lengths that change all the time.
fn send(socket: &UdpSocket, gso: bool) {
    if gso {
        setsockopt(socket, UdpGsoSegment, &i32::try_from(GSO_SIZE).expect("a datagram's size"))
            .expect("UDP GSO");
    }
    for first in NUMBERS.step_by(BURST as usize) {
        let burst = first..first + BURST;
        if gso {
            let datagrams: Vec<u8> = burst.flat_map(|number| datagram(number, GSO_SIZE)).collect();
            socket.send(&datagrams).expect("send");
        } else {
            for number in burst {
                socket.send(&datagram(number, 4 + number as usize * 7 % 1300)).expect("send");
            }
        }
        thread::sleep(PAUSE);
    }
}

fn datagram(number: u32, len: usize) -> Vec<u8> {
    let mut datagram = vec![0; len];
    datagram[..4].copy_from_slice(&number.to_be_bytes());
    datagram
}

/// The numbers that arrive, until none comes any more.
fn receive(socket: &UdpSocket) -> Vec<u32> {
    let mut arrived = Vec::new();
    let mut buffer = [0; 2048];
    while let Ok(len) = socket.recv(&mut buffer) {
        assert!(len >= 4, "a datagram was cut short");
        if arrived.is_empty() {
            socket.set_read_timeout(Some(SILENCE)).expect("a timeout");
        }
        arrived.push(u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]));
    }
    arrived
}

fn assert_in_order(arrived: &[u32], what: &str) {
    let early = arrived.windows(2).find(|pair| pair[0] >= pair[1]);
    assert_eq!(early, None, "{what}: the second one should have come before the first");
    // A flow that hardly arrives proves nothing.
    assert!(arrived.len() > 100, "{what}: only {} datagrams arrived", arrived.len());
}
