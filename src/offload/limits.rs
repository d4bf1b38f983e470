//! Size limits of the superpackets that the kernel accepts.

use super::superpacket::SuperpacketKind;
use crate::units::MAX_PACKET;

/// Maximum number of segments and bytes in one superpacket.
///
/// A limit of one segment disables coalescing, so an unsupported offload needs no code path of its
/// own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Maximum TCP segments.
    pub tcp_segments: usize,
    /// Maximum UDP segments.
    pub udp_segments: usize,
    /// Maximum TCP segments inside a UDP tunnel. Has no effect without UDP superpackets.
    pub tunnel_segments: usize,
    /// Maximum bytes, IP and transport headers included.
    pub bytes: usize,
    /// Whether UDP datagrams without a checksum are merged if they go to the port of a known
    /// encapsulation. The superpacket gives them a correct checksum in place of none.
    pub fill_checksums: bool,
}

impl Limits {
    /// No coalescing.
    pub const NONE: Limits = Limits { tcp_segments: 1, udp_segments: 1, ..Self::SAFE };

    /// Limits that every kernel with both offloads accepts: 64 segments (`UDP_MAX_SEGMENTS` in
    /// `include/linux/udp.h` before Linux 6.9).
    /// Without superpackets inside tunnels: see [`Limits::with_tunnels`].
    pub const SAFE: Limits = Limits {
        tcp_segments: 64,
        udp_segments: 64,
        tunnel_segments: 1,
        bytes: MAX_PACKET,
        fill_checksums: false,
    };

    /// Returns the limits of a kernel of this `release` (as printed by `uname -r`) with the granted
    /// offloads `tcp` and `udp`. An unreadable release is treated as an old kernel.
    pub fn for_kernel(release: &str, tcp: bool, udp: bool) -> Limits {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
        let version = match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
            _ => (0, 0),
        };
        // Linux 6.9 raised UDP_MAX_SEGMENTS to 128.
        let udp_segments = if version >= (6, 9) { 128 } else { Self::SAFE.udp_segments };
        Limits {
            tcp_segments: if tcp { Self::SAFE.tcp_segments } else { 1 },
            udp_segments: if udp { udp_segments } else { 1 },
            ..Self::SAFE
        }
    }

    /// Returns these limits for a kernel that takes superpackets inside UDP tunnels.
    #[must_use]
    pub const fn with_tunnels(self) -> Limits {
        Limits { tunnel_segments: self.tcp_segments, ..self }
    }

    /// Returns whether superpackets of any kind are written.
    #[inline]
    pub const fn merges(&self) -> bool {
        self.tcp_segments > 1 || self.udp_segments > 1
    }

    /// Returns whether superpackets inside UDP tunnels are written.
    #[inline]
    pub const fn merges_tunnels(&self) -> bool {
        self.tunnel_segments > 1 && self.udp_segments > 1
    }

    /// Returns the maximum number of segments in a superpacket of this kind.
    #[inline]
    pub const fn segments(&self, kind: SuperpacketKind) -> usize {
        match kind {
            SuperpacketKind::None => 1,
            SuperpacketKind::UdpTunnel => self.tunnel_segments,
            SuperpacketKind::Tso4 | SuperpacketKind::Tso6 => self.tcp_segments,
            SuperpacketKind::Uso4 | SuperpacketKind::Uso6 => self.udp_segments,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newer_kernels_take_longer_udp_superpackets() {
        let udp = |release| Limits::for_kernel(release, true, true).udp_segments;
        assert_eq!(udp("6.8.12-generic"), 64);
        assert_eq!(udp("6.9.0"), 128);
        assert_eq!(udp("6.10-rc1"), 128);
        assert_eq!(udp("7.0"), 128);
        assert_eq!(udp("4.9.337"), 64);
        assert_eq!(udp("unreadable"), 64);
    }

    #[test]
    fn an_offload_that_was_not_granted_means_one_segment() {
        assert_eq!(Limits::for_kernel("6.18", false, false), Limits::NONE);
        let tcp_only = Limits::for_kernel("6.1", true, false);
        assert_eq!((tcp_only.tcp_segments, tcp_only.udp_segments), (64, 1));
        assert_eq!(tcp_only.tunnel_segments, 1);
        assert_eq!(tcp_only.with_tunnels().segments(SuperpacketKind::UdpTunnel), 64);
        assert_eq!(Limits::NONE.with_tunnels(), Limits::NONE);
    }
}
