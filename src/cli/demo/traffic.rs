//! The traffic generator: TCP streams between two namespaces, every byte verified on arrival. Used by the demo
//! and by tests that need bulk data.
//!
//! Each stream has a sending and a receiving thread and carries a [`Pattern`] of its offset, so loss, repetition,
//! reordering or corruption that TCP did not detect shows up as a wrong byte or a wrong length.

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
use crate::netns::Namespace;

/// Default for [`TrafficPlan::patience`]: enough for a handshake, and for TCP to recover from losses.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Socket timeout of the threads, and the interval at which `watch` is called.
const TICK: Duration = Duration::from_millis(100);

/// What to send, and between which namespaces.
#[derive(Debug)]
pub struct TrafficPlan<'a> {
    /// The namespace that connects and sends.
    pub from: &'a Namespace,
    /// The namespace that listens and verifies.
    pub to: &'a Namespace,
    /// The address `to` listens on, reachable from `from`. The kernel chooses the port.
    pub address: IpAddr,
    /// Number of concurrent TCP connections.
    pub streams: u16,
    /// When to stop sending.
    pub limit: Limit,
    /// Time limit for a connection, which may include the tunnel's handshake, and for the next byte of a stream
    /// before it counts as stalled.
    pub patience: Duration,
}

/// When the senders stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// After this time.
    Time(Duration),
    /// After this many bytes on each stream.
    Bytes(u64),
}

/// Progress of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Time since the streams began to send.
    pub elapsed: Duration,
    /// Bytes received and verified, over all streams.
    pub verified: u64,
}

/// Result of a transfer in which every byte sent arrived in order and unchanged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Bytes sent, received and verified, over all streams.
    pub verified: u64,
    /// Payload rate in 10⁹ bits per second, over the time the senders were sending.
    pub gbit_per_second: f64,
    /// Time from the first byte to the last, including data in flight when the senders stopped.
    pub elapsed: Duration,
}

impl Outcome {
    /// Combines this transfer with the `next` one, which followed it.
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

/// Errors of a transfer.
#[derive(Debug, Error)]
pub enum TrafficError {
    /// A connection failed: nothing crosses the tunnel, or the process is out of descriptors.
    #[error("stream {stream} could not connect to {to}: {cause}")]
    Connect {
        /// The stream's number, from 0.
        stream: u16,
        /// The address it connected to.
        to: SocketAddr,
        /// The error of the last attempt.
        cause: io::Error,
    },
    /// A byte differs from the one sent at this offset.
    #[error("stream {stream} received a wrong byte at offset {offset}")]
    Wrong {
        /// The stream's number, from 0.
        stream: u16,
        /// Bytes from the start of the stream.
        offset: u64,
    },
    /// The stream ended too early or too late.
    #[error("stream {stream} sent {sent} bytes but received {received}")]
    Length {
        /// The stream's number, from 0.
        stream: u16,
        /// Bytes the sender wrote to its socket.
        sent: u64,
        /// Bytes the receiver verified before the end of the stream.
        received: u64,
    },
    /// No byte arrived within [`TrafficPlan::patience`].
    #[error("stream {stream} stalled: no byte in {} s after {received} bytes", patience.as_secs())]
    Stalled {
        /// The stream's number, from 0.
        stream: u16,
        /// How long the receiver waited.
        patience: Duration,
        /// Bytes verified before that.
        received: u64,
    },
    /// A socket failed.
    #[error("stream {stream}: {cause}")]
    Socket {
        /// The stream's number, from 0.
        stream: u16,
        /// The system error.
        cause: io::Error,
    },
    /// A thread or listener could not be created, or a namespace could not be entered.
    #[error("cannot set up the traffic generator: {0}")]
    Setup(#[from] io::Error),
}

/// Runs `plan` until its limit, or until `stop` is set, which ends it early but just as cleanly. Calls `watch`
/// every 100 ms.
///
/// # Errors
/// A byte was wrong, missing or late, or sockets or threads could not be created.
pub fn run(
    plan: &TrafficPlan<'_>,
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
            // Threads that did start end once `halt` is set.
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
    /// Returns the payload rate since the streams began to send, in 10⁹ bits per second.
    pub fn gbit_per_second(&self) -> f64 {
        let seconds = self.elapsed.as_secs_f64();
        if seconds > 0.0 { self.verified as f64 * 8.0 / 1e9 / seconds } else { 0.0 }
    }
}

/// State shared by all threads of a transfer.
struct Wire {
    /// Once set, senders stop and close their streams.
    halt: AtomicBool,
    verified: AtomicU64,
}

/// Opens the connections one at a time, so that they are accepted in the order of their numbers.
fn connect(plan: &TrafficPlan<'_>, stop: &AtomicBool) -> Result<Vec<(TcpStream, TcpStream)>, TrafficError> {
    let listener = plan.to.run(|| TcpListener::bind((plan.address, 0)))??;
    // On Linux, a listener's receive timeout also applies to accept(2).
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

/// Connects in several short attempts: the first SYN may be lost while the tunnel comes up.
fn connect_one(to: SocketAddr, patience: Duration, stop: &AtomicBool) -> io::Result<TcpStream> {
    let start = Instant::now();
    loop {
        match TcpStream::connect_timeout(&to, patience / 10) {
            Err(_) if start.elapsed() < patience && !stop.load(Relaxed) => thread::sleep(TICK / 10),
            settled => return settled,
        }
    }
}

/// Accepts the connection from `peer`. Others are abandoned attempts that completed late, and are dropped.
fn accept_from(listener: &TcpListener, peer: SocketAddr) -> io::Result<TcpStream> {
    loop {
        let (stream, from) = listener.accept()?;
        if from == peer {
            return Ok(stream);
        }
    }
}

/// Sends until the limit or a halt, closes the sending half and returns the number of bytes sent.
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

/// Reads to the end of the stream, verifies every byte and returns the number of bytes received.
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

/// Returns whether `error` is a socket timeout or an interrupting signal rather than a failure.
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
            // The receiver closes the connection at the wrong byte, so the rest may fail to send.
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

    /// Returns both ends of one connection over loopback.
    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (sender, listener.accept().unwrap().0)
    }
}
