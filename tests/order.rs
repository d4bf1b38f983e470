//! Order: what one socket sends arrives in the order it was sent, however many lanes carry it and however short
//! their inboxes are.
//!
//! UDP shows it, for TCP would put right what came in the wrong order. Datagrams may get lost here: together the
//! flows have more on their way than short inboxes hold, which is when order is in danger. Each flow goes one way
//! only. That is on purpose: the kernel sends a flow to the TUN queue on which its opposite direction was
//! last written (`tun_flow_update` in Linux's `drivers/net/tun.c`), so the first answer of a two-way flow can move
//! it to another queue, and to another lane, while its first packets are still on their way. That one change of
//! lane is the kernel's choice and not in our hands.

mod support;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use laneway::cli::demo::lab::{Lab, Side};
use laneway::config::{Queues, SpreadPorts};
use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};
use support::ping::answers;
use support::router::total;
use support::tunnel::Family;
use support::{DEADLINE, bulk, lab, require_root, routers, wait_until};

/// How many datagrams of each flow have to arrive before its sender stops. A flow that hardly arrives proves
/// nothing, and how many have to be sent for it depends on how busy the machine is.
const ENOUGH: usize = 5_000;

/// Flows from each side over each protocol.
const FLOWS: usize = 3;

/// Payload bytes of a datagram when the kernel is given many at once (`UDP_SEGMENT`).
const GSO_SIZE: usize = 1200;

/// Datagrams that a sender sends in one go: all flows together have more on their way than short inboxes hold, and
/// less than starves TCP for good.
const BURST: usize = 48;

/// Datagrams in one go where lone ones are to find sleeping workers, and others are to come right behind them.
const CHANGING: [usize; 8] = [1, 1, 2, 1, BURST, 1, 3, 7];

/// How long a sender waits for a burst to arrive before it takes the rest for lost.
const PATIENCE: Duration = Duration::from_millis(20);

/// How often a receiver looks whether its sender is done. One that hears nothing for so long after that has heard
/// everything.
const SILENCE: Duration = Duration::from_millis(500);

#[test]
fn every_flow_arrives_in_order_with_one_lane_whatever_its_inboxes_hold() {
    for depth in [Some(1), Some(2), None] {
        flows_cross_in_order(1, depth, &SpreadPorts::Off);
    }
}

#[test]
fn every_flow_arrives_in_order_with_three_lanes_whatever_their_inboxes_hold() {
    for depth in [Some(1), Some(2), None] {
        flows_cross_in_order(3, depth, &SpreadPorts::Off);
    }
}

#[test]
fn every_flow_arrives_in_order_with_three_lanes_that_have_ports_of_their_own() {
    flows_cross_in_order(3, None, &SpreadPorts::All);
}

#[test]
fn lone_packets_that_take_a_shortcut_and_bursts_between_them_arrive_in_order() {
    for lanes in [1, 3] {
        lone_packets_and_bursts_stay_in_order(lanes);
    }
}

/// Sends one flow at a time, so that workers sleep between bursts.
fn lone_packets_and_bursts_stay_in_order(lanes: usize) {
    if !require_root() {
        return;
    }
    let lab = lab();
    let routers = routers::start(&lab, |config| config.queues = Queues::Fixed(lanes));
    let taken = |router: usize, direction: &str| {
        let direction = format!("direction=\"{direction}\"");
        total(&routers[router], "laneway_shortcuts_total", &[&direction])
    };
    for inside in Family::ALL {
        wait_until("an echo", || answers(&lab.left.namespace, inside.inside(2)));
        let before = (taken(0, "outbound"), taken(1, "inbound"));
        let flow = Flow::new(&lab.left, &lab.right, inside.inside(2));
        thread::scope(|scope| {
            scope.spawn(|| flow.send(Style::Changing));
            flow.receive(&format!("{inside:?}, {lanes} lanes"));
        });
        assert!(taken(0, "outbound") > before.0 && taken(1, "inbound") > before.1, "none took a shortcut");
    }
}

/// Sends all flows at once, with TCP among them, through routers of so many lanes.
fn flows_cross_in_order(lanes: usize, inbox_depth: Option<usize>, spread_ports: &SpreadPorts) {
    if !require_root() {
        return;
    }
    let lab = lab();
    let _routers = routers::start(&lab, |config| {
        config.queues = Queues::Fixed(lanes);
        config.inbox_depth = inbox_depth;
        config.spread_ports = spread_ports.clone();
    });
    // The handshake is done and both protocols cross before the flood begins.
    for inside in Family::ALL {
        wait_until("an echo", || answers(&lab.left.namespace, inside.inside(2)));
    }

    let mut flows = Vec::new();
    for inside in Family::ALL {
        for (from, to, host) in [(&lab.left, &lab.right, 2), (&lab.right, &lab.left, 1)] {
            flows.extend((0..FLOWS).map(|_| Flow::new(from, to, inside.inside(host))));
        }
    }
    thread::scope(|scope| {
        for (number, flow) in flows.iter().enumerate() {
            let style = if number % FLOWS == 0 { Style::Grouped } else { Style::OneByOne };
            scope.spawn(move || flow.send(style));
            scope.spawn(move || {
                flow.receive(&format!("flow {number}, {lanes} lanes, inboxes {inbox_depth:?}"));
            });
        }
        tcp_crosses(&lab);
    });
}

fn tcp_crosses(lab: &Lab) {
    bulk(&lab.left, &lab.right, Family::V4.inside(2), 2, 4 << 20);
    bulk(&lab.right, &lab.left, Family::V6.inside(1), 2, 4 << 20);
}

/// How a sender sends its bursts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// In one call, all datagrams equally long.
    Grouped,
    /// One by one, with lengths that change all the time.
    OneByOne,
    /// One by one, and as many as in [`CHANGING`].
    Changing,
}

/// One way from a socket to another, and what its two ends know of each other.
struct Flow {
    sender: UdpSocket,
    receiver: UdpSocket,
    arrived: AtomicUsize,
    sent: AtomicBool,
}

impl Flow {
    /// From one side to `address` on the other.
    fn new(from: &Side, to: &Side, address: IpAddr) -> Flow {
        let bind = |side: &Side, address: SocketAddr| {
            side.namespace.run(|| UdpSocket::bind(address)).expect("enter a namespace").expect("bind")
        };
        let any: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
        let (sender, receiver) = (bind(from, (any, 0).into()), bind(to, (address, 0).into()));
        sender.connect(receiver.local_addr().expect("bound")).expect("connect");
        receiver.set_read_timeout(Some(SILENCE)).expect("a timeout");
        Flow { sender, receiver, arrived: AtomicUsize::new(0), sent: AtomicBool::new(false) }
    }

    /// Sends numbers until enough of them have arrived, each in a datagram of its own.
    fn send(&self, style: Style) {
        if style == Style::Grouped {
            setsockopt(&self.sender, UdpGsoSegment, &i32::try_from(GSO_SIZE).expect("a datagram's size"))
                .expect("UDP GSO");
        }
        let start = Instant::now();
        let mut number = 0;
        let mut changing = CHANGING.iter().cycle();
        while self.arrived.load(Relaxed) < ENOUGH && start.elapsed() < DEADLINE {
            let len = match style {
                Style::Changing => *changing.next().expect("it is endless"),
                Style::Grouped | Style::OneByOne => BURST,
            };
            let burst = number..number + len as u32;
            number = burst.end;
            let goal = self.arrived.load(Relaxed) + len;
            if style == Style::Grouped {
                let datagrams: Vec<u8> = burst.flat_map(|number| datagram(number, GSO_SIZE)).collect();
                self.sender.send(&datagrams).expect("send");
            } else {
                for number in burst {
                    self.sender.send(&datagram(number, 4 + number as usize * 7 % 1300)).expect("send");
                }
            }
            let sent = Instant::now();
            while self.arrived.load(Relaxed) < goal && sent.elapsed() < PATIENCE {
                thread::sleep(PATIENCE / 100);
            }
        }
        self.sent.store(true, Relaxed);
    }

    /// Receives until no more will come, and compares each number with the one before. `what` names the flow.
    fn receive(&self, what: &str) {
        let mut buffer = [0; 2048];
        let mut last = None;
        loop {
            let done = self.sent.load(Relaxed);
            match self.receiver.recv(&mut buffer) {
                Ok(len) => {
                    assert!(len >= 4, "{what}: a datagram was cut short");
                    let number = u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
                    assert!(Some(number) > last, "{what}: {number} came after {last:?}");
                    last = Some(number);
                    self.arrived.fetch_add(1, Relaxed);
                }
                Err(_) if done => break,
                Err(_) => {}
            }
        }
        let arrived = self.arrived.load(Relaxed);
        assert!(arrived >= ENOUGH, "{what}: only {arrived} datagrams arrived");
    }
}

fn datagram(number: u32, len: usize) -> Vec<u8> {
    let mut datagram = vec![0; len];
    datagram[..4].copy_from_slice(&number.to_be_bytes());
    datagram
}
