//! The traffic generator: TCP streams from one namespace to another, each byte checked where it arrives. The
//! demo measures with it, and the tests carry their bulk data with it.
//!
//! A stream has a sending and a receiving thread. What is sent is a [`Pattern`] of its place in the stream, so
//! loss, repetition, reordering and corruption that TCP did not notice all end as a wrong byte or a wrong length.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::panic;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use socket2::SockRef;
use thiserror::Error;

use super::pattern::{PIECE, Pattern};
use crate::sys::netns::Namespace;

/// What somebody who watches waits for a connection, or for the next byte: ten seconds are enough for a handshake,
/// and for TCP to come round after losses.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How often threads look up from their sockets, and how often the watcher is called.
const TICK: Duration = Duration::from_millis(100);

/// What to send, from where to where.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The namespace that connects and sends.
    pub from: &'a Namespace,
    /// The namespace that listens and checks.
    pub to: &'a Namespace,
    /// The address that `to` listens on and `from` can reach. The port is the kernel's choice.
    pub address: IpAddr,
    /// How many TCP connections at once.
    pub streams: u16,
    /// When to stop.
    pub limit: Limit,
    /// How long a connection may take (the tunnel makes its handshake meanwhile), and how long a stream may bring
    /// no byte before it has stalled.
    pub patience: Duration,
}

/// When a run of traffic is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// After this time.
    Time(Duration),
    /// After so many bytes on each stream.
    Bytes(u64),
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Time since the streams began to send.
    pub elapsed: Duration,
    /// Bytes that arrived and were right, over all streams.
    pub verified: u64,
}

/// What a run of traffic came to. Every byte that was sent arrived, in order and unchanged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Bytes sent, received and found right, over all streams.
    pub verified: u64,
    /// 10⁹ bits of payload per second, over the time in which the senders were sending.
    pub gbit_per_second: f64,
    /// Time from the first byte to the last, with the tail that was under way when the senders stopped.
    pub elapsed: Duration,
}

impl Outcome {
    /// This run and the `next`, which followed it, as one.
    #[must_use]
    pub fn then(self, next: Outcome) -> Outcome {
        let seconds = |run: Outcome| {
            if run.verified == 0 { 0.0 } else { run.verified as f64 * 8e-9 / run.gbit_per_second }
        };
        let verified = self.verified + next.verified;
        let sending = seconds(self) + seconds(next);
        Outcome {
            verified,
            gbit_per_second: if sending == 0.0 { 0.0 } else { verified as f64 * 8e-9 / sending },
            elapsed: self.elapsed + next.elapsed,
        }
    }
}

/// Why a run of traffic is not a success.
#[derive(Debug, Error)]
pub enum TrafficError {
    /// No connection came about: nothing crosses, or the machine has no descriptors left.
    #[error("stream {stream} could not connect to {to}: {cause}")]
    Connect {
        /// The stream's number, from 0.
        stream: u16,
        /// Where it wanted to.
        to: SocketAddr,
        /// What the last attempt ended with.
        cause: io::Error,
    },
    /// A byte arrived that was not sent at this place.
    #[error("stream {stream} brought a wrong byte at offset {offset}")]
    Wrong {
        /// The stream's number, from 0.
        stream: u16,
        /// Bytes from the start of the stream.
        offset: u64,
    },
    /// The stream ended too early or too late.
    #[error("stream {stream} sent {sent} bytes and brought {received}")]
    Length {
        /// The stream's number, from 0.
        stream: u16,
        /// Bytes the sender handed to its socket.
        sent: u64,
        /// Bytes the receiver found right before the end of the stream.
        received: u64,
    },
    /// Nothing came for a long time.
    #[error("stream {stream} stalled: no byte in {} s after {received} bytes", patience.as_secs())]
    Stalled {
        /// The stream's number, from 0.
        stream: u16,
        /// How long it was waited for.
        patience: Duration,
        /// Bytes found right before.
        received: u64,
    },
    /// A socket failed.
    #[error("stream {stream}: {cause}")]
    Socket {
        /// The stream's number, from 0.
        stream: u16,
        /// What the kernel said.
        cause: io::Error,
    },
    /// There was no thread, listener or way into a namespace.
    #[error("cannot set up the traffic generator: {0}")]
    Setup(#[from] io::Error),
}

/// Runs `plan` to its end or until `stop` is set, which ends it early but as cleanly. `watch` is called every
/// tenth of a second.
///
/// # Errors
/// When a byte is wrong, missing or does not come, or sockets and threads cannot be had.
pub fn run(
    plan: &Plan<'_>,
    stop: &AtomicBool,
    mut watch: impl FnMut(Progress),
) -> Result<Outcome, TrafficError> {
    let connections = connect(plan, stop)?;
    let pattern = &Pattern::new();
    let wire = &Wire { halt: AtomicBool::new(false), verified: AtomicU64::new(0) };

    thread::scope(|scope| {
        let start = Instant::now();
        let (done, all_done) = mpsc::channel::<()>();
        let mut streams = Vec::with_capacity(connections.len());
        for (stream, (sender, receiver)) in (0..).zip(connections) {
            let done = done.clone();
            let sending = thread::Builder::new()
                .name(format!("send-{stream}"))
                .spawn_scoped(scope, move || send(sender, stream, plan.limit, pattern, wire));
            let receiving =
                thread::Builder::new().name(format!("receive-{stream}")).spawn_scoped(scope, move || {
                    let received = receive(receiver, stream, plan.patience, pattern, wire);
                    if received.is_err() {
                        wire.halt.store(true, Relaxed);
                    }
                    drop(done);
                    received
                });
            // The threads that did start end by themselves once told to halt.
            let both = sending.and_then(|sending| Ok((sending, receiving?)));
            streams.push(both.inspect_err(|_| wire.halt.store(true, Relaxed))?);
        }
        drop(done);

        let mut sent_for = None;
        while let Err(RecvTimeoutError::Timeout) = all_done.recv_timeout(TICK) {
            let progress = Progress { elapsed: start.elapsed(), verified: wire.verified.load(Relaxed) };
            let due = matches!(plan.limit, Limit::Time(time) if progress.elapsed >= time);
            if due || stop.load(Relaxed) {
                sent_for.get_or_insert(progress);
                wire.halt.store(true, Relaxed);
            }
            watch(progress);
        }
        let whole = Progress { elapsed: start.elapsed(), verified: wire.verified.load(Relaxed) };
        watch(whole);

        for (stream, (sending, receiving)) in (0..).zip(streams) {
            let (sent, received) = (join(sending), join(receiving)?);
            let sent = sent?;
            if sent != received {
                return Err(TrafficError::Length { stream, sent, received });
            }
        }
        let gbit_per_second = sent_for.unwrap_or(whole).gbit_per_second();
        Ok(Outcome { verified: whole.verified, gbit_per_second, elapsed: whole.elapsed })
    })
}

impl Progress {
    /// 10⁹ bits of payload per second since the streams began to send.
    pub fn gbit_per_second(&self) -> f64 {
        let seconds = self.elapsed.as_secs_f64();
        if seconds > 0.0 { self.verified as f64 * 8.0 / 1e9 / seconds } else { 0.0 }
    }
}

/// What all threads of a run share.
struct Wire {
    /// Senders stop, and close their streams, once this is set.
    halt: AtomicBool,
    verified: AtomicU64,
}

/// Opens the connections one after the other, so that they are accepted in the order of their numbers.
fn connect(plan: &Plan<'_>, stop: &AtomicBool) -> Result<Vec<(TcpStream, TcpStream)>, TrafficError> {
    let listener = plan.to.run(|| TcpListener::bind((plan.address, 0)))??;
    // Linux takes the receive timeout of a listener as that of accept(2).
    SockRef::from(&listener).set_read_timeout(Some(plan.patience))?;
    let to = listener.local_addr()?;
    (0..plan.streams)
        .map(|stream| {
            let failed = |cause| TrafficError::Connect { stream, to, cause };
            let sender = plan.from.run(|| connect_one(to, plan.patience, stop))?.map_err(failed)?;
            let receiver = accept_from(&listener, sender.local_addr()?).map_err(failed)?;
            sender.set_write_timeout(Some(TICK))?;
            receiver.set_read_timeout(Some(TICK))?;
            Ok((sender, receiver))
        })
        .collect()
}

/// Tries in short attempts: the first SYN may be lost while the tunnel is still coming up.
fn connect_one(to: SocketAddr, patience: Duration, stop: &AtomicBool) -> io::Result<TcpStream> {
    let start = Instant::now();
    loop {
        match TcpStream::connect_timeout(&to, patience / 10) {
            Err(_) if start.elapsed() < patience && !stop.load(Relaxed) => thread::sleep(TICK / 10),
            settled => return settled,
        }
    }
}

/// The connection that came from `peer`. An attempt that was given up may have come through after all.
fn accept_from(listener: &TcpListener, peer: SocketAddr) -> io::Result<TcpStream> {
    loop {
        let (stream, from) = listener.accept()?;
        if from == peer {
            return Ok(stream);
        }
    }
}

/// Sends until the limit or a halt, closes its half of the stream and says how many bytes it sent.
fn send(
    mut socket: TcpStream,
    stream: u16,
    limit: Limit,
    pattern: &Pattern,
    wire: &Wire,
) -> Result<u64, TrafficError> {
    let limit = if let Limit::Bytes(bytes) = limit { bytes } else { u64::MAX };
    let mut sent = 0;
    while sent < limit && !wire.halt.load(Relaxed) {
        let piece = pattern.at(stream, sent);
        let piece = &piece[..piece.len().min((limit - sent).try_into().unwrap_or(usize::MAX))];
        match socket.write(piece) {
            Ok(written) => sent += written as u64,
            Err(error) if is_pause(&error) => {}
            Err(cause) => return Err(TrafficError::Socket { stream, cause }),
        }
    }
    socket.shutdown(Shutdown::Write).map_err(|cause| TrafficError::Socket { stream, cause })?;
    Ok(sent)
}

/// Reads to the end of the stream, checks every byte and says how many were right.
fn receive(
    mut socket: TcpStream,
    stream: u16,
    patience: Duration,
    pattern: &Pattern,
    wire: &Wire,
) -> Result<u64, TrafficError> {
    let mut buffer = vec![0; PIECE];
    let mut received = 0;
    let mut last = Instant::now();
    loop {
        let length = match socket.read(&mut buffer) {
            Ok(0) => return Ok(received),
            Ok(length) => length,
            Err(error) if is_pause(&error) && last.elapsed() < patience => continue,
            Err(error) if is_pause(&error) => {
                return Err(TrafficError::Stalled { stream, patience, received });
            }
            Err(cause) => return Err(TrafficError::Socket { stream, cause }),
        };
        if let Some(offset) = pattern.first_wrong(stream, received, &buffer[..length]) {
            return Err(TrafficError::Wrong { stream, offset });
        }
        received += length as u64;
        wire.verified.fetch_add(length as u64, Relaxed);
        last = Instant::now();
    }
}

/// A socket timeout or a signal, not a failure.
fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

fn join<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn two_runs_in_a_row_have_the_rate_of_both_together() {
        let run = |verified, gbit_per_second| Outcome {
            verified,
            gbit_per_second,
            elapsed: Duration::from_secs(2),
        };
        let both = run(250_000_000, 2.0).then(run(750_000_000, 6.0));
        assert_eq!(both.verified, 1_000_000_000);
        assert_eq!(both.elapsed, Duration::from_secs(4));
        assert!((both.gbit_per_second - 4.0).abs() < 1e-9, "{both:?}");
        assert_eq!(run(0, 0.0).then(run(0, 0.0)).verified, 0);
    }
    const LENGTH: u64 = 1_000_000;

    #[test]
    fn a_stream_that_arrives_whole_is_counted_to_its_last_byte() {
        let (wire, pattern) = (wire(), Pattern::new());
        let (near, far) = pair();
        let (sent, received) = thread::scope(|scope| {
            let sending = scope.spawn(|| send(near, 3, Limit::Bytes(LENGTH), &pattern, &wire));
            (receive(far, 3, PATIENCE, &pattern, &wire), join(sending))
        });
        assert_eq!((sent.unwrap(), received.unwrap(), wire.verified.into_inner()), (LENGTH, LENGTH, LENGTH));
    }

    #[test]
    fn one_wrong_bit_is_reported_with_its_place() {
        let (wire, pattern) = (wire(), Pattern::new());
        let (mut near, far) = pair();
        let mut piece = pattern.at(3, 0).to_vec();
        piece[77_777] ^= 0x10;
        let received = thread::scope(|scope| {
            // The receiver hangs up at the wrong byte, so the rest may not be taken any more.
            scope.spawn(move || near.write_all(&piece));
            receive(far, 3, PATIENCE, &pattern, &wire)
        });
        assert!(matches!(received, Err(TrafficError::Wrong { stream: 3, offset: 77_777 })), "{received:?}");
        assert!(wire.verified.into_inner() < 77_777);
    }

    #[test]
    fn a_halt_ends_a_stream_without_limit_cleanly() {
        let (wire, pattern) = (wire(), Pattern::new());
        let (near, far) = pair();
        let (sent, received) = thread::scope(|scope| {
            let sending = scope.spawn(|| send(near, 0, Limit::Time(Duration::MAX), &pattern, &wire));
            let receiving = scope.spawn(|| receive(far, 0, PATIENCE, &pattern, &wire));
            while wire.verified.load(Relaxed) == 0 {
                thread::yield_now();
            }
            wire.halt.store(true, Relaxed);
            (join(sending), join(receiving))
        });
        assert_eq!(sent.unwrap(), received.unwrap());
    }

    #[test]
    fn a_rate_is_bits_over_seconds_and_nothing_over_nothing_is_zero() {
        let progress = |seconds, verified| Progress { elapsed: Duration::from_secs(seconds), verified };
        assert!((progress(2, 500_000_000).gbit_per_second() - 2.0).abs() < 1e-9);
        assert!(progress(0, 0).gbit_per_second().abs() < 1e-9);
    }

    fn wire() -> Wire {
        Wire { halt: AtomicBool::new(false), verified: AtomicU64::new(0) }
    }

    /// Two ends of one connection over loopback.
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (sender, listener.accept().unwrap().0)
    }
}
