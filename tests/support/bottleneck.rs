//! A bottleneck on the way to a router: a relay of UDP datagrams with a queue of limited rate, which marks
//! ECN-capable datagrams that wait long (RFC 3168), as CoDel does with `ce_threshold`. Few test machines have a
//! kernel with such a qdisc.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use laneway::netns::Namespace;
use laneway::packet::class::{CE, ECN, NOT_ECT};
use laneway::underlay::{DEPTH, Endpoint, Receiver, Sender, SocketOptions, UdpSocket, bind};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Bytes of IP and UDP headers.
const HEADERS: usize = 28;

/// What a bottleneck is like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Bits per second towards the server.
    pub rate: f64,
    /// One-way delay, the same in both directions.
    pub delay: Duration,
    /// A longer wait in the queue is marked.
    pub marks: Duration,
    /// A longer wait in the queue means that the queue is full.
    pub limit: Duration,
}

/// What a bottleneck saw of the datagrams towards the server.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Datagrams forwarded.
    pub forwarded: u64,
    /// Of these, marked.
    pub marked: u64,
    /// Datagrams dropped because the queue was full.
    pub dropped: u64,
    /// The longest wait in the queue.
    pub longest: Duration,
    /// How long the queue was sending.
    pub busy: Duration,
}

/// A relay between clients and a server. Its thread ends with [`stop`](Self::stop).
pub struct Bottleneck {
    stopping: Arc<AtomicBool>,
    relay: JoinHandle<std::io::Result<Seen>>,
}

impl Bottleneck {
    /// Starts a relay in `namespace`, from `port` to `server` and back to whoever sent last.
    pub fn start(namespace: &Namespace, port: u16, server: SocketAddr, shape: Shape) -> Bottleneck {
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopping);
        // One message for each datagram.
        let options = SocketOptions { gso: false, gro: false, ..SocketOptions::default() };
        let socket = namespace.run(|| bind(port, 1, options)).expect("enter a namespace");
        let socket = socket.unwrap_or_else(|error| panic!("{error}")).remove(0);
        let relay = namespace.spawn("bottleneck", move || Relay::new(socket, server, shape).run(&stop));
        Bottleneck { stopping, relay: relay.expect("start a thread") }
    }

    /// Ends the relay and returns what it saw.
    pub fn stop(self) -> Seen {
        self.stopping.store(true, Relaxed);
        self.relay.join().expect("the relay").expect("enter a namespace")
    }
}

/// A datagram on its way.
struct Datagram {
    due: Instant,
    bytes: Vec<u8>,
    class: u8,
    to: SocketAddr,
}

struct Relay {
    socket: UdpSocket,
    server: SocketAddr,
    client: Option<SocketAddr>,
    shape: Shape,
    /// When the datagrams towards the server that have come so far will have left the queue.
    empty: Instant,
    /// Those on their way to the server, and back.
    ways: [VecDeque<Datagram>; 2],
    seen: Seen,
}

impl Relay {
    fn new(socket: UdpSocket, server: SocketAddr, shape: Shape) -> Relay {
        let (empty, ways) = (Instant::now(), [VecDeque::new(), VecDeque::new()]);
        Relay { socket, server, client: None, shape, empty, ways, seen: Seen::default() }
    }

    fn run(mut self, stop: &AtomicBool) -> Seen {
        let (mut sender, mut receiver) = (Sender::new(&self.socket), Receiver::new());
        let mut slabs = vec![vec![0; 65_536]; DEPTH];
        while !stop.load(Relaxed) {
            let buffers = slabs.iter_mut().map(|slab| &mut slab[..]);
            let count = receiver.receive(&self.socket, buffers).expect("receive");
            for (index, slab) in slabs.iter().enumerate().take(count) {
                let message = receiver.message(index);
                self.take(&slab[..message.len], message.from.address, message.class);
            }
            let now = Instant::now();
            for way in &mut self.ways {
                while let Some(datagram) = way.pop_front_if(|datagram| datagram.due <= now) {
                    let (bytes, to) = (&datagram.bytes, Endpoint::new(datagram.to));
                    let sent = sender.send_run(&self.socket, bytes, bytes.len(), &to, datagram.class);
                    sent.unwrap_or_else(|failure| panic!("{failure}"));
                }
            }
            if count == 0 {
                let patience = if self.ways.iter().all(VecDeque::is_empty) { 20 } else { 1 };
                let mut waiting = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
                poll(&mut waiting, PollTimeout::from(patience as u8)).expect("poll");
            }
        }
        self.seen
    }

    fn take(&mut self, bytes: &[u8], from: SocketAddr, mut class: u8) {
        let now = Instant::now();
        if from == self.server {
            let Some(to) = self.client else { return };
            let due = now + self.shape.delay;
            return self.ways[1].push_back(Datagram { due, bytes: bytes.to_vec(), class, to });
        }
        self.client = Some(from);
        let starts = self.empty.max(now);
        let wait = starts - now;
        if wait > self.shape.limit {
            self.seen.dropped += 1;
            return;
        }
        if wait > self.shape.marks && class & ECN != NOT_ECT {
            class |= CE;
            self.seen.marked += 1;
        }
        let takes = Duration::from_secs_f64((bytes.len() + HEADERS) as f64 * 8.0 / self.shape.rate);
        self.empty = starts + takes;
        self.seen.busy += takes;
        self.seen.forwarded += 1;
        self.seen.longest = self.seen.longest.max(wait);
        let due = self.empty + self.shape.delay;
        self.ways[0].push_back(Datagram { due, bytes: bytes.to_vec(), class, to: self.server });
    }
}
