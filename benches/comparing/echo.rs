//! Requests and answers over TCP, for `benches/compare`. Both ends do so little work that the tunnel
//! dominates.
//!
//! ```text
//! echo serve ADDRESS                          answers until killed
//! echo ask ADDRESS CONNECTIONS SECONDS        asks, then prints one line of JSON
//! ```
//!
//! Each connection has one request of [`MESSAGE`] bytes pending and sends the next after the answer. One
//! thread serves all connections at either end.

use std::env;
use std::error::Error;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

/// Size of a request and of an answer in bytes.
const MESSAGE: usize = 64;

/// Maximum events per wait.
const EVENTS: usize = 64;

/// Token of the listener; a connection's token is its index.
const LISTENER: u64 = u64::MAX;

/// Silence after which asking fails, in milliseconds.
const SILENCE: u16 = 5_000;

/// Preallocated capacity for times, in answers per second.
const EXPECTED_RATE: usize = 250_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["serve", address] => serve(address),
        ["ask", address, connections, seconds] => ask(address, connections, seconds),
        _ => Err("usage: echo serve ADDRESS | echo ask ADDRESS CONNECTIONS SECONDS".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Echoes on every connection.
fn serve(address: &str) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(address)?;
    let epoll = Epoll::new(EpollCreateFlags::empty())?;
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    let mut connections: Vec<Option<TcpStream>> = Vec::new();
    let mut events = [EpollEvent::empty(); EVENTS];
    loop {
        let ready = epoll.wait(&mut events, EpollTimeout::NONE)?;
        for event in &events[..ready] {
            if event.data() == LISTENER {
                let (connection, _) = listener.accept()?;
                connection.set_nodelay(true)?;
                epoll.add(&connection, EpollEvent::new(EpollFlags::EPOLLIN, connections.len() as u64))?;
                connections.push(Some(connection));
                continue;
            }
            // Closing a connection removes it from the epoll set.
            let slot = &mut connections[event.data() as usize];
            if let Some(connection) = slot
                && send_back(connection).is_err()
            {
                *slot = None;
            }
        }
    }
}

/// Echoes what has arrived. Neither call blocks: the socket is readable, and an asker has at most one message
/// pending.
fn send_back(connection: &mut TcpStream) -> io::Result<()> {
    let mut bytes = [0; MESSAGE];
    match connection.read(&mut bytes)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        length => connection.write_all(&bytes[..length]),
    }
}

/// A connection with one pending request.
struct Asker {
    connection: TcpStream,
    asked: Instant,
    /// Bytes of the answer not yet received.
    missing: usize,
}

impl Asker {
    fn connect(address: &str) -> io::Result<Self> {
        let connection = TcpStream::connect(address)?;
        connection.set_nodelay(true)?;
        Ok(Self { connection, asked: Instant::now(), missing: 0 })
    }

    fn ask(&mut self) -> io::Result<()> {
        self.asked = Instant::now();
        self.missing = MESSAGE;
        self.connection.write_all(&[0x5a; MESSAGE])
    }

    /// Reads what has arrived. Returns the round-trip time if the answer is complete.
    fn read(&mut self) -> io::Result<Option<Duration>> {
        let mut bytes = [0; MESSAGE];
        let length = self.connection.read(&mut bytes[..self.missing])?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.missing -= length;
        Ok((self.missing == 0).then(|| self.asked.elapsed()))
    }
}

/// Asks for `seconds`, then prints the number of answers and their times.
fn ask(address: &str, connections: &str, seconds: &str) -> Result<(), Box<dyn Error>> {
    let connections: usize = connections.parse()?;
    let span = Duration::from_secs_f64(seconds.parse()?);
    let epoll = Epoll::new(EpollCreateFlags::empty())?;
    let mut askers = Vec::with_capacity(connections);
    for token in 0..connections as u64 {
        let asker = Asker::connect(address)?;
        epoll.add(&asker.connection, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
        askers.push(asker);
    }

    let mut times: Vec<Duration> = Vec::with_capacity(span.as_secs() as usize * EXPECTED_RATE);
    let mut events = [EpollEvent::empty(); EVENTS];
    let start = Instant::now();
    for asker in &mut askers {
        asker.ask()?;
    }
    while start.elapsed() < span {
        let ready = epoll.wait(&mut events, EpollTimeout::from(SILENCE))?;
        if ready == 0 {
            return Err(format!("no answer for {SILENCE} ms").into());
        }
        for event in &events[..ready] {
            let asker = &mut askers[event.data() as usize];
            if let Some(time) = asker.read()? {
                times.push(time);
                asker.ask()?;
            }
        }
    }
    let took = start.elapsed();

    times.sort_unstable();
    let p50 = percentile(&times, 50).ok_or("no answer at all")?;
    let p99 = percentile(&times, 99).ok_or("no answer at all")?;
    println!(
        "{{\"transactions\": {}, \"message_bytes\": {MESSAGE}, \"seconds\": {:.6}, \
         \"p50_us\": {:.1}, \"p99_us\": {:.1}}}",
        times.len(),
        took.as_secs_f64(),
        p50.as_secs_f64() * 1e6,
        p99.as_secs_f64() * 1e6,
    );
    Ok(())
}

/// Returns the nearest-rank percentile, or `None` without samples.
fn percentile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}
