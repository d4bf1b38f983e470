//! How long an inner packet for a peer may be, where its path turned out to be narrower than the TUN.
//!
//! An outside worker learns it when the kernel refuses to group datagrams that are over the path MTU;
//! inside workers ask for it once per superpacket and reject what is longer, so that real TCP adapts.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::packet::reject::{MIN_MTU_V4, MIN_MTU_V6};
use crate::units::Nanos;
use crate::wireguard::messages::DATA_OVERHEAD;

/// How long a limit holds. A path may grow again, and only a longer packet can tell: no sooner than
/// after five minutes (RFC 8201, section 4).
pub const HOLDS: Duration = Duration::from_mins(5);

/// How long the kernel is not asked about a peer's path again. Asking costs a few system calls, and
/// what was sealed before the first answer needs no second one.
pub const ASK_AGAIN: Duration = Duration::from_millis(10);

/// The limit shares its word with the moment it ends, which loses 65 microseconds of it.
const LIMIT_BITS: u64 = 0xffff;

/// A peer's limit, if it has one. One worker's answer may replace another's: both are the kernel's.
#[derive(Debug, Default)]
pub struct PathLimit {
    /// End of validity in the upper bits, limit in bytes in the lower; zero for none.
    limit: AtomicU64,
    /// When the kernel was last asked.
    asked: AtomicU64,
}

impl PathLimit {
    /// The longest inner packet in bytes, padding included, that leaves in one piece. `None` if
    /// nothing is known to be in the way.
    #[inline]
    pub fn get(&self, now: Nanos) -> Option<usize> {
        let word = self.limit.load(Ordering::Relaxed);
        (word > now.0).then_some((word & LIMIT_BITS) as usize)
    }

    /// Notes the path MTU to `endpoint` in bytes, as the kernel knows it.
    pub fn learn(&self, path_mtu: usize, endpoint: SocketAddr, now: Nanos) {
        let limit = inner_limit(path_mtu, endpoint.ip()) as u64;
        let end = now.after(HOLDS).0 & !LIMIT_BITS;
        self.limit.store(end | limit.min(LIMIT_BITS), Ordering::Relaxed);
    }

    /// Whether the kernel is to be asked now: at most once per [`ASK_AGAIN`].
    pub fn may_ask(&self, now: Nanos) -> bool {
        let asked = self.asked.load(Ordering::Relaxed);
        now.since(Nanos(asked)) >= ASK_AGAIN
            && self.asked.compare_exchange(asked, now.0, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// The peer is somewhere else now.
    pub fn forget(&self) {
        self.limit.store(0, Ordering::Relaxed);
        self.asked.store(0, Ordering::Relaxed);
    }
}

/// The MTU that a sender is told where `limit` bytes leave in one piece. Below what its protocol takes
/// at the least, packets of that size are sent all the same: the outer packet is then fragmented (RFC
/// 2473, section 7.1).
pub fn told_mtu(limit: usize, packet: &[u8]) -> usize {
    limit.max(if packet[0] >> 4 == 4 { MIN_MTU_V4 } else { MIN_MTU_V6 })
}

/// What a path of `path_mtu` bytes leaves for the inner packet: without the outer IP header, UDP's and
/// what a data message adds. Padding never goes beyond it.
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
        assert_eq!(limit.get(now), Some(1420), "the MTU that WireGuard has by default");
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
        assert!(limit.may_ask(now), "the new path has not been asked about");
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
