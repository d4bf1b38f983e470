//! Why packets are dropped. Every dropped packet has one of these reasons, and every reason is a
//! label of `laneway_dropped_packets_total`.

use crate::counts::Counts;

/// Declares the reasons once: variant, label and meaning.
macro_rules! reasons {
    ($($(#[$meaning:meta])* $variant:ident = $label:literal,)*) => {
        /// The reason a packet went no further.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[$meaning])* $variant,)*
        }

        impl DropReason {
            /// Every reason, in the order of their discriminants.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)*];

            /// The value of the `reason` label.
            pub const fn label(self) -> &'static str {
                match self {
                    $(DropReason::$variant => $label,)*
                }
            }
        }
    };
}

reasons! {
    // Invalid TUN reads (see `offload/superpacket.rs`).
    /// Shorter than a virtio header, or than the IP header it should start with.
    ShortRead = "short_read",
    /// Neither IPv4 nor IPv6.
    NotIp = "not_ip",
    /// The IP header's lengths do not fit the bytes that are there.
    IpLength = "ip_length",
    /// A GSO type that TUN never hands over: UFO, RSC, or unknown.
    GsoType = "gso_type",
    /// The GSO type names another IP version or protocol than the packet has.
    GsoMismatch = "gso_mismatch",
    /// The ECN bit on something that is not TCP.
    GsoEcn = "gso_ecn",
    /// GSO with a segment size of zero.
    GsoSize = "gso_size",
    /// The checksum start or offset points outside the packet, or not at its transport header.
    ChecksumStart = "checksum_start",
    /// The tunnel offsets of a superpacket do not lead to its outer UDP and inner IP headers.
    TunnelOffsets = "tunnel_offsets",
    /// A transport header that is cut short or has an impossible data offset.
    TransportHeader = "transport_header",

    // On the way out.
    /// No peer's allowed IPs hold the destination.
    NoRoute = "no_route",
    /// The peer has no endpoint yet.
    NoEndpoint = "no_endpoint",
    /// Waited for a handshake until newer packets needed the room.
    StagingFull = "staging_full",
    /// Waited for a handshake that was given up.
    HandshakeFailed = "handshake_failed",
    /// Waited for a handshake with a peer that was removed, or was sealed for one.
    PeerRemoved = "peer_removed",
    /// The packet does not fit the path to its peer.
    TooBig = "too_big",
    /// A datagram of our own, back through the TUN: the route to its peer's endpoint leads into the tunnel.
    RoutingLoop = "routing_loop",
    /// The kernel refused the datagram.
    SendError = "send_error",
    /// A handshake message, cookie or keepalive of our own found its queue to the outside worker full.
    ControlQueueFull = "control_queue_full",

    // On the way in.
    /// An empty datagram.
    EmptyDatagram = "empty_datagram",
    /// Not a WireGuard message, or one of a wrong length.
    NotWireGuard = "not_wireguard",
    /// Longer than the receive buffer.
    Oversized = "oversized",
    /// A receiver index that names no session.
    UnknownIndex = "unknown_index",
    /// The session is too old, or has carried too many messages.
    SessionExpired = "session_expired",
    /// The AEAD tag is wrong.
    Authentication = "authentication",
    /// A counter that was seen before, or that is too old to tell.
    Replay = "replay",
    /// The opened payload is not an IP packet that fits its datagram.
    InnerPacket = "inner_packet",
    /// The inner source address is not the sending peer's by allowed IPs.
    SourceNotAllowed = "source_not_allowed",
    /// The outer header was marked "congestion experienced" and the inner packet is not ECN-capable (RFC 6040).
    EcnNotCapable = "ecn_not_capable",
    /// The inside worker's ring was full.
    InboxFull = "inbox_full",
    /// The peer actor's ring was full.
    PeerInboxFull = "peer_inbox_full",

    // Both directions.
    /// Its queue had not run empty for a while, and its sender is not ECN-capable.
    StandingQueue = "standing_queue",

    // Writing to the TUN.
    /// The TUN interface is down.
    InterfaceDown = "interface_down",
    /// The TUN refused the packet.
    TunWrite = "tun_write",
    /// The router was told to stop.
    Shutdown = "shutdown",
    /// In the hands of a worker that panicked and was restarted.
    WorkerRestart = "worker_restart",
}

impl DropReason {
    /// How many reasons there are.
    pub const COUNT: usize = Self::ALL.len();
}

/// A worker's own count of drops by reason, until it publishes them.
#[derive(Clone, Debug, Default)]
pub struct DropTally(Counts<{ DropReason::COUNT }>);

impl DropTally {
    /// Counts `packets` dropped for `reason`.
    #[inline]
    pub fn add(&mut self, reason: DropReason, packets: u64) {
        self.0.add(reason as usize, packets);
    }

    /// How many packets were dropped for `reason`.
    pub fn of(&self, reason: DropReason) -> u64 {
        self.0.of(reason as usize)
    }

    /// How many packets were dropped for all reasons.
    pub fn total(&self) -> u64 {
        self.0.total()
    }

    /// Hands over and clears every count that is not zero.
    #[inline]
    pub fn take(&mut self, mut each: impl FnMut(DropReason, u64)) {
        self.0.take(|index, packets| each(DropReason::ALL[index], packets));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_label_of_its_own() {
        let mut labels: Vec<_> = DropReason::ALL.iter().map(|r| r.label()).collect();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), DropReason::COUNT);
    }

    #[test]
    fn taking_hands_over_each_count_once() {
        let mut tally = DropTally::default();
        tally.add(DropReason::Replay, 3);
        tally.add(DropReason::NoRoute, 1);
        let mut taken = Vec::new();
        tally.take(|reason, n| taken.push((reason, n)));
        assert_eq!(taken, [(DropReason::NoRoute, 1), (DropReason::Replay, 3)]);
        tally.take(|_, _| panic!("nothing is left"));
    }
}
