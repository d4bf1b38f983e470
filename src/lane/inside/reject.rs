//! Answers packets from the TUN that are not sent, and writes back packets for the device's own
//! address.
//!
//! Called from the outbound path while the read buffer is still borrowed, so answers go to the TUN
//! through a scratch buffer. There is at most one reject per superpacket, and their rate is limited.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};

use crate::faults::{self, Stage};
use crate::metrics::{InsideMetrics, RejectKind};
use crate::offload::{QueueRejecter, Superpacket};
use crate::packet::reject::{self, Answer, Cause, MAX_REJECT};
use crate::units::Nanos;

/// Sustained rejects per second per queue, for refusals and too-big messages each. Linux's default for
/// the whole host is the same (`net.ipv4.icmp_msgs_per_sec`).
pub const REJECTS_PER_SECOND: u64 = 1000;

/// Rejects a queue may write in a burst: enough for a program that opens many connections.
pub const REJECT_BURST: u64 = 200;

/// What to do with packets that match no peer's allowed IPs or whose peer has no endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RejectPolicy {
    /// Answers like a firewall: with a TCP reset or "administratively prohibited".
    #[default]
    Reject,
    /// Answers like a router: with a TCP reset or "no route to destination".
    Unreachable,
    /// Drops silently.
    Drop,
}

/// The device's own addresses, which may change at run time.
pub type OwnAddresses = ArcSwap<Vec<IpAddr>>;

/// The rejecting part of an inside worker.
pub struct Rejecter {
    queue: QueueRejecter,
    policy: RejectPolicy,
    own: Cache<Arc<OwnAddresses>, Arc<Vec<IpAddr>>>,
    scratch: Box<[u8; MAX_REJECT]>,
    refusals: TokenBucket,
    /// Separate, so that a flood of refusals cannot suppress too-big messages. Without those, a path
    /// whose MTU has shrunk becomes a black hole.
    too_big: TokenBucket,
}

impl Rejecter {
    /// Creates the rejecter of a queue. `own` are the device's addresses. `policy` applies to packets
    /// without a peer or endpoint; packets that are too long are always answered.
    pub fn new(queue: QueueRejecter, policy: RejectPolicy, own: Arc<OwnAddresses>) -> Self {
        Self {
            queue,
            policy,
            own: Cache::new(own),
            scratch: Box::new([0; MAX_REJECT]),
            refusals: TokenBucket::default(),
            too_big: TokenBucket::default(),
        }
    }

    /// Writes `packet` back if it is for one of the device's own addresses. Returns whether it was.
    #[inline]
    pub(super) fn self_forward(&mut self, packet: &Superpacket<'_>, metrics: &mut InsideMetrics) -> bool {
        let own = self.own.load().contains(&packet.destination());
        if own {
            self.queue.self_forward(packet);
            metrics.self_forwarded_packets.add(packet.segments() as u64);
            metrics.note_writes(self.queue.tally());
        }
        own
    }

    /// Answers the sender of `packet` with `cause`, unless the policy, the rate limit or the packet
    /// itself forbids it.
    #[cold]
    pub(super) fn reject(
        &mut self,
        packet: &Superpacket<'_>,
        cause: Cause,
        now: Nanos,
        metrics: &mut InsideMetrics,
    ) {
        faults::point(Stage::Reject);
        let (cause, bucket) = match (cause, self.policy) {
            (Cause::TooBig(_), _) => (cause, &mut self.too_big),
            (_, RejectPolicy::Drop) => return,
            (Cause::NotAllowed, RejectPolicy::Unreachable) => (Cause::NoRoute, &mut self.refusals),
            _ => (cause, &mut self.refusals),
        };
        // Building the answer is cheap. Done first, so that a packet without one takes no token.
        let Some((answer, len)) = reject::reject(packet.packet(), cause, &mut self.scratch) else {
            return metrics.note_reject(RejectKind::Silent);
        };
        if !bucket.take(now) {
            return metrics.note_reject(RejectKind::RateLimited);
        }
        self.queue.write_reject(&self.scratch[..len]);
        metrics.note_writes(self.queue.tally());
        metrics.note_reject(match answer {
            Answer::Reset => RejectKind::Reset,
            Answer::Icmp => RejectKind::IcmpUnreachable,
            Answer::Icmpv6 => RejectKind::Icmpv6Unreachable,
            Answer::TooBig => RejectKind::TooBig,
        });
    }
}

/// Allows bursts of [`REJECT_BURST`] and a sustained rate of [`REJECTS_PER_SECOND`]. Tokens are kept as
/// time: each is a span of elapsed, unused time.
#[derive(Debug, Default)]
struct TokenBucket {
    /// Time up to here has been used.
    used: Nanos,
}

impl TokenBucket {
    const TOKEN: Duration = Duration::from_nanos(1_000_000_000 / REJECTS_PER_SECOND);
    const FULL: Duration = Duration::from_nanos(REJECT_BURST * 1_000_000_000 / REJECTS_PER_SECOND);

    fn take(&mut self, now: Nanos) -> bool {
        let oldest = Nanos(now.0.saturating_sub(Self::FULL.as_nanos() as u64));
        let used = self.used.max(oldest).after(Self::TOKEN);
        let granted = used <= now;
        if granted {
            self.used = used;
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_let_through_and_then_so_many_a_second() {
        let mut bucket = TokenBucket::default();
        let start = Nanos(1 << 40);
        let granted = |bucket: &mut TokenBucket, now| (0..10_000).filter(|_| bucket.take(now)).count() as u64;
        assert_eq!(granted(&mut bucket, start), REJECT_BURST);
        assert_eq!(granted(&mut bucket, start), 0);
        let mut later = 0;
        for millisecond in 1..=1000 {
            later += granted(&mut bucket, start.after(Duration::from_millis(millisecond)));
        }
        assert_eq!(later, REJECTS_PER_SECOND);
        assert_eq!(granted(&mut bucket, start.after(Duration::from_secs(3600))), REJECT_BURST, "capped");
    }
}
