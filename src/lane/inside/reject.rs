//! What happens to a packet from the TUN that is not sent: its sender is told, or it was for this
//! device itself and goes back.
//!
//! Comes from the outbound path while the read is still borrowed; goes to the TUN through the queue's
//! reject scratch. At most one reject a superpacket, and at most so many a second.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Cache};

use crate::lane::telemetry::{InsideTelemetry, RejectKind};
use crate::offload::{QueueRejecter, Superpacket};
use crate::packet::reject::{self, Answer, Cause, MAX_REJECT};
use crate::units::Nanos;

/// Rejects a queue may write in a second, on the average and of each sort: what Linux allows the whole
/// host by default (`net.ipv4.icmp_msgs_per_sec`).
pub const REJECTS_PER_SECOND: u64 = 1000;

/// Rejects a queue may write at once after a pause: enough for a program that opens many connections.
pub const REJECT_BURST: u64 = 200;

/// What happens to packets that no peer's allowed IPs hold, or whose peer has no endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RejectPolicy {
    /// The sender is told: that nobody may carry them, as by a firewall.
    #[default]
    Reject,
    /// The sender is told: that no route leads there, as by a router.
    Unreachable,
    /// They vanish.
    Drop,
}

/// The device's own addresses, which change while it runs.
pub type OwnAddresses = ArcSwap<Vec<IpAddr>>;

/// The rejecting part of an inside worker.
pub struct Rejects {
    rejecter: QueueRejecter,
    policy: RejectPolicy,
    own: Cache<Arc<OwnAddresses>, Arc<Vec<IpAddr>>>,
    scratch: Box<[u8; MAX_REJECT]>,
    refusals: TokenBucket,
    /// Too-big messages have a bucket of their own: without them a path that has narrowed swallows
    /// packets, and a flood of refusals must not bring that about.
    too_big: TokenBucket,
}

impl Rejects {
    /// Writes to `rejecter`, on a device whose addresses are `own`. The policy is for packets without a
    /// peer or endpoint; senders of packets that are too long are told in any case.
    pub fn new(rejecter: QueueRejecter, policy: RejectPolicy, own: Arc<OwnAddresses>) -> Self {
        Self {
            rejecter,
            policy,
            own: Cache::new(own),
            scratch: Box::new([0; MAX_REJECT]),
            refusals: TokenBucket::default(),
            too_big: TokenBucket::default(),
        }
    }

    /// Writes `packet` back if it is for this device itself; whether it was.
    #[inline]
    pub(super) fn self_forward(&mut self, packet: &Superpacket<'_>, telemetry: &mut InsideTelemetry) -> bool {
        let own = self.own.load().contains(&packet.destination());
        if own {
            self.rejecter.self_forward(packet);
            telemetry.self_forwarded_packets.add(packet.segments() as u64);
            telemetry.note_writes(self.rejecter.tally());
        }
        own
    }

    /// Tells the sender of `packet` why it goes no further, if it may be told.
    #[cold]
    pub(super) fn reject(
        &mut self,
        packet: &Superpacket<'_>,
        cause: Cause,
        now: Nanos,
        telemetry: &mut InsideTelemetry,
    ) {
        let (cause, bucket) = match (cause, self.policy) {
            (Cause::TooBig(_), _) => (cause, &mut self.too_big),
            (_, RejectPolicy::Drop) => return,
            (Cause::NotAllowed, RejectPolicy::Unreachable) => (Cause::NoRoute, &mut self.refusals),
            _ => (cause, &mut self.refusals),
        };
        // Building is cheap, so a packet that gets no answer costs no token.
        let Some((answer, len)) = reject::reject(packet.packet(), cause, &mut self.scratch) else {
            return telemetry.note_reject(RejectKind::Silent);
        };
        if !bucket.take(now) {
            return telemetry.note_reject(RejectKind::RateLimited);
        }
        self.rejecter.write_reject(&self.scratch[..len]);
        telemetry.note_writes(self.rejecter.tally());
        telemetry.note_reject(match answer {
            Answer::Reset => RejectKind::Reset,
            Answer::Icmp => RejectKind::IcmpUnreachable,
            Answer::Icmpv6 => RejectKind::Icmpv6Unreachable,
            Answer::TooBig => RejectKind::TooBig,
        });
    }
}

/// Lets through [`REJECT_BURST`] at once and [`REJECTS_PER_SECOND`] for long. It counts in time: a token
/// is a span that has passed and was not used.
#[derive(Debug, Default)]
struct TokenBucket {
    /// Up to here time is used up.
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
        assert_eq!(granted(&mut bucket, start.after(Duration::from_secs(3600))), REJECT_BURST, "never more");
    }
}
