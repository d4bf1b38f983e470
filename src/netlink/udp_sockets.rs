//! Lists the UDP sockets on a port, of all processes in the network namespace (`sock_diag(7)`).

use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket};
use nix::sys::time::{TimeVal, TimeValLike as _};
use nix::unistd::{read, write};

/// Lengths in bytes of `struct nlmsghdr` (`linux/netlink.h`), `struct inet_diag_req_v2` and `struct
/// inet_diag_msg` (`linux/inet_diag.h`).
const HEADER: usize = 16;
const REQUEST: usize = 56;
const MESSAGE: usize = 72;
/// `SOCK_DIAG_BY_FAMILY` (`linux/sock_diag.h`).
const BY_FAMILY: u16 = 20;
/// Offsets in `struct inet_diag_msg`.
const UID: usize = 64;
const INODE: usize = 68;
/// Buffer for one read. The kernel fills at most 32 KiB (`netlink_dump` in Linux's `net/netlink/af_netlink.c`).
const BUFFER: usize = 32 << 10;

/// A UDP socket of any process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UdpSocketInfo {
    /// The inode number, as in `/proc/PID/fd`.
    pub inode: u32,
    /// The user that created the socket.
    pub uid: u32,
}

/// A netlink socket that lists UDP sockets of the network namespace it was opened in.
#[derive(Debug)]
pub struct UdpSockets {
    netlink: OwnedFd,
    buffer: Vec<u8>,
}

impl UdpSockets {
    /// Opens the netlink socket.
    ///
    /// # Errors
    /// Fails if the kernel has no `sock_diag`, or no descriptor is left.
    pub fn open() -> io::Result<Self> {
        let protocol = SockProtocol::NetlinkSockDiag;
        let netlink = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        // The kernel answers within the call; the limit only keeps a mistake from blocking the thread.
        setsockopt(&netlink, ReceiveTimeout, &TimeVal::seconds(1))?;
        Ok(UdpSockets { netlink, buffer: vec![0; BUFFER] })
    }

    /// Returns the IPv4 and IPv6 sockets bound to `port`.
    ///
    /// # Errors
    /// Fails if the kernel refuses the request: `ENOENT` if it has no `udp_diag`.
    pub fn on(&mut self, port: u16) -> io::Result<Vec<UdpSocketInfo>> {
        let mut found = Vec::new();
        for family in [libc::AF_INET as u8, libc::AF_INET6 as u8] {
            write(&self.netlink, &request(family, port))?;
            while {
                let read = read(&self.netlink, &mut self.buffer)?;
                take(&self.buffer[..read], &mut found)?
            } {}
        }
        Ok(found)
    }
}

/// Returns a request for all UDP sockets of `family` on the local `port`.
fn request(family: u8, port: u16) -> [u8; HEADER + REQUEST] {
    let mut bytes = [0; HEADER + REQUEST];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &((HEADER + REQUEST) as u32).to_ne_bytes());
    put(4, &BY_FAMILY.to_ne_bytes());
    put(6, &((libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16).to_ne_bytes());
    put(HEADER, &[family, libc::IPPROTO_UDP as u8]);
    // In any state.
    put(HEADER + 4, &u32::MAX.to_ne_bytes());
    put(HEADER + 8, &port.to_be_bytes());
    bytes
}

/// Takes the sockets from one read. Returns whether more follow.
pub(crate) fn take(mut bytes: &[u8], found: &mut Vec<UdpSocketInfo>) -> io::Result<bool> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    while !bytes.is_empty() {
        let length = u32_at(bytes, 0).ok_or_else(invalid)? as usize;
        let kind = bytes.get(4..6).ok_or_else(invalid)?;
        let message = bytes.get(HEADER..length).ok_or_else(invalid)?;
        match i32::from(u16::from_ne_bytes([kind[0], kind[1]])) {
            libc::NLMSG_DONE => return Ok(false),
            libc::NLMSG_ERROR => {
                let code = u32_at(message, 0).ok_or_else(invalid)?.cast_signed();
                return Err(Errno::from_raw(code.wrapping_neg()).into());
            }
            kind if kind == i32::from(BY_FAMILY) && message.len() >= MESSAGE => {
                let field = |at| u32_at(message, at).ok_or_else(invalid);
                found.push(UdpSocketInfo { inode: field(INODE)?, uid: field(UID)? });
            }
            _ => {}
        }
        // Messages are aligned to four bytes.
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(true)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    use nix::sys::stat::fstat;
    use proptest::prelude::*;

    use super::*;

    fn inode(socket: impl AsFd) -> u32 {
        fstat(socket).unwrap().st_ino as u32
    }

    #[test]
    fn sockets_of_both_families_are_listed_by_port() {
        let v4 = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = v4.local_addr().unwrap().port();
        let v6 = UdpSocket::bind(("::1", port)).unwrap();
        let other = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut sockets = UdpSockets::open().unwrap();
        let uid = nix::unistd::geteuid().as_raw();
        for _ in 0..2 {
            let listed = sockets.on(port).unwrap();
            assert!(listed.contains(&UdpSocketInfo { inode: inode(&v4), uid }), "{listed:?}");
            assert!(listed.contains(&UdpSocketInfo { inode: inode(&v6), uid }), "{listed:?}");
            assert!(listed.iter().all(|socket| socket.inode != inode(&other)), "{listed:?}");
        }
        drop((v4, v6));
        assert_eq!(sockets.on(port).unwrap(), []);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic_or_loop(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = take(&bytes, &mut Vec::new());
        }
    }
}
