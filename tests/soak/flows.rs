//! Numbered datagrams, one way each: an answer could move a flow to another TUN queue.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use laneway::cli::demo::lab::Side;
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

use super::ledger::{Excuse, Ledger, Random, mix};
use super::plan::Sabotage;

/// Bytes that only traffic inside the tunnel has, new in each run.
pub type Marker = [u8; 16];

/// How often each flow sends a burst.
const EVERY: Duration = Duration::from_millis(10);

/// Marker, flow and number.
const HEADER: usize = 16 + 8 + 8;

/// The largest payload in bytes, which fits the smallest MTU of IPv6 inside and outside.
const LARGEST: u64 = 1100;

/// One flow, as the driver sees it.
pub struct Flow {
    pub name: String,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    /// The number of the next datagram.
    sent: AtomicU64,
    /// One more than the highest number that has arrived.
    arrived: AtomicU64,
    lost: AtomicU64,
}

impl Flow {
    pub fn sent(&self) -> u64 {
        self.counts.sent.load(Relaxed)
    }

    /// Returns how many of those before the last one that has arrived are missing.
    pub fn lost(&self) -> u64 {
        self.counts.lost.load(Relaxed)
    }

    /// Returns whether a datagram has arrived that was sent when [`sent`](Self::sent) was `mark`, or later.
    pub fn passes(&self, mark: u64) -> bool {
        self.counts.arrived.load(Relaxed) > mark
    }
}

/// All flows with their threads.
pub struct Flows {
    pub list: Vec<Flow>,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Flows {
    pub fn new() -> Flows {
        Flows { list: Vec::new(), over: Arc::default(), threads: Vec::new() }
    }

    /// Starts a flow. Without the address `from`, each datagram gets the one that the routes of the moment select.
    pub fn add(
        &mut self,
        [here, there]: [&Side; 2],
        [from, to]: [Option<IpAddr>; 2],
        expected: IpAddr,
        context: &Context,
    ) {
        let to = to.expect("a destination");
        let any = if to.is_ipv4() { "0.0.0.0" } else { "::" };
        let bind = |side: &Side, address: Option<IpAddr>| {
            let address = address.unwrap_or_else(|| any.parse().expect("an address"));
            side.namespace.run(|| UdpSocket::bind((address, 0))).expect("enter").expect("bind")
        };
        let (sending, receiving) = (bind(here, from), bind(there, Some(to)));
        setsockopt(&receiving, RcvBufForce, &(16 << 20)).expect("a buffer");
        receiving.set_read_timeout(Some(Duration::from_millis(50))).expect("a limit");
        let number = self.list.len() as u64;
        let name = format!("UDP flow {number}, {expected} > {to}");
        let counts = Arc::new(Counts::default());
        self.list.push(Flow { name: name.clone(), counts: Arc::clone(&counts) });
        let sender = Sender {
            socket: sending,
            to: receiving.local_addr().expect("bound"),
            flow: number,
            context: context.clone(),
            counts: Arc::clone(&counts),
            random: Random(number),
        };
        let receiver = Receiver {
            socket: receiving,
            from: expected,
            flow: number,
            name,
            context: context.clone(),
            counts,
            next: 0,
            missing: BTreeSet::new(),
        };
        let over = [(); 2].map(|()| Arc::clone(&self.over));
        let [first, second] = over;
        self.threads.push(thread::spawn(move || sender.run(&first)));
        self.threads.push(thread::spawn(move || receiver.run(&second)));
    }

    /// Returns how many datagrams were sent, and how many of them were lost.
    pub fn totals(&self) -> [u64; 2] {
        [self.list.iter().map(Flow::sent).sum(), self.list.iter().map(Flow::lost).sum()]
    }
}

impl Drop for Flows {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// What all traffic needs.
#[derive(Clone)]
pub struct Context {
    pub marker: Marker,
    pub ledger: Arc<Ledger>,
    pub sabotage: Option<Sabotage>,
}

/// Returns the datagram of a number: its length and each of its bytes depend on it.
fn datagram(marker: &Marker, flow: u64, number: u64) -> Vec<u8> {
    let seed = mix(flow << 48 ^ number);
    let mut bytes = [&marker[..], &flow.to_be_bytes(), &number.to_be_bytes()].concat();
    let length = HEADER + (seed % (LARGEST - HEADER as u64)) as usize;
    let mut word = seed;
    while bytes.len() < length {
        word = mix(word.wrapping_add(0x9e37_79b9_7f4a_7c15));
        bytes.extend(word.to_be_bytes());
    }
    bytes.truncate(length);
    bytes
}

struct Sender {
    socket: UdpSocket,
    to: SocketAddr,
    flow: u64,
    context: Context,
    counts: Arc<Counts>,
    random: Random,
}

impl Sender {
    fn run(mut self, over: &AtomicBool) {
        let mut number = 0;
        while !over.load(Relaxed) {
            for _ in 0..self.random.range(1, 3) {
                let mut bytes = datagram(&self.context.marker, self.flow, number);
                let sabotage = self.context.sabotage.filter(|_| number > 500 && number % 500 == 0);
                match sabotage {
                    Some(Sabotage::Bytes) => *bytes.last_mut().expect("a byte") ^= 1,
                    Some(Sabotage::Twice) => drop(self.socket.send_to(&bytes, self.to)),
                    Some(Sabotage::Order) => {
                        let next = datagram(&self.context.marker, self.flow, number + 1);
                        let _ = self.socket.send_to(&next, self.to);
                        let _ = self.socket.send_to(&bytes, self.to);
                        number += 2;
                        continue;
                    }
                    _ => {}
                }
                // A datagram that this host refuses is not one that is lost.
                if self.socket.send_to(&bytes, self.to).is_ok() {
                    number += 1;
                    self.counts.sent.store(number, Relaxed);
                }
            }
            thread::sleep(EVERY);
        }
    }
}

struct Receiver {
    socket: UdpSocket,
    from: IpAddr,
    flow: u64,
    name: String,
    context: Context,
    counts: Arc<Counts>,
    next: u64,
    missing: BTreeSet<u64>,
}

impl Receiver {
    fn run(mut self, over: &AtomicBool) {
        let mut bytes = [0; 2048];
        while !over.load(Relaxed) {
            match self.socket.recv_from(&mut bytes) {
                Ok((length, from)) => self.take(&bytes[..length], from),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(error) => self.broken(&error.to_string()),
            }
        }
    }

    fn broken(&self, what: &str) {
        self.context.ledger.broken(&format!("{}: {what}", self.name));
    }

    fn take(&mut self, bytes: &[u8], from: SocketAddr) {
        let number =
            bytes.get(HEADER - 8..HEADER).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
        let Some(number) = number else { return self.broken("a short datagram") };
        if from.ip() != self.from {
            return self.broken(&format!("number {number} from {from}"));
        }
        if bytes != datagram(&self.context.marker, self.flow, number) {
            return self.broken(&format!("wrong bytes in number {number}"));
        }
        if number >= self.next {
            self.missing.extend(self.next..number);
            self.next = number + 1;
            self.counts.arrived.store(self.next, Relaxed);
        } else if !self.missing.remove(&number) {
            self.broken(&format!("number {number} arrived twice"));
        } else if !self.context.ledger.excuses(Excuse::Order) {
            self.broken(&format!("number {number} arrived after {}", self.next - 1));
        }
        self.counts.lost.store(self.missing.len() as u64, Relaxed);
    }
}
