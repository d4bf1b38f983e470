//! Datagrams of one socket arrive in the order they were sent, however many lanes carry them and however short the
//! rings are.
//!
//! UDP shows this; TCP would reorder. Loss is allowed: the flows together have more in flight than short rings
//! hold, which is when order is at risk. Each flow is one-way on purpose: the kernel sends a flow to the TUN queue
//! to which its opposite direction was last written (`tun_flow_update` in Linux's `drivers/net/tun.c`), so the
//! first answer of a two-way flow can move it to another queue, and so to another lane, while its first packets
//! are still in flight. That one change of lane is the kernel's choice and out of our control.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::metrics::total;
use crate::support::ping::answers;
use crate::support::tunnel::Family;
use crate::support::{DEADLINE, bulk, lab, require_root, router, wait_until};
use laneway::cli::demo::lab::{Lab, Side};
use laneway::config::{Queues, Sharing, SpreadPorts};
use nix::sys::socket::{setsockopt, sockopt::UdpGsoSegment};

/// How many datagrams of each flow must arrive before its sender stops: a flow that hardly arrives proves nothing,
/// and how many must be sent for it depends on the load of the machine.
const ENOUGH: usize = 5_000;

/// The number of flows from each side over each IP version.
const FLOWS: usize = 3;

/// The payload in bytes of a datagram that is sent in a batch (`UDP_SEGMENT`).
const GSO_SIZE: usize = 1200;

/// The size of a sender's burst: all flows together have more in flight than short rings hold, but not enough to
/// starve TCP for good.
const BURST: usize = 48;

/// The size of a burst whose first datagrams find sleeping workers, with more right behind them.
const CHANGING: [usize; 8] = [1, 1, 2, 1, BURST, 1, 3, 7];

/// How long a sender waits for a burst to arrive before it counts the rest as lost.
const PATIENCE: Duration = Duration::from_millis(20);

/// How often a receiver checks whether its sender is done. After that, silence for this long means that everything
/// has arrived.
const SILENCE: Duration = Duration::from_millis(500);

#[test]
fn flows_stay_in_order_with_one_lane_and_any_ring_depth() {
    require_root!();
    for depth in [Some(1), Some(2), None] {
        flows_cross_in_order(1, depth, Sharing::Off, &SpreadPorts::Off);
    }
}

#[test]
fn flows_stay_in_order_whichever_worker_seals_and_opens() {
    require_root!();
    for (lanes, depth) in [(1, None), (3, Some(1)), (3, Some(2)), (3, None)] {
        let helped = flows_cross_in_order(lanes, depth, Sharing::On, &SpreadPorts::Off);
        assert!(helped > 0, "{lanes} lanes, inboxes {depth:?}: every worker did its own work");
    }
}

#[test]
fn flows_stay_in_order_with_three_lanes_and_any_ring_depth() {
    require_root!();
    for depth in [Some(1), Some(2), None] {
        flows_cross_in_order(3, depth, Sharing::Off, &SpreadPorts::Off);
    }
}

#[test]
fn flows_stay_in_order_with_spread_ports() {
    require_root!();
    flows_cross_in_order(3, None, Sharing::Off, &SpreadPorts::All);
}

#[test]
fn lone_packets_that_take_a_shortcut_and_bursts_between_them_arrive_in_order() {
    for (lanes, share) in [(1, Sharing::Off), (3, Sharing::Off), (3, Sharing::On)] {
        lone_packets_and_bursts_stay_in_order(lanes, share);
    }
}

/// Sends one flow at a time, so that workers sleep between bursts.
fn lone_packets_and_bursts_stay_in_order(lanes: usize, share: Sharing) {
    require_root!();
    let lab = lab();
    let routers = router::pair_with(&lab, Family::V4, |config| {
        config.queues = Queues::Fixed(lanes);
        config.share = share;
    });
    let taken = |router: usize, direction: &str| {
        total(&routers[router], "laneway_shortcuts_total", &[("direction", direction)])
    };
    for inside in Family::ALL {
        wait_until("an echo", || answers(&lab.left.namespace, inside.inside(2)));
        let before = (taken(0, "outbound"), taken(1, "inbound"));
        let flow = Flow::new(&lab.left, &lab.right, inside.inside(2));
        thread::scope(|scope| {
            scope.spawn(|| flow.send(Style::Changing));
            flow.receive(&format!("{inside:?}, {lanes} lanes"));
        });
        assert!(
            taken(0, "outbound") > before.0 && taken(1, "inbound") > before.1,
            "no packet took the shortcut"
        );
    }
}

/// Sends all flows at once, along with TCP, through routers with this many lanes. Returns how many batches were
/// sealed or opened by another worker than the one that read them.
fn flows_cross_in_order(
    lanes: usize,
    inbox_depth: Option<usize>,
    share: Sharing,
    spread_ports: &SpreadPorts,
) -> u64 {
    let lab = lab();
    let routers = router::pair_with(&lab, Family::V4, |config| {
        config.queues = Queues::Fixed(lanes);
        config.inbox_depth = inbox_depth;
        config.share = share;
        config.spread_ports = spread_ports.clone();
    });
    // The handshake is done, and both IP versions get through, before the flood begins.
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
                flow.receive(&format!("flow {number}, {lanes} lanes, inboxes {inbox_depth:?}, {share:?}"));
            });
        }
        tcp_crosses(&lab);
    });
    routers.iter().map(|router| total(router, "laneway_jobs_total", &[("by", "helper")])).sum()
}

fn tcp_crosses(lab: &Lab) {
    bulk(&lab.left, &lab.right, Family::V4.inside(2), 2, 4 << 20);
    bulk(&lab.right, &lab.left, Family::V6.inside(1), 2, 4 << 20);
}

/// How a sender sends a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// In one call, with datagrams of equal length.
    Grouped,
    /// One by one, with changing lengths.
    OneByOne,
    /// One by one, [`CHANGING`] datagrams at a time.
    Changing,
}

/// A one-way flow between two sockets, and the state its ends share.
struct Flow {
    sender: UdpSocket,
    receiver: UdpSocket,
    arrived: AtomicUsize,
    sent: AtomicBool,
}

impl Flow {
    /// Opens a flow from one side to `address` on the other.
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

    /// Sends numbered datagrams until enough of them have arrived.
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

    /// Receives until the flow is over, and compares each number with the previous one. `what` names the flow.
    fn receive(&self, what: &str) {
        let mut buffer = [0; 2048];
        let mut last = None;
        loop {
            let done = self.sent.load(Relaxed);
            match self.receiver.recv(&mut buffer) {
                Ok(len) => {
                    assert!(len >= 4, "{what}: a datagram was truncated");
                    let number = u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
                    assert!(Some(number) > last, "{what}: {number} arrived after {last:?}");
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
