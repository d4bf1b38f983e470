//! The longest inner packet that fits a peer's path, where the path MTU is below the TUN's.
//!
//! An outside worker learns the limit when the kernel refuses a GSO send whose datagrams exceed the
//! path MTU. Inside workers load it once per superpacket and reject longer packets, so that senders
//! lower their segment size.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::packet::reject::{MIN_MTU_V4, MIN_MTU_V6};
use crate::units::Nanos;
use crate::wireguard::messages::DATA_OVERHEAD;

/// How long a limit is valid. Only a longer packet can detect that the path MTU has grown, and it must
/// not be tried before five minutes have passed (RFC 8201, section 4).
pub const HOLDS: Duration = Duration::from_secs(5 * 60);

/// Minimum interval between queries of a peer's path MTU. A query costs a few system calls, and
/// datagrams sealed before the first answer need no second one.
pub const ASK_AGAIN: Duration = Duration::from_millis(10);

/// The limit shares a word with its expiry time, which is therefore rounded down by up to 65
/// microseconds.
const LIMIT_BITS: u64 = 0xffff;

/// A peer's limit, if any. Workers may overwrite each other's value: all values come from the kernel.
#[derive(Debug, Default)]
pub struct PathLimit {
    /// Expiry time in nanoseconds in the upper 48 bits, limit in bytes in the lower 16; zero for none.
    limit: AtomicU64,
    /// When the kernel was last queried, in nanoseconds.
    asked: AtomicU64,
}

impl PathLimit {
    /// Returns the longest inner packet in bytes, padding included, that is sent without
    /// fragmentation; `None` if no limit is known.
    #[inline]
    pub fn get(&self, now: Nanos) -> Option<usize> {
        let word = self.limit.load(Ordering::Relaxed);
        (word > now.0).then_some((word & LIMIT_BITS) as usize)
    }

    /// Sets the limit from `path_mtu`, the kernel's path MTU to `endpoint` in bytes.
    pub fn learn(&self, path_mtu: usize, endpoint: SocketAddr, now: Nanos) {
        let limit = inner_limit(path_mtu, endpoint.ip()) as u64;
        let end = now.after(HOLDS).0 & !LIMIT_BITS;
        self.limit.store(end | limit.min(LIMIT_BITS), Ordering::Relaxed);
    }

    /// Returns whether the caller may query the kernel now: at most once per [`ASK_AGAIN`].
    pub fn may_ask(&self, now: Nanos) -> bool {
        let asked = self.asked.load(Ordering::Relaxed);
        now.since(Nanos(asked)) >= ASK_AGAIN
            && self.asked.compare_exchange(asked, now.0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Returns the limit and its expiry time as a word; 0 for none.
    pub fn word(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Sets what [`word`](Self::word) has returned.
    pub fn set_word(&self, word: u64) {
        self.limit.store(word, Ordering::Relaxed);
    }

    /// Clears the limit, because the peer has moved to another address.
    pub fn forget(&self) {
        self.limit.store(0, Ordering::Relaxed);
        self.asked.store(0, Ordering::Relaxed);
    }
}

/// Returns the MTU in bytes to report to the sender of `packet` for a path limit of `limit` bytes.
///
/// It is never below the minimum MTU of the packet's IP version. Packets of that size are sent even if
/// they exceed `limit`, and the outer packet is fragmented (RFC 2473, section 7.1).
pub fn told_mtu(limit: usize, packet: &[u8]) -> usize {
    limit.max(if packet[0] >> 4 == 4 { MIN_MTU_V4 } else { MIN_MTU_V6 })
}

/// Returns the longest inner packet for a path MTU of `path_mtu` bytes: what remains after the outer IP
/// header, the UDP header and the data message's overhead. Padding never exceeds it.
fn inner_limit(path_mtu: usize, endpoint: IpAddr) -> usize {
    const UDP_HEADER: usize = 8;
    let ip_header = if endpoint.is_ipv4() { 20 } else { 40 };
    path_mtu.saturating_sub(ip_header + UDP_HEADER + DATA_OVERHEAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);
    const V6: SocketAddr = SocketAddr::new(IpAddr::V6(std::net::Ipv6Addr::LOCALHOST), 1);

    #[test]
    fn a_path_leaves_what_is_not_headers_to_the_inner_packet() {
        let limit = PathLimit::default();
        let now = Nanos(1 << 40);
        assert_eq!(limit.get(now), None);
        limit.learn(1280, V4, now);
        assert_eq!(limit.get(now), Some(1220));
        limit.learn(1500, V6, now);
        assert_eq!(limit.get(now), Some(1420), "WireGuard's default MTU");
        limit.learn(30, V6, now);
        assert_eq!(limit.get(now), Some(0));
        limit.learn(1 << 20, V6, now);
        assert_eq!(limit.get(now), Some(65_535));
    }

    #[test]
    fn a_limit_is_forgotten_after_its_time_and_when_the_peer_moves() {
        let limit = PathLimit::default();
        let now = Nanos(1 << 40);
        limit.learn(1280, V4, now);
        let nearly = Duration::from_micros(66);
        assert_eq!(limit.get(now.after(HOLDS.saturating_sub(nearly))), Some(1220));
        assert_eq!(limit.get(now.after(HOLDS + nearly)), None);
        assert!(limit.may_ask(now));
        limit.forget();
        assert_eq!(limit.get(now), None);
        assert!(limit.may_ask(now), "the new path has not been queried");
    }

    #[test]
    fn the_kernel_is_asked_once_in_a_while() {
        let limit = PathLimit::default();
        let now = Nanos(1 << 40);
        assert!(limit.may_ask(now));
        assert!(!limit.may_ask(now.after(ASK_AGAIN / 2)));
        assert!(limit.may_ask(now.after(ASK_AGAIN)));
    }

    #[test]
    fn nobody_is_told_less_than_the_protocol_takes() {
        assert_eq!((told_mtu(1208, &[0x45]), told_mtu(400, &[0x45])), (1208, 576));
        assert_eq!((told_mtu(1388, &[0x60]), told_mtu(1208, &[0x60])), (1388, 1280));
    }
}
