//! Socket selection within a `SO_REUSEPORT` group: a classic BPF program replaces the kernel's hash.
//!
//! The kernel runs the program on each datagram or GRO group, from the UDP payload on (`reuseport_select_sock` in
//! `net/core/sock_reuseport.c`). Loads are big-endian.

use std::fmt;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use libc::{
    BPF_A, BPF_ABS, BPF_ADD, BPF_ALU, BPF_AND, BPF_B, BPF_H, BPF_IND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP,
    BPF_K, BPF_LD, BPF_LEN, BPF_LSH, BPF_MEM, BPF_MISC, BPF_MOD, BPF_MUL, BPF_RET, BPF_RSH, BPF_ST, BPF_TAX,
    BPF_W, BPF_X, BPF_XOR, sock_filter, socklen_t,
};
use nix::errno::Errno;

/// Offset of the IP header. Plain offsets start at the payload, because the kernel removes the UDP header before it
/// runs the program.
const NET: u32 = libc::SKF_NET_OFF.cast_unsigned();

/// 2^32 divided by the golden ratio. Multiplying by it carries every bit of an address into the upper half.
const GOLDEN: u32 = 0x9e37_79b1;

/// A socket index outside any group, for which the kernel falls back to its hash.
const NO_SOCKET: u32 = u32::MAX;

/// Selects the socket in `fd`'s reuseport group by (hash of the source address + source port) modulo `sockets`, the
/// number of sockets in the group. Sockets are numbered in the order they were bound.
///
/// Datagrams from `sockets` consecutive ports of one address reach every socket, which a plain hash does not
/// guarantee. Datagrams from one address and port always reach the same socket, and sources with the same port but
/// different addresses, common among WireGuard peers, are spread as by a hash.
///
/// # Errors
/// `ENOPROTOOPT` before Linux 4.5, `EINVAL` if `fd` is not in a group.
///
/// # Panics
/// If `sockets` is zero.
pub fn pick_by_source(fd: BorrowedFd<'_>, sockets: u32) -> io::Result<()> {
    assert!(sockets > 0, "a reuseport group has at least one socket");
    attach(fd, &program_by_source(sockets))
}

/// A hash of the receiver indices of data messages, which selects a socket.
///
/// It has a secret, since an observer who could compute it would learn which sessions have a lane in common. It is not
/// cryptographic: somebody who collects the indices of many sessions of one peer, which all have one lane, may find the
/// secret, and with it that bit or two of other sessions.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct IndexHash {
    mask: u32,
    factors: [u32; 2],
}

impl IndexHash {
    /// Creates the hash with 12 secret bytes.
    pub fn new(secret: &[u8; 12]) -> Self {
        let word = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| secret[at + byte]));
        IndexHash { mask: word(0), factors: [word(4) | 1, word(8) | 1] }
    }

    /// Returns the number of the socket, among `sockets`, that receives the data messages for `index`, as the program
    /// does.
    ///
    /// # Panics
    /// If `sockets` is zero.
    #[inline]
    pub fn socket(&self, index: u32, sockets: u32) -> u32 {
        // Little-endian in the message, but read as big-endian, as classic BPF reads.
        let mixed = (index.swap_bytes() ^ self.mask).wrapping_mul(self.factors[0]);
        let mixed = (mixed ^ mixed >> 16).wrapping_mul(self.factors[1]);
        (mixed >> 16) % sockets
    }
}

impl fmt::Debug for IndexHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IndexHash").finish_non_exhaustive()
    }
}

/// Selects the socket in `fd`'s reuseport group by `hash` of the receiver index of WireGuard's data messages. `sockets` is
/// the number of sockets in the group, which are numbered in the order in which they were bound. Other datagrams are left
/// to the kernel's hash (before Linux 4.19, all of them get one socket).
///
/// # Errors
/// `ENOPROTOOPT` before Linux 4.5, `EINVAL` if `fd` is not in a group.
///
/// # Panics
/// If `sockets` is zero.
pub fn pick_by_index(fd: BorrowedFd<'_>, sockets: u32, hash: IndexHash) -> io::Result<()> {
    assert!(sockets > 0, "a reuseport group has at least one socket");
    attach(fd, &program_by_index(sockets, hash))
}

/// Replaces the selection in `fd`'s group by `program`.
fn attach(fd: BorrowedFd<'_>, program: &[sock_filter]) -> io::Result<()> {
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    // SAFETY: the kernel reads one sock_fprog and then `len` instructions through its pointer, a slice of that length
    // that outlives the call. It validates the program, writes nothing and keeps no pointer.
    let done = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const filter).cast(),
            mem::size_of_val(&filter) as socklen_t,
        )
    };
    Errno::result(done)?;
    Ok(())
}

/// Builds the program of [`pick_by_index`].
#[rustfmt::skip]
fn program_by_index(sockets: u32, IndexHash { mask, factors }: IndexHash) -> [sock_filter; 15] {
    /// The first four bytes of a data message: its type, 4, and three reserved bytes.
    const DATA: u32 = 4 << 24;
    const RECEIVER: u32 = 4;
    const RECEIVER_END: u32 = 8;
    [
        // A load past the end would end the program with 0, the first socket.
        /*  0 */ op(BPF_LD | BPF_W | BPF_LEN, 0),
        /*  1 */ skip_unless_at_least(RECEIVER_END, 2),
        /*  2 */ load(BPF_W, 0),
        /*  3 */ skip_if(DATA, 1),
        /*  4 */ op(BPF_RET | BPF_K, NO_SOCKET),
        /*  5 */ load(BPF_W, RECEIVER),
        /*  6 */ alu(BPF_XOR, mask),
        /*  7 */ alu(BPF_MUL, factors[0]),
        /*  8 */ keep_in_x(),
        /*  9 */ alu(BPF_RSH, 16),
        /* 10 */ with_x(BPF_XOR),
        /* 11 */ alu(BPF_MUL, factors[1]),
        /* 12 */ alu(BPF_RSH, 16),
        /* 13 */ alu(BPF_MOD, sockets),
        /* 14 */ op(BPF_RET | BPF_A, 0),
    ]
}

/// Builds the program of [`pick_by_source`]. A load past the end of the packet ends it with 0, the first socket. Packets
/// with IPv6 extension headers are left to the kernel's hash.
#[rustfmt::skip]
fn program_by_source(sockets: u32) -> [sock_filter; 33] {
    const NEXT_HEADER: u32 = 6;
    const PORT_AFTER_IPV6: u32 = 40;
    const IPV4_SOURCE: u32 = 12;
    const IPV6_SOURCE: u32 = 8;
    [
        /*  0 */ load(BPF_B, NET),
        /*  1 */ alu(BPF_RSH, 4),
        /*  2 */ skip_if(6, 8),
        // IPv4: the header length in the first byte locates the UDP header.
        /*  3 */ load(BPF_B, NET),
        /*  4 */ alu(BPF_AND, 0xf),
        /*  5 */ alu(BPF_LSH, 2),
        /*  6 */ keep_in_x(),
        /*  7 */ op(BPF_LD | BPF_H | BPF_IND, NET),
        /*  8 */ op(BPF_ST, 0),
        /*  9 */ load(BPF_W, NET + IPV4_SOURCE),
        /* 10 */ op(BPF_JMP | BPF_JA, 15),
        // IPv6.
        /* 11 */ load(BPF_B, NET + NEXT_HEADER),
        /* 12 */ skip_if(libc::IPPROTO_UDP.cast_unsigned(), 1),
        /* 13 */ op(BPF_RET | BPF_K, NO_SOCKET),
        /* 14 */ load(BPF_H, NET + PORT_AFTER_IPV6),
        /* 15 */ op(BPF_ST, 0),
        /* 16 */ load(BPF_W, NET + IPV6_SOURCE),
        /* 17 */ keep_in_x(),
        /* 18 */ load(BPF_W, NET + IPV6_SOURCE + 4),
        /* 19 */ with_x(BPF_XOR),
        /* 20 */ keep_in_x(),
        /* 21 */ load(BPF_W, NET + IPV6_SOURCE + 8),
        /* 22 */ with_x(BPF_XOR),
        /* 23 */ keep_in_x(),
        /* 24 */ load(BPF_W, NET + IPV6_SOURCE + 12),
        /* 25 */ with_x(BPF_XOR),
        // Both: the port is in memory slot 0, the folded address in the accumulator.
        /* 26 */ alu(BPF_MUL, GOLDEN),
        /* 27 */ alu(BPF_RSH, 16),
        /* 28 */ keep_in_x(),
        /* 29 */ op(BPF_LD | BPF_MEM, 0),
        /* 30 */ with_x(BPF_ADD),
        /* 31 */ alu(BPF_MOD, sockets),
        /* 32 */ op(BPF_RET | BPF_A, 0),
    ]
}

const fn op(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

const fn load(size: u32, at: u32) -> sock_filter {
    op(BPF_LD | size | BPF_ABS, at)
}

const fn alu(what: u32, k: u32) -> sock_filter {
    op(BPF_ALU | what | BPF_K, k)
}

const fn with_x(what: u32) -> sock_filter {
    op(BPF_ALU | what | BPF_X, 0)
}

const fn keep_in_x() -> sock_filter {
    op(BPF_MISC | BPF_TAX, 0)
}

/// Skips `count` instructions if the accumulator equals `k`.
const fn skip_if(k: u32, count: u8) -> sock_filter {
    sock_filter { code: (BPF_JMP | BPF_JEQ | BPF_K) as u16, jt: count, jf: 0, k }
}

/// Skips `count` instructions if the accumulator is less than `k`.
const fn skip_unless_at_least(k: u32, count: u8) -> sock_filter {
    sock_filter { code: (BPF_JMP | BPF_JGE | BPF_K) as u16, jt: 0, jf: count, k }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
    use std::os::fd::AsFd as _;
    use std::time::Duration;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use socket2::{Domain, Socket, Type};

    use super::*;
    use crate::sys::udp::IntOption;

    const SOCKETS: usize = 4;

    /// Returns [`SOCKETS`] sockets on one port of all IPv4 and IPv6 addresses, and the port.
    fn group() -> (Vec<Socket>, u16) {
        let mut port = 0;
        let bind = |_| {
            let socket = Socket::new(Domain::IPV6, Type::DGRAM, None).unwrap();
            socket.set_only_v6(false).unwrap();
            socket.set_reuse_port(true).unwrap();
            socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into()).unwrap();
            port = socket.local_addr().unwrap().as_socket().unwrap().port();
            socket
        };
        let sockets: Vec<_> = (0..SOCKETS).map(bind).collect();
        pick_by_source(sockets[0].as_fd(), SOCKETS as u32).unwrap();
        (sockets, port)
    }

    fn met(group: &(Vec<Socket>, u16), from: &UdpSocket) -> usize {
        receiver(group, from, &[4; 64])
    }

    /// Sends `message` from `from` and returns the index of the socket that receives it.
    fn receiver(group: &(Vec<Socket>, u16), from: &UdpSocket, message: &[u8]) -> usize {
        let home: IpAddr = match from.local_addr().unwrap() {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        from.send_to(message, (home, group.1)).unwrap();
        let mut polled: Vec<_> = group.0.iter().map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)).collect();
        let patience = PollTimeout::try_from(Duration::from_secs(20)).unwrap();
        assert_eq!(poll(&mut polled, patience), Ok(1));
        let met = polled.iter().position(|socket| socket.any() == Some(true)).unwrap();
        group.0[met].recv(&mut [mem::MaybeUninit::uninit(); 64]).unwrap();
        met
    }

    /// Returns sockets on consecutive ports of `address`.
    fn consecutive(address: IpAddr) -> Vec<UdpSocket> {
        loop {
            let first = UdpSocket::bind((address, 0)).unwrap();
            let port = first.local_addr().unwrap().port();
            let more = (1..SOCKETS).map(|i| UdpSocket::bind((address, port.checked_add(i as u16)?)).ok());
            if let Some(sockets) = std::iter::once(Some(first)).chain(more).collect() {
                return sockets;
            }
        }
    }

    #[test]
    fn each_of_as_many_consecutive_ports_meets_a_socket_of_its_own() {
        let group = group();
        let addresses: [IpAddr; 3] =
            [Ipv4Addr::LOCALHOST.into(), [127, 9, 8, 7].into(), Ipv6Addr::LOCALHOST.into()];
        for address in addresses {
            for _ in 0..8 {
                let senders = consecutive(address);
                let met: Vec<_> = senders.iter().map(|sender| met(&group, sender)).collect();
                let turned: Vec<_> = (0..SOCKETS).map(|i| (met[0] + i) % SOCKETS).collect();
                assert_eq!(met, turned, "{address}");
            }
        }
    }

    #[test]
    fn options_of_ipv4_hide_the_port_from_nobody() {
        let group = group();
        let senders = consecutive(Ipv4Addr::LOCALHOST.into());
        let plain: Vec<_> = senders.iter().map(|sender| met(&group, sender)).collect();
        for sender in &senders {
            // Four "no operation" options.
            IntOption::new(libc::SOL_IP, libc::IP_OPTIONS).set(sender.as_fd(), 0x0101_0101).unwrap();
        }
        let with_options: Vec<_> = senders.iter().map(|sender| met(&group, sender)).collect();
        assert_eq!(plain, with_options);
    }

    #[test]
    fn peers_on_one_port_are_spread_by_their_addresses_and_each_keeps_its_socket() {
        let group = group();
        let port = UdpSocket::bind("127.0.1.0:0").unwrap().local_addr().unwrap().port();
        let mut peers = [0; SOCKETS];
        for host in 1..=64 {
            let peer = UdpSocket::bind((Ipv4Addr::new(127, 0, 1, host), port)).unwrap();
            let first = met(&group, &peer);
            assert_eq!(met(&group, &peer), first);
            peers[first] += 1;
        }
        assert!(peers.iter().all(|count| (8..=24).contains(count)), "{peers:?}");
    }

    #[test]
    fn data_messages_meet_the_socket_of_their_index_whoever_sends_them() {
        let group = group();
        let hash = IndexHash::new(b"a secret one");
        pick_by_index(group.0[0].as_fd(), SOCKETS as u32, hash).unwrap();
        let senders: [UdpSocket; 2] =
            [UdpSocket::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("[::1]:0").unwrap()];
        for index in (0..64).map(|number: u32| number.wrapping_mul(0x0123_4567)) {
            let mut message = [0; 64];
            message[0] = 4;
            message[4..8].copy_from_slice(&index.to_le_bytes());
            for sender in &senders {
                assert_eq!(receiver(&group, sender, &message), hash.socket(index, SOCKETS as u32) as usize);
            }
        }
    }

    #[test]
    fn other_messages_meet_the_socket_of_the_kernels_hash() {
        let group = group();
        pick_by_index(group.0[0].as_fd(), SOCKETS as u32, IndexHash::new(b"a secret one")).unwrap();
        let mut met = [0; SOCKETS];
        for _ in 0..64 {
            let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
            let first = receiver(&group, &sender, &[1; 148]);
            // Other types, and datagrams that are too short for an index.
            for other in [&[3; 64][..], &[4, 0, 0, 0, 1, 2, 3], &[4, 0, 0, 0], &[4], &[]] {
                assert_eq!(receiver(&group, &sender, other), first, "{other:?}");
            }
            met[first] += 1;
        }
        assert!(met.iter().all(|count| *count > 0), "{met:?}");
    }

    #[test]
    fn a_socket_without_a_group_is_refused() {
        let alone = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(pick_by_source(alone.as_fd(), 1).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
}
