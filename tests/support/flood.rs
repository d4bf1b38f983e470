//! Floods of handshake messages, as somebody sends them who wants to keep a router busy.

use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use laneway::cli::demo::lab::Side;
use laneway::units::Nanos;
use laneway::wireguard::keys::{OsEntropy, PublicKey};
use laneway::wireguard::outputs::{Output, Outputs};
use laneway::wireguard::protocol::{Protocol, Settings};
use laneway::wireguard::table::SessionTable;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};

use super::process::output;
use super::router::key;

/// Datagrams a second.
pub const RATE: u64 = 20_000;

/// Every address under this /16 is the flooding side's own, once it [prepared](Flood::prepare).
const SOURCES: [u8; 2] = [198, 18];

/// Sockets that take turns, each with a port of its own.
const PORTS: usize = 16;

/// How often the sender catches up with its rate.
const TICK: Duration = Duration::from_millis(1);

/// The most that it catches up with: a machine that cannot send so many has other things to do, too.
const MOST: u64 = RATE / 50;

/// What the datagrams of a flood are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    /// Initiations with a wrong first MAC: the sender knows nothing.
    WrongMac,
    /// Initiations that are right in all but that their sender is no peer: it knows the router's public key.
    /// They cost the router two key agreements each if it lets them.
    Strangers,
    /// The same from 65,536 addresses, so that no limit per address helps.
    ManySources,
}

impl Flood {
    /// All.
    pub const ALL: [Flood; 3] = [Flood::WrongMac, Flood::Strangers, Flood::ManySources];

    /// Makes the many addresses local at `from`, and reachable from `to`.
    pub fn prepare(from: &Side, to: &Side) {
        let net = format!("{}.{}.0.0/16", SOURCES[0], SOURCES[1]);
        output(&from.namespace, &["ip", "route", "add", "local", &net, "dev", "lo"], "");
        output(&to.namespace, &["ip", "route", "add", &net, "via", &from.underlay4.to_string()], "");
    }

    /// Sends [`RATE`] datagrams a second from `side` to the router at `to` whose key is `victim`, until it is
    /// `over`; how many were sent.
    ///
    /// # Panics
    /// When there are no sockets to send from.
    pub fn run(self, side: &Side, to: SocketAddrV4, victim: &PublicKey, over: &AtomicBool) -> u64 {
        let mut message = initiation_of_a_stranger(victim);
        if self == Flood::WrongMac {
            *message.last_mut().expect("a message") ^= 1;
            // The first MAC is 16 bytes that end 16 before the end.
            let at = message.len() - 17;
            message[at] ^= 1;
        }
        let inside = || {
            let sockets: Vec<_> =
                (0..PORTS).map(|_| UdpSocket::bind("0.0.0.0:0").expect("a socket")).collect();
            let (start, mut sent, mut left_out) = (Instant::now(), 0, 0);
            while !over.load(Relaxed) {
                let due = start.elapsed().as_micros() as u64 * RATE / 1_000_000 - left_out;
                left_out += (due - sent).saturating_sub(MOST);
                let end = due.min(sent + MOST);
                while sent < end {
                    // The index is nobody's business but the sender's, and makes each message a new one.
                    self.send(&sockets[sent as usize % PORTS], &message, to, sent);
                    sent += 1;
                }
                thread::sleep(TICK);
            }
            sent
        };
        side.namespace.run(inside).expect("enter a namespace")
    }

    fn send(self, socket: &UdpSocket, message: &[u8], to: SocketAddrV4, number: u64) {
        let [.., high, low] = number.to_be_bytes();
        let source = Ipv4Addr::new(SOURCES[0], SOURCES[1], high, low);
        let info = libc::in_pktinfo {
            ipi_ifindex: 0,
            ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(source.octets()) },
            ipi_addr: libc::in_addr { s_addr: 0 },
        };
        let from = [ControlMessage::Ipv4PacketInfo(&info)];
        let from = if self == Flood::ManySources { &from[..] } else { &[] };
        // A full queue on the way is no failure of the test.
        let _ = sendmsg(
            socket.as_raw_fd(),
            &[IoSlice::new(message)],
            from,
            MsgFlags::empty(),
            Some(&SockaddrIn::from(to)),
        );
    }
}

/// Message 1 for the owner of `victim` from somebody whom it does not know.
fn initiation_of_a_stranger(victim: &PublicKey) -> Vec<u8> {
    let mut stranger = Protocol::new(Some(key()), Arc::new(SessionTable::new()), Settings::default());
    let peer = stranger.add_peer(*victim).expect("room for one peer");
    let (mut entropy, mut out) = (OsEntropy::new().expect("randomness"), Outputs::new());
    stranger.data_waits(Nanos(1), Duration::from_secs(1), &mut entropy, peer, &mut out);
    let sent = out.drain().find_map(|output| match output {
        Output::Send { datagram, .. } => Some(datagram.to_vec()),
        _ => None,
    });
    sent.expect("a handshake begins with a message")
}

/// Where the router of `side` listens, over IPv4.
pub fn target(side: &Side) -> SocketAddrV4 {
    match super::tunnel::Family::V4.endpoint(side) {
        SocketAddr::V4(address) => address,
        SocketAddr::V6(_) => unreachable!("asked for IPv4"),
    }
}
