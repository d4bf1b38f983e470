//! Floods of handshake messages, as an attacker sends them to keep a router busy.

use laneway::wireguard::settings::Settings;
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
use laneway::wireguard::protocol::Protocol;
use laneway::wireguard::table::SessionTable;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg};

use super::process::output;
use super::router::key;

/// Datagrams per second.
pub const RATE: u64 = 20_000;

/// Every address in this /16 belongs to the flooding side after [`prepare`](Flood::prepare).
const SOURCES: [u8; 2] = [198, 18];

/// The number of sockets that take turns, each with its own port.
const PORTS: usize = 16;

/// How often the sender catches up with its rate.
const TICK: Duration = Duration::from_millis(1);

/// The most datagrams to catch up with at once; the rest are left out, for machines too slow for the rate.
const MOST: u64 = RATE / 50;

/// The kind of datagrams in a flood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    /// Initiations with a wrong mac1: the sender knows nothing about the router.
    WrongMac,
    /// Valid initiations from a sender that is not a peer but knows the router's public key. Each costs the router
    /// two key agreements if accepted.
    Strangers,
    /// Like [`Strangers`](Flood::Strangers) from 65,536 addresses, so that no per-address limit applies.
    ManySources,
}

impl Flood {
    /// All kinds.
    pub const ALL: [Flood; 3] = [Flood::WrongMac, Flood::Strangers, Flood::ManySources];

    /// Makes the source addresses local at `from`, and reachable from `to`.
    pub fn prepare(from: &Side, to: &Side) {
        let net = format!("{}.{}.0.0/16", SOURCES[0], SOURCES[1]);
        output(&from.namespace, &["ip", "route", "add", "local", &net, "dev", "lo"], "");
        output(&to.namespace, &["ip", "route", "add", &net, "via", &from.underlay4.to_string()], "");
    }

    /// Sends [`RATE`] datagrams per second from `side` to the router at `to` whose key is `victim`, until `over`
    /// is set. Returns the number sent.
    ///
    /// # Panics
    /// If no socket can be bound.
    pub fn run(self, side: &Side, to: SocketAddrV4, victim: &PublicKey, over: &AtomicBool) -> u64 {
        let mut message = initiation_of_a_stranger(victim);
        if self == Flood::WrongMac {
            *message.last_mut().expect("a message") ^= 1;
            // mac1 is the 16 bytes before the last 16.
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
                    // The sender index is arbitrary; counting it up makes each message different.
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
        // A full queue along the way is not a test failure.
        let _ = sendmsg(
            socket.as_raw_fd(),
            &[IoSlice::new(message)],
            from,
            MsgFlags::empty(),
            Some(&SockaddrIn::from(to)),
        );
    }
}

/// Returns an initiation to the owner of `victim` from a key it does not know.
fn initiation_of_a_stranger(victim: &PublicKey) -> Vec<u8> {
    let mut stranger = Protocol::new(Some(key()), Arc::new(SessionTable::new(&[7; 8])), Settings::default());
    let peer = stranger.add_peer(*victim).expect("room for one peer");
    let (mut entropy, mut out) = (OsEntropy::new().expect("randomness"), Outputs::new());
    stranger.data_waits(Nanos(1), Duration::from_secs(1), &mut entropy, peer, &mut out);
    let sent = out.drain().find_map(|output| match output {
        Output::Send { datagram, .. } => Some(datagram.to_vec()),
        _ => None,
    });
    sent.expect("a handshake begins with a message")
}

/// Returns the IPv4 endpoint of the router at `side`.
pub fn target(side: &Side) -> SocketAddrV4 {
    match super::tunnel::Family::V4.endpoint(side) {
        SocketAddr::V4(address) => address,
        SocketAddr::V6(_) => unreachable!("asked for IPv4"),
    }
}
