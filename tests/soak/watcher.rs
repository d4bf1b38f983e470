//! Watches the underlay for packets of the tunnel's inside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;

use laneway::cli::demo::lab::Side;
use nix::errno::Errno;
use nix::sys::socket::sockopt::{RcvBufForce, ReceiveTimeout};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, setsockopt, socket};
use nix::sys::time::{TimeVal, TimeValLike as _};

use super::flows::Marker;
use super::ledger::Ledger;

pub struct Watcher {
    over: Arc<AtomicBool>,
    seen: Arc<AtomicU64>,
    sockets: Vec<Arc<OwnedFd>>,
    threads: Vec<JoinHandle<()>>,
}

impl Watcher {
    /// Watches what arrives at `middle` on each of `devices`.
    pub fn start(middle: &Side, devices: [&'static str; 2], marker: Marker, ledger: &Arc<Ledger>) -> Watcher {
        let mut watcher =
            Watcher { over: Arc::default(), seen: Arc::default(), sockets: vec![], threads: vec![] };
        for device in devices {
            let socket = middle.namespace.run(|| open(device)).expect("enter").expect("a packet socket");
            setsockopt(&socket, RcvBufForce, &(64 << 20)).expect("a buffer");
            setsockopt(&socket, ReceiveTimeout, &TimeVal::milliseconds(50)).expect("a limit");
            let socket = Arc::new(socket);
            watcher.sockets.push(Arc::clone(&socket));
            let (over, seen, ledger) =
                (Arc::clone(&watcher.over), Arc::clone(&watcher.seen), Arc::clone(ledger));
            watcher.threads.push(std::thread::spawn(move || {
                let mut packet = vec![0; 1 << 17];
                while !over.load(Relaxed) {
                    let Ok(length) = recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty()) else {
                        continue;
                    };
                    seen.fetch_add(1, Relaxed);
                    if let Some(what) = inside(&packet[..length], &marker) {
                        ledger.broken(&format!("in the clear from the {device}: {what}"));
                    }
                }
            }));
        }
        watcher
    }

    /// Returns how many packets were seen, and how many the kernel could not show.
    pub fn stop(self) -> [u64; 2] {
        self.over.store(true, Relaxed);
        for thread in self.threads {
            thread.join().expect("a watcher");
        }
        let missed = self.sockets.iter().map(|socket| u64::from(missed(socket)));
        [self.seen.load(Relaxed), missed.sum()]
    }
}

/// Says what shows that a packet is from inside the tunnel: the marker, or an address that no host has outside.
fn inside(packet: &[u8], marker: &Marker) -> Option<String> {
    let address = |range: std::ops::Range<usize>| -> Option<IpAddr> {
        let bytes = packet.get(range)?;
        let long = <[u8; 16]>::try_from(bytes).map(|bytes| Ipv6Addr::from(bytes).into());
        long.or_else(|_| <[u8; 4]>::try_from(bytes).map(|bytes| Ipv4Addr::from(bytes).into())).ok()
    };
    let [from, to] = match packet.first()? >> 4 {
        4 => [address(12..16)?, address(16..20)?],
        6 => [address(8..24)?, address(24..40)?],
        _ => return None,
    };
    if ![from, to].into_iter().all(outside) {
        return Some(format!("{from} > {to}, {} bytes", packet.len()));
    }
    let found = packet.windows(marker.len()).any(|bytes| bytes == marker);
    found.then(|| format!("the marker, {from} > {to}, {} bytes", packet.len()))
}

/// Returns whether packets on the underlay may have this address: those of the hosts, link-local ones and groups.
fn outside(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            matches!(address.octets(), [192, 0, 2, _] | [198, 51, 100, _] | [0 | 224..=255, ..])
        }
        IpAddr::V6(address) => {
            let net = address.segments();
            matches!(net, [0x2001, 0xdb8, 1 | 2, 0, ..] | [0xfe80 | 0xff02, ..]) || address.is_unspecified()
        }
    }
}

/// Opens a socket that receives the packets that arrive on one device, without their link-layer header.
#[allow(unsafe_code)]
fn open(device: &str) -> nix::Result<OwnedFd> {
    // Without a protocol, so that it receives nothing before it is bound.
    let socket = socket(AddressFamily::Packet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let on: libc::c_int = 1;
    // SAFETY: the option is an int, which outlives the call, and its size is passed.
    Errno::result(unsafe {
        let (value, size) = ((&raw const on).cast(), size_of_val(&on) as libc::socklen_t);
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, value, size)
    })?;
    // SAFETY: all fields are integers or arrays of integers, for which zero is valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = nix::net::if_::if_nametoindex(device)?.cast_signed();
    // SAFETY: the address is a sockaddr_ll, which outlives the call, and its size is passed.
    Errno::result(unsafe {
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as libc::socklen_t)
    })?;
    Ok(socket)
}

/// Returns how many packets did not fit into the socket's buffer.
#[allow(unsafe_code)]
fn missed(socket: &OwnedFd) -> u32 {
    let mut counts = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut size = size_of_val(&counts) as libc::socklen_t;
    // SAFETY: the kernel writes at most `size` bytes, the size of `counts`, which is not borrowed elsewhere.
    let result = unsafe {
        let value = (&raw mut counts).cast();
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_PACKET, libc::PACKET_STATISTICS, value, &raw mut size)
    };
    Errno::result(result).expect("statistics");
    counts.tp_drops
}
