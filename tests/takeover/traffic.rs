//! Traffic through a tunnel whose left end is taken over or restarted, and what arrives of it.

use std::collections::HashSet;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::succession::Tunnel;
use crate::support::DEADLINE;
use crate::support::tunnel::{Family, PORT};
use laneway::cli::demo::lab::Side;
use laneway::uapi::client;
use nix::sys::socket::sockopt::{RcvBufForce, ReceiveTimeout};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, setsockopt, socket};
use nix::sys::time::{TimeVal, TimeValLike as _};

/// Datagrams a millisecond in each direction. `TAKE_OVER_RATE` sets another number.
const RATE: usize = 2;

/// Returns the number in the environment variable `name`.
pub(crate) fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Numbered datagrams from one side to the other, until it is stopped.
pub(crate) struct Flow {
    stopping: Arc<AtomicBool>,
    sender: JoinHandle<u64>,
    receiver: JoinHandle<Vec<u64>>,
}

impl Flow {
    pub(crate) fn start(tunnel: &Tunnel, from_left: bool) -> Flow {
        let (from, to) = (&tunnel.lab.left, &tunnel.lab.right);
        let ((from, here), (to, there)) = if from_left { ((from, 1), (to, 2)) } else { ((to, 2), (from, 1)) };
        let bind = |side: &Side, host| {
            let socket = side.namespace.run(|| UdpSocket::bind((Family::V4.inside(host), 0)));
            socket.expect("enter").expect("bind")
        };
        let (sending, receiving) = (bind(from, here), bind(to, there));
        setsockopt(&receiving, RcvBufForce, &(64 << 20)).expect("a buffer");
        receiving.set_read_timeout(Some(Duration::from_millis(50))).expect("set");
        sending.connect(receiving.local_addr().expect("bound")).expect("connect");
        let stopping = Arc::new(AtomicBool::new(false));
        let (rate, stop) = (setting("TAKE_OVER_RATE", RATE), Arc::clone(&stopping));
        let sent = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&sent);
        let sender = thread::spawn(move || {
            let begin = Instant::now();
            let mut number = 0_u64;
            while !stop.load(SeqCst) {
                let due = begin.elapsed().as_millis() as u64 * rate as u64;
                while number < due {
                    // Refused only by an error of an earlier datagram.
                    if sending.send(&number.to_be_bytes()).is_ok() {
                        number += 1;
                        counted.store(number, SeqCst);
                    }
                }
                thread::sleep(Duration::from_millis(1));
            }
            number
        });
        let stop = Arc::clone(&stopping);
        let receiver = thread::spawn(move || {
            let mut numbers = Vec::new();
            let mut silent = None;
            loop {
                let mut bytes = [0; 8];
                match receiving.recv(&mut bytes) {
                    Ok(_) => {
                        numbers.push(u64::from_be_bytes(bytes));
                        silent = None;
                    }
                    Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                    Err(error) => panic!("{error}"),
                }
                if stop.load(SeqCst) {
                    let all = numbers.last().is_some_and(|last| last + 1 == sent.load(SeqCst));
                    let since = *silent.get_or_insert_with(Instant::now);
                    if all || since.elapsed() > Duration::from_secs(5) {
                        return numbers;
                    }
                }
            }
        });
        Flow { stopping, sender, receiver }
    }

    /// Ends the flow. Returns how many datagrams were sent, and the numbers received.
    pub(crate) fn stop(self) -> (u64, Vec<u64>) {
        self.stopping.store(true, SeqCst);
        (self.sender.join().expect("the sender"), self.receiver.join().expect("the receiver"))
    }
}

/// Sends bytes over TCP at a steady rate, `chunk` every 5 ms, verifies them, and returns their number.
pub(crate) fn stream(
    tunnel: &Tunnel,
    from_left: bool,
    chunk: usize,
    over: &Arc<AtomicBool>,
) -> JoinHandle<usize> {
    let (left, right) = (&tunnel.lab.left, &tunnel.lab.right);
    let (from, to, host) = if from_left { (left, right, 2) } else { (right, left, 1) };
    let address = SocketAddr::from((Family::V4.inside(host), 7700));
    let listener = to.namespace.run(|| TcpListener::bind(address)).expect("enter").expect("bind");
    let connect = || TcpStream::connect(address);
    let mut sending = from.namespace.run(connect).expect("enter").expect("connect");
    let (mut receiving, _) = listener.accept().expect("accept");
    let over = Arc::clone(over);
    thread::spawn(move || {
        let receiver = thread::spawn(move || {
            let (mut bytes, mut total) = (vec![0; 65_536], 0_usize);
            receiving.set_read_timeout(Some(DEADLINE)).expect("set");
            loop {
                let read = receiving.read(&mut bytes).expect("read");
                if read == 0 {
                    return total;
                }
                for byte in &bytes[..read] {
                    assert_eq!(*byte, (total % 251) as u8, "byte {total}");
                    total += 1;
                }
            }
        });
        let mut sent = 0_usize;
        while !over.load(SeqCst) {
            let chunk: Vec<u8> = (sent..sent + chunk).map(|at| (at % 251) as u8).collect();
            sending.write_all(&chunk).expect("write");
            sent += chunk.len();
            thread::sleep(Duration::from_millis(5));
        }
        drop(sending);
        assert_eq!(receiver.join().expect("the receiver"), sent);
        sent
    })
}

/// Returns the counters of a router's drops that are not zero.
fn drops(device: &str) -> Vec<String> {
    let text = client::metrics(Path::new("/var/run/wireguard"), device).expect("it runs").expect("metrics");
    let lines = text.lines().filter(|line| line.contains("dropped_packets_total{") && !line.ends_with(" 0"));
    lines.map(str::to_owned).collect()
}

/// Ends flows that go out and come in, and checks that nothing was lost or reordered.
pub(crate) fn assert_complete(tunnel: &Tunnel, flows: [Flow; 2]) {
    for (flow, direction) in flows.into_iter().zip(["outbound", "inbound"]) {
        let (sent, received) = flow.stop();
        let missing: Vec<u64> = {
            let arrived: HashSet<_> = received.iter().copied().collect();
            (0..sent).filter(|number| !arrived.contains(number)).collect()
        };
        let dropped = || [&tunnel.device, &tunnel.right.device].map(|device| drops(device));
        assert!(missing.is_empty(), "{direction}: of {sent} these are missing: {missing:?}; {:?}", dropped());
        assert!(received.is_sorted() && received.len() as u64 == sent, "{direction}: out of order, or twice");
    }
}

/// Collects the receiver index and counter of each data message that arrives at the right end.
pub(crate) struct Wire {
    stopping: Arc<AtomicBool>,
    seen: Arc<Mutex<HashSet<(u32, u64)>>>,
    watcher: JoinHandle<()>,
}

impl Wire {
    pub(crate) fn watch(side: &Side) -> Wire {
        let open = || {
            let kind = (AddressFamily::Packet, SockType::Raw);
            socket(kind.0, kind.1, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)
        };
        let socket = side.namespace.run(open).expect("enter").expect("a packet socket");
        setsockopt(&socket, RcvBufForce, &(64 << 20)).expect("a buffer");
        setsockopt(&socket, ReceiveTimeout, &TimeVal::milliseconds(20)).expect("a limit");
        let (stopping, seen) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let (stop, notes): (_, Arc<Mutex<HashSet<_>>>) = (Arc::clone(&stopping), Arc::clone(&seen));
        let watcher = thread::spawn(move || {
            let mut frame = vec![0; 65_536];
            while !stop.load(SeqCst) {
                let Ok(length) = recv(socket.as_raw_fd(), &mut frame, MsgFlags::empty()) else { continue };
                if let Some(message) = data_message(&frame[..length]) {
                    assert!(notes.lock().expect("a set").insert(message), "{message:?} was sent twice");
                }
            }
        });
        Wire { stopping, seen, watcher }
    }

    /// Ends the watch. Returns how many messages it has seen.
    pub(crate) fn stop(self) -> usize {
        self.stopping.store(true, SeqCst);
        self.watcher.join().expect("no counter was sent twice");
        self.seen.lock().expect("a set").len()
    }
}

/// Returns the receiver index and the counter, if this is the frame of a data message to the right end over IPv4.
fn data_message(frame: &[u8]) -> Option<(u32, u64)> {
    const ETHERNET: usize = 14;
    const HEADERS: usize = ETHERNET + 20 + 8;
    let message = frame.get(HEADERS..HEADERS + 16)?;
    let is_udp = frame[12..14] == [8, 0] && frame[ETHERNET] == 0x45 && frame[ETHERNET + 9] == 17;
    let to_router = frame[HEADERS - 6..HEADERS - 4] == PORT.to_be_bytes();
    let is_data = is_udp && to_router && message[..4] == [4, 0, 0, 0];
    is_data.then(|| {
        let index = u32::from_le_bytes(message[4..8].try_into().expect("four bytes"));
        (index, u64::from_le_bytes(message[8..16].try_into().expect("eight bytes")))
    })
}
