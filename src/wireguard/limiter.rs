//! Protection against handshake floods: a gauge that detects load, and a rate limit per source
//! address that applies under load (whitepaper, section 5.3).
//!
//! Both use bounded memory, and both cost less per message than one key agreement.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use super::settings::LoadLimits;
use crate::units::Nanos;

/// Detects whether handshake messages arrive faster than they should be processed. The two
/// thresholds differ, so that a rate near one of them does not toggle the state.
#[derive(Debug)]
pub struct LoadGauge {
    limits: LoadLimits,
    second_began: Nanos,
    in_second: u32,
    under_load: bool,
}

impl LoadGauge {
    /// Creates a gauge that is not under load.
    pub fn new(limits: LoadLimits) -> Self {
        LoadGauge { limits, second_began: Nanos::NEVER, in_second: 0, under_load: false }
    }

    /// Counts a message received at `now` and returns whether the gauge is under load.
    pub fn count(&mut self, now: Nanos) -> bool {
        let elapsed = now.since(self.second_began);
        if elapsed >= SECOND {
            // After two seconds, a whole second has passed without any message.
            let quiet = self.in_second <= self.limits.ends_at || elapsed >= 2 * SECOND;
            self.under_load &= !quiet;
            self.second_began = now;
            self.in_second = 0;
        }
        self.in_second = self.in_second.saturating_add(1);
        self.under_load |= self.in_second > self.limits.begins_over;
        self.under_load
    }
}

/// A token bucket per source: 20 messages per second with a burst of 5, as in the kernel
/// (`ratelimiter.c`). A source is an IPv4 address or an IPv6 /64, the usual allocation of one site.
#[derive(Debug)]
pub struct RateLimiter {
    /// When the bucket of each source will be full again.
    full_at: HashMap<IpAddr, Nanos>,
    swept: Nanos,
}

/// Maximum number of sources tracked at a time. While the table is full, messages from new sources
/// are refused.
pub const SOURCES: usize = 8192;

const SECOND: Duration = Duration::from_secs(1);
const PER_MESSAGE: Duration = Duration::from_millis(50);
const BURST: u32 = 5;

impl RateLimiter {
    /// Creates a limiter that tracks no sources.
    pub fn new() -> Self {
        RateLimiter { full_at: HashMap::with_capacity(SOURCES), swept: Nanos::NEVER }
    }

    /// Takes a token for a message from `source` at `now`. Returns whether the message may pass.
    pub fn allow(&mut self, source: IpAddr, now: Nanos) -> bool {
        let source = aggregate(source);
        if let Some(full_at) = self.full_at.get_mut(&source) {
            // The bucket lacks as many tokens as flow in until `full_at`. If the clock stepped back,
            // it lacks at most all of them.
            let lacks = full_at.since(now).min(PER_MESSAGE * BURST);
            let allowed = lacks + PER_MESSAGE <= PER_MESSAGE * BURST;
            *full_at = now.after(if allowed { lacks + PER_MESSAGE } else { lacks });
            return allowed;
        }
        if self.full_at.len() == SOURCES && !self.sweep(now) {
            return false;
        }
        self.full_at.insert(source, now.after(PER_MESSAGE));
        true
    }

    /// Forgets sources whose bucket is full and returns whether there is room. Sweeps at most once
    /// per refill time, so that a flood of new sources does not cost a sweep per message.
    fn sweep(&mut self, now: Nanos) -> bool {
        if now.since(self.swept) >= PER_MESSAGE * BURST || now < self.swept {
            self.swept = now;
            self.full_at.retain(|_, full_at| {
                let lacks = full_at.since(now);
                !lacks.is_zero() && lacks <= PER_MESSAGE * BURST
            });
        }
        self.full_at.len() < SOURCES
    }
}

impl Default for RateLimiter {
    fn default() -> Self {
        Self::new()
    }
}

/// Maps an address to its rate-limited source: an IPv4 address, or the /64 of an IPv6 address.
fn aggregate(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: u64 = 1_000_000;

    fn at(milliseconds: u64) -> Nanos {
        Nanos((1_000_000 + milliseconds) * MILLISECOND)
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_source_gets_five_at_once_and_twenty_a_second() {
        let mut limiter = RateLimiter::new();
        let source = address("192.0.2.1");
        let at_once = (0..100).filter(|_| limiter.allow(source, at(0))).count();
        assert_eq!(at_once, 5);
        let in_ten_seconds = (1..=10_000).filter(|&ms| limiter.allow(source, at(ms))).count();
        assert_eq!(in_ten_seconds, 200);
    }

    #[test]
    fn sources_do_not_share_but_a_slash_64_does() {
        let mut limiter = RateLimiter::new();
        let mut passes = |text: &str| (0..10).filter(|_| limiter.allow(address(text), at(0))).count();
        assert_eq!(passes("192.0.2.1"), 5);
        assert_eq!(passes("192.0.2.2"), 5);
        assert_eq!(passes("::ffff:192.0.2.2"), 0, "an IPv4-mapped address is the same source");
        assert_eq!(passes("2001:db8::1"), 5);
        assert_eq!(passes("2001:db8::2"), 0);
        assert_eq!(passes("2001:db8:0:1::1"), 5);
    }

    #[test]
    fn the_table_stays_bounded_and_recovers() {
        let mut limiter = RateLimiter::new();
        let source = |i: u32| IpAddr::from(i.to_be_bytes());
        let passed = (0..3 * SOURCES as u32).filter(|&i| limiter.allow(source(i), at(0))).count();
        assert_eq!((passed, limiter.full_at.len()), (SOURCES, SOURCES));
        assert!(limiter.allow(source(u32::MAX), at(1000)), "the other buckets are full again");
        assert!(limiter.full_at.len() < SOURCES);
    }

    #[test]
    fn a_clock_that_steps_back_locks_nobody_out() {
        let mut limiter = RateLimiter::new();
        let source = address("192.0.2.1");
        assert!((0..5).all(|_| limiter.allow(source, at(100_000))));
        assert!(!limiter.allow(source, at(0)));
        assert!(limiter.allow(source, at(51)));
    }

    #[test]
    fn load_begins_at_one_limit_and_ends_at_a_lower_one() {
        let mut gauge = LoadGauge::new(LoadLimits { begins_over: 10, ends_at: 5 });
        let mut second = |number: u64, messages: u64| {
            (0..messages).map(|i| gauge.count(at(number * 1000 + i))).last().unwrap_or(false)
        };
        assert!(!second(0, 10));
        assert!(second(1, 11));
        assert!(second(2, 6), "below `begins_over`, above `ends_at`");
        assert!(second(3, 1), "the previous second decides");
        assert!(!second(4, 5));
    }

    #[test]
    fn load_is_over_after_a_pause() {
        let mut gauge = LoadGauge::new(LoadLimits { begins_over: 10, ends_at: 5 });
        assert!((0..11).any(|_| gauge.count(at(0))));
        assert!(!gauge.count(at(2000)));
    }
}
