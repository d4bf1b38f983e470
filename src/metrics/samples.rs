//! Samples of dropped packets, for `laneway drops --follow`.
//!
//! While nobody listens, a dropped packet costs one relaxed load, one that waits for a handshake another, and a carried
//! packet nothing. Each request allows a number of samples per reason, so that a flood dropped for one reason does not
//! hide others. Sampling ends one to two seconds after the last request. Workers put their samples in a bounded queue,
//! which requests move to a bounded history that several listeners can read. What finds no room is lost; the counters
//! still tell its number.

use std::array;
use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crossbeam::queue::ArrayQueue;

use super::page::Page;
use crate::drops::DropReason;
use crate::packet::{ip, protocol};
use crate::wireguard::keys::PublicKey;

/// Number of samples per reason that one request allows.
const ALLOWED: u32 = 64;

/// Capacity of the queue and of the history, in samples of about 100 bytes.
const CAPACITY: usize = 1024;

/// Protocols with ports in the first four bytes of their header.
const WITH_PORTS: [u8; 5] =
    [protocol::TCP, protocol::UDP, protocol::DCCP, protocol::SCTP, protocol::UDP_LITE];

/// The samples of one router.
#[derive(Debug)]
pub struct DropSamples {
    /// How many more samples are wanted, by reason; 0 while nobody listens.
    wanted: [AtomicU32; DropReason::COUNT],
    /// From the workers. Allocated by the first request.
    queue: OnceLock<ArrayQueue<DropSample>>,
    history: Mutex<History>,
}

/// The latest samples, which requests read.
#[derive(Debug, Default)]
struct History {
    samples: VecDeque<DropSample>,
    /// Number of the sample after the last one.
    next: u64,
    /// Whether there was a request since the last [`DropSamples::expire`].
    read: bool,
    /// Whether somebody calls [`DropSamples::expire`].
    watched: bool,
}

/// The direction of a dropped packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropDirection {
    /// From the TUN to a peer.
    Outbound,
    /// From a peer to the TUN.
    Inbound,
}

/// A dropped packet, or several that were dropped together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DropSample {
    /// The direction.
    pub direction: DropDirection,
    /// Why it was dropped.
    pub reason: DropReason,
    /// Number of packets dropped together: segments of a superpacket, datagrams of a run, or packets of a queue.
    pub packets: u64,
    /// What was dropped; the first of several.
    pub what: Dropped,
}

/// A description of a dropped packet, without payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dropped {
    headers: Headers,
    len: u32,
    peer: Option<PublicKey>,
}

/// What is known of a packet's headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Headers {
    /// An IP packet, with the ports if its protocol has ports and they are at hand.
    Packet { protocol: u8, source: IpAddr, destination: IpAddr, ports: Option<[u16; 2]> },
    /// Bytes that are not an IP packet.
    NotIp,
    /// A UDP datagram that was received from this address.
    From(SocketAddr),
    /// A UDP datagram to this address.
    To(SocketAddr),
}

impl Default for DropSamples {
    fn default() -> Self {
        DropSamples {
            wanted: array::from_fn(|_| AtomicU32::new(0)),
            queue: OnceLock::new(),
            history: Mutex::default(),
        }
    }
}

impl DropSamples {
    /// Returns whether a sample of a packet dropped for `reason` is wanted.
    #[inline]
    pub fn wanted(&self, reason: DropReason) -> bool {
        self.wanted[reason as usize].load(Ordering::Relaxed) != 0
    }

    /// Adds a sample, unless enough were taken for its reason. Never blocks; a sample that finds the queue full is lost.
    #[cold]
    pub fn push(&self, sample: DropSample) {
        let one_less = |wanted: u32| wanted.checked_sub(1);
        let wanted = &self.wanted[sample.reason as usize];
        if wanted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
            && let Some(queue) = self.queue.get()
        {
            let _ = queue.push(sample);
        }
    }

    /// Allows samples, and returns those after number `after` as lines, behind a line `next=NUMBER`. The number
    /// continues from there; 0 returns all that are kept.
    pub fn read(&self, after: u64) -> String {
        let queue = self.queue.get_or_init(|| ArrayQueue::new(CAPACITY));
        let mut history = self.history();
        for sample in std::iter::from_fn(|| queue.pop()).take(CAPACITY) {
            if history.samples.len() == CAPACITY {
                history.samples.pop_front();
            }
            history.samples.push_back(sample);
            history.next += 1;
        }
        self.want(ALLOWED);
        history.read = true;
        let fresh = history.next.saturating_sub(after).min(history.samples.len() as u64) as usize;
        let mut out = format!("next={}\n", history.next);
        for sample in history.samples.iter().skip(history.samples.len() - fresh) {
            let _ = writeln!(out, "{sample}");
        }
        out
    }

    fn want(&self, number: u32) {
        self.wanted.iter().for_each(|wanted| wanted.store(number, Ordering::Relaxed));
    }

    /// Returns whether the caller must call [`DropSamples::expire`] once a second, until that returns true. Others do
    /// not call it meanwhile.
    pub fn watch(&self) -> bool {
        !mem::replace(&mut self.history().watched, true)
    }

    /// Ends sampling if there was no request since the last call. Returns whether it has ended.
    pub fn expire(&self) -> bool {
        let mut history = self.history();
        if mem::take(&mut history.read) {
            return false;
        }
        self.want(0);
        history.watched = false;
        true
    }

    /// Adds whether samples are taken, and how many were read, to `page`.
    pub(super) fn collect(&self, page: &mut Page) {
        let history = self.history();
        page.sample("laneway_drop_sampling", &[], u8::from(history.watched));
        page.sample("laneway_drop_samples_total", &[], history.next);
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dropped {
    /// Describes an IP packet, of which at least the headers are in `packet`, of `len` bytes.
    pub fn packet_of(packet: &[u8], len: usize) -> Dropped {
        Dropped { headers: Headers::of(packet).unwrap_or(Headers::NotIp), len: len as u32, peer: None }
    }

    /// Describes an IP packet.
    pub fn packet(packet: &[u8]) -> Dropped {
        Self::packet_of(packet, packet.len())
    }

    /// Describes a datagram of `len` bytes that was received from `from`.
    pub fn datagram_from(from: SocketAddr, len: usize) -> Dropped {
        Dropped { headers: Headers::From(from), len: len as u32, peer: None }
    }

    /// Describes a datagram of `len` bytes to `to`.
    pub fn datagram_to(to: SocketAddr, len: usize) -> Dropped {
        Dropped { headers: Headers::To(to), len: len as u32, peer: None }
    }

    /// Adds the peer that sent it, or that it was for.
    #[must_use]
    pub fn with_peer(self, peer: impl Into<Option<PublicKey>>) -> Dropped {
        Dropped { peer: peer.into(), ..self }
    }
}

impl Headers {
    fn of(packet: &[u8]) -> Option<Headers> {
        let (source, destination) = (ip::source(packet)?, ip::destination(packet)?);
        let transport = ip::transport(packet);
        let ports = transport
            .filter(|transport| !transport.fragment && WITH_PORTS.contains(&transport.protocol))
            .and_then(|transport| packet.get(transport.offset..)?.first_chunk::<4>())
            .map(|ports| [[ports[0], ports[1]], [ports[2], ports[3]]].map(u16::from_be_bytes));
        let protocol = transport.map_or(protocol::NO_NEXT_HEADER, |transport| transport.protocol);
        Some(Headers::Packet { protocol, source, destination, ports })
    }
}

impl DropDirection {
    /// Returns the value of the `direction` label.
    pub const fn label(self) -> &'static str {
        match self {
            DropDirection::Outbound => "outbound",
            DropDirection::Inbound => "inbound",
        }
    }
}

/// One line: `outbound no_route: tcp 10.0.0.1:40000 > 10.9.0.1:80, 60 bytes`, then `, peer KEY` if the peer is known and
/// `, N packets` if there are several.
impl fmt::Display for DropSample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.direction.label(), self.reason.label(), self.what)?;
        if self.packets > 1 { write!(f, ", {} packets", self.packets) } else { Ok(()) }
    }
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.headers {
            Headers::Packet { protocol, source, destination, ports: None } => {
                write!(f, "{} {source} > {destination}", ProtocolName(protocol))?;
            }
            Headers::Packet { protocol, source, destination, ports: Some([from, to]) } => {
                let (source, destination) = (SocketAddr::new(source, from), SocketAddr::new(destination, to));
                write!(f, "{} {source} > {destination}", ProtocolName(protocol))?;
            }
            Headers::NotIp => f.write_str("not an IP packet")?,
            Headers::From(from) => write!(f, "datagram from {from}")?,
            Headers::To(to) => write!(f, "datagram to {to}")?,
        }
        write!(f, ", {} bytes", self.len)?;
        self.peer.map_or(Ok(()), |peer| write!(f, ", peer {peer}"))
    }
}

/// Formats a protocol number.
struct ProtocolName(u8);

impl fmt::Display for ProtocolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            protocol::ICMP => "icmp",
            protocol::TCP => "tcp",
            protocol::UDP => "udp",
            protocol::ICMPV6 => "icmp6",
            protocol::SCTP => "sctp",
            other => return write!(f, "protocol {other}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A UDP packet from 10.0.0.1:4000 to 10.0.0.2:53, with a secret in it.
    fn packet() -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 34, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        packet.extend([0x0f, 0xa0, 0, 53, 0, 14, 0, 0]);
        packet.extend(b"secret");
        packet
    }

    fn sample(reason: DropReason) -> DropSample {
        DropSample {
            direction: DropDirection::Outbound,
            reason,
            packets: 1,
            what: Dropped::packet(&packet()),
        }
    }

    /// Returns the number to continue from, and the number of samples.
    fn read(samples: &DropSamples, after: u64) -> (u64, usize) {
        let text = samples.read(after);
        let (next, lines) = text.split_once('\n').unwrap();
        (next.strip_prefix("next=").unwrap().parse().unwrap(), lines.lines().count())
    }

    #[test]
    fn nothing_is_taken_until_somebody_asks_and_no_more_than_was_asked_for() {
        let samples = DropSamples::default();
        assert!(!samples.wanted(DropReason::NoRoute));
        samples.push(sample(DropReason::NoRoute));
        assert_eq!(read(&samples, 0), (0, 0));
        assert!(samples.wanted(DropReason::NoRoute));
        for _ in 0..2 * ALLOWED {
            samples.push(sample(DropReason::NoRoute));
        }
        assert!(!samples.wanted(DropReason::NoRoute), "sampling does not end by itself");
        assert!(samples.wanted(DropReason::Replay), "one reason hides another");
        samples.push(sample(DropReason::Replay));
        assert_eq!(read(&samples, 0), (u64::from(ALLOWED) + 1, ALLOWED as usize + 1));
    }

    #[test]
    fn sampling_ends_when_no_more_requests_come() {
        let samples = DropSamples::default();
        for _ in 0..2 {
            read(&samples, 0);
            assert!(samples.watch() && !samples.watch(), "there is one watch");
            assert!(!samples.expire());
            read(&samples, 0);
            assert!(!samples.expire() && samples.wanted(DropReason::NoRoute), "ended too early");
            assert!(samples.expire() && !samples.wanted(DropReason::NoRoute), "does not end");
        }
    }

    #[test]
    fn each_listener_reads_every_sample_once_and_what_is_kept_is_bounded() {
        let samples = DropSamples::default();
        assert_eq!(read(&samples, 0), (0, 0));
        samples.push(sample(DropReason::NoRoute));
        assert_eq!((read(&samples, 0), read(&samples, 0)), ((1, 1), (1, 1)));
        assert_eq!(read(&samples, 1), (1, 0));
        for _ in 0..2 * CAPACITY / ALLOWED as usize {
            (0..ALLOWED).for_each(|_| samples.push(sample(DropReason::NoRoute)));
            read(&samples, u64::MAX);
        }
        assert_eq!(read(&samples, 0), (2 * CAPACITY as u64 + 1, CAPACITY));
        assert_eq!(read(&samples, u64::MAX), (2 * CAPACITY as u64 + 1, 0), "a number from the future");
    }

    #[test]
    fn a_sample_is_one_line_without_payload() {
        let text = sample(DropReason::NoRoute).to_string();
        assert_eq!(text, "outbound no_route: udp 10.0.0.1:4000 > 10.0.0.2:53, 34 bytes");
        let peer = PublicKey::from_bytes([1; 32]);
        let what = Dropped::packet(&packet()).with_peer(peer);
        let several = DropSample { packets: 3, what, ..sample(DropReason::TooBig) };
        assert!(several.to_string().ends_with(&format!(", 34 bytes, peer {peer}, 3 packets")), "{several}");
    }

    #[test]
    fn headers_are_described_as_far_as_they_are_there() {
        let mut fragment = packet();
        fragment[7] = 8;
        let from = "192.0.2.1:9".parse().unwrap();
        for (what, text) in [
            (Dropped::packet(&fragment), "udp 10.0.0.1 > 10.0.0.2, 34 bytes"),
            (Dropped::packet_of(&packet()[..21], 34), "udp 10.0.0.1 > 10.0.0.2, 34 bytes"),
            (Dropped::packet(b"x"), "not an IP packet, 1 bytes"),
            (Dropped::packet(&[]), "not an IP packet, 0 bytes"),
            (Dropped::datagram_from(from, 12), "datagram from 192.0.2.1:9, 12 bytes"),
            (Dropped::datagram_to(from, 12), "datagram to 192.0.2.1:9, 12 bytes"),
        ] {
            assert_eq!(what.to_string(), text);
        }
    }
}
