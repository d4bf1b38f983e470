//! TCP connections whose bytes are checked. Each byte depends on its stream, connection and position.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use laneway::cli::demo::lab::Side;
use laneway::netns::Namespace;
use nix::sys::socket::{setsockopt, sockopt::SndBuf};

use super::flows::{Context, Marker};
use super::ledger::{Excuse, mix};
use super::plan::Sabotage;

/// How much is written at once, and how often.
const CHUNK: usize = 16_000;
const EVERY: Duration = Duration::from_millis(30);

/// The unit of the content: each begins with the marker.
const BLOCK: usize = 64;

/// A stream that connects again when it has lost its connection.
pub struct Stream {
    pub name: String,
    counts: Arc<Counts>,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Counts {
    /// The number of the connection.
    connection: AtomicU64,
    /// Bytes of this connection written to the socket.
    written: AtomicU64,
    /// The connection of the last bytes that have arrived, and how many of it.
    verified_of: AtomicU64,
    verified: AtomicU64,
    /// Bytes verified of all connections.
    total: AtomicU64,
}

/// A point in a stream.
#[derive(Clone, Copy)]
pub struct Mark {
    connection: u64,
    written: u64,
}

impl Stream {
    pub fn start(number: u16, [here, there]: [&Side; 2], to: IpAddr, context: &Context) -> Stream {
        let listener = there.namespace.run(|| TcpListener::bind((to, 0))).expect("enter").expect("bind");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("bound");
        let name = format!("TCP stream {number} to {to}");
        let (counts, over) = (Arc::new(Counts::default()), Arc::new(AtomicBool::new(false)));
        let part = || Part {
            number,
            name: name.clone(),
            context: context.clone(),
            counts: Arc::clone(&counts),
            over: Arc::clone(&over),
        };
        let (sender, receiver) = (part(), part());
        let namespace = here.namespace.try_clone().expect("a descriptor");
        let threads = vec![
            thread::spawn(move || sender.send(&namespace, address)),
            thread::spawn(move || receiver.receive(&listener)),
        ];
        Stream { name, counts, over, threads }
    }

    pub fn mark(&self) -> Mark {
        let (connection, written) = (&self.counts.connection, &self.counts.written);
        Mark { connection: connection.load(Relaxed), written: written.load(Relaxed) }
    }

    /// Returns whether bytes have arrived that were written after `mark`.
    pub fn passes(&self, mark: Mark) -> bool {
        let (connection, verified) =
            (self.counts.verified_of.load(Relaxed), self.counts.verified.load(Relaxed));
        connection > mark.connection || (connection == mark.connection && verified > mark.written)
    }

    /// Returns how many bytes were verified, over how many connections.
    pub fn totals(&self) -> [u64; 2] {
        [self.counts.total.load(Relaxed), self.counts.connection.load(Relaxed)]
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.over.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// What one of the two threads of a stream needs.
struct Part {
    number: u16,
    name: String,
    context: Context,
    counts: Arc<Counts>,
    over: Arc<AtomicBool>,
}

impl Part {
    fn is_over(&self) -> bool {
        self.over.load(Relaxed)
    }

    /// Records the end of a connection, unless packets are being rejected.
    fn ended(&self, how: &str) {
        if !self.context.ledger.excuses(Excuse::Resets) && !self.is_over() {
            self.context.ledger.broken(&format!("{}: {how}", self.name));
        }
    }

    fn send(self, namespace: &Namespace, to: SocketAddr) {
        let connect = || TcpStream::connect_timeout(&to, Duration::from_secs(2));
        while !self.is_over() {
            let Ok(mut socket) = namespace.run(connect).expect("enter") else {
                thread::sleep(Duration::from_millis(100));
                continue;
            };
            setsockopt(&socket, SndBuf, &(128 << 10)).expect("a buffer");
            socket.set_write_timeout(Some(Duration::from_millis(100))).expect("a limit");
            self.counts.written.store(0, Relaxed);
            let connection = self.counts.connection.fetch_add(1, Relaxed) + 1;
            // So that the receiver knows which one this is.
            let mut bytes = connection.to_be_bytes().to_vec();
            let (mut produced, mut written) = (0, 0_u64);
            while !self.is_over() {
                if bytes.is_empty() {
                    bytes.resize(CHUNK, 0);
                    fill(&self.context.marker, self.number, connection, produced, &mut bytes);
                    if self.context.sabotage == Some(Sabotage::Stream) && produced > 1_000_000 {
                        bytes[0] ^= 1;
                    }
                    produced += CHUNK as u64;
                    thread::sleep(EVERY);
                }
                match socket.write(&bytes) {
                    Ok(count) => {
                        bytes.drain(..count);
                        written += count as u64;
                        self.counts.written.store(written.saturating_sub(8), Relaxed);
                    }
                    Err(error) if is_timeout(error.kind()) => {}
                    Err(error) => {
                        self.ended(&format!("the sender's connection ended: {error}"));
                        break;
                    }
                }
            }
        }
    }

    fn receive(self, listener: &TcpListener) {
        let mut current: Option<(TcpStream, u64, u64)> = None;
        let mut bytes = vec![0; 1 << 16];
        while !self.is_over() {
            if let Ok((mut socket, _)) = listener.accept() {
                socket.set_nonblocking(false).expect("a socket");
                socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a limit");
                let mut connection = [0; 8];
                // A connection may end before its first bytes.
                if socket.read_exact(&mut connection).is_ok() {
                    socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a limit");
                    current = Some((socket, u64::from_be_bytes(connection), 0));
                }
            }
            let Some((socket, connection, position)) = &mut current else {
                thread::sleep(Duration::from_millis(20));
                continue;
            };
            let length = match socket.read(&mut bytes) {
                Ok(length) if length > 0 => length,
                Err(error) if is_timeout(error.kind()) => continue,
                end => {
                    self.ended(&format!("the receiver's connection ended: {end:?}"));
                    current = None;
                    continue;
                }
            };
            let mut expected = vec![0; length];
            fill(&self.context.marker, self.number, *connection, *position, &mut expected);
            if expected != bytes[..length] {
                let at = expected.iter().zip(&bytes).take_while(|(one, other)| one == other).count() as u64;
                self.context.ledger.broken(&format!("{}: wrong byte at {}", self.name, *position + at));
                // One finding is enough.
                current = None;
                continue;
            }
            *position += length as u64;
            self.counts.verified.store(*position, Relaxed);
            self.counts.verified_of.store(*connection, Relaxed);
            self.counts.total.fetch_add(length as u64, Relaxed);
        }
    }
}

fn is_timeout(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// Writes what a connection carries from `position` on.
fn fill(marker: &Marker, stream: u16, connection: u64, position: u64, bytes: &mut [u8]) {
    let seed = mix(u64::from(stream) << 48 ^ connection);
    let (mut number, mut skip, mut at) = (position / BLOCK as u64, position as usize % BLOCK, 0);
    while at < bytes.len() {
        let mut block = [0; BLOCK];
        block[..16].copy_from_slice(marker);
        for (index, word) in block[16..].chunks_exact_mut(8).enumerate() {
            word.copy_from_slice(&mix(seed ^ (number * 8 + index as u64)).to_be_bytes());
        }
        let part = (BLOCK - skip).min(bytes.len() - at);
        bytes[at..at + part].copy_from_slice(&block[skip..skip + part]);
        (number, skip, at) = (number + 1, 0, at + part);
    }
}
