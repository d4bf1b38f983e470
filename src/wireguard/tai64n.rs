//! The timestamp in message 1, which prevents replays of initiations (whitepaper, section 5.1).
//!
//! TAI64N consists of 8 bytes of seconds and 4 bytes of nanoseconds, both big-endian, so comparing
//! timestamps as bytes orders them by time.

use std::time::Duration;

/// The UNIX epoch as a TAI64 label: TAI64 counts from 2^62 and is 10 s ahead of UTC in 1970. Later
/// leap seconds are ignored, as in other WireGuard implementations: timestamps only need to increase.
const EPOCH: u64 = (1 << 62) + 10;

/// Timestamps are rounded down to this many nanoseconds (2^24, about 17 ms), so that they do not
/// reveal the clock more precisely than needed, as in the kernel (`tai64n_now`).
const GRAIN: u32 = 1 << 24;

/// The greatest multiple of [`GRAIN`] within a second, in nanoseconds.
const LAST_GRAIN: u32 = (1_000_000_000 - 1) / GRAIN * GRAIN;

/// A timestamp in wire format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tai64n([u8; 12]);

impl Tai64n {
    /// Creates a timestamp from its bytes on the wire.
    pub(super) const fn from_bytes(bytes: [u8; 12]) -> Self {
        Tai64n(bytes)
    }

    /// Returns the bytes on the wire.
    pub(super) const fn as_bytes(&self) -> &[u8; 12] {
        &self.0
    }

    /// Returns the timestamp for a time since the UNIX epoch, rounded down.
    fn whitened(unix: Duration) -> Self {
        Self::encode(EPOCH.saturating_add(unix.as_secs()), unix.subsec_nanos() / GRAIN * GRAIN)
    }

    /// Returns the next rounded timestamp.
    fn next(self) -> Self {
        let seconds = u64::from_be_bytes(self.0[..8].try_into().expect("eight bytes"));
        let nanos = u32::from_be_bytes(self.0[8..].try_into().expect("four bytes"));
        if nanos >= LAST_GRAIN {
            Self::encode(seconds.saturating_add(1), 0)
        } else {
            Self::encode(seconds, nanos + GRAIN)
        }
    }

    fn encode(seconds: u64, nanos: u32) -> Self {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&seconds.to_be_bytes());
        bytes[8..].copy_from_slice(&nanos.to_be_bytes());
        Tai64n(bytes)
    }
}

/// Generates the timestamps of initiations sent to one peer.
#[derive(Debug, Default)]
pub(super) struct Stamps {
    last: Tai64n,
}

impl Stamps {
    /// Returns the last timestamp.
    pub(super) fn last(&self) -> [u8; 12] {
        self.last.0
    }

    /// Creates the generator whose last timestamp was `last`.
    pub(super) fn after(last: [u8; 12]) -> Self {
        Stamps { last: Tai64n(last) }
    }

    /// Returns a timestamp for `unix`, the time since the UNIX epoch. It is always greater than the
    /// previous one, even if the clock was set back, because the peer would reject it otherwise.
    pub(super) fn next(&mut self, unix: Duration) -> Tai64n {
        self.last = Tai64n::whitened(unix).max(self.last.next());
        self.last
    }
}

/// Tracks the greatest timestamp accepted from one peer.
#[derive(Debug, Default)]
pub(super) struct StampGuard {
    greatest: Tai64n,
}

impl StampGuard {
    /// Returns the greatest timestamp accepted.
    pub(super) fn greatest(&self) -> [u8; 12] {
        self.greatest.0
    }

    /// Creates the guard that has accepted `greatest`.
    pub(super) fn above(greatest: [u8; 12]) -> Self {
        StampGuard { greatest: Tai64n(greatest) }
    }

    /// Returns whether `stamp` is greater than every accepted timestamp.
    pub(super) fn is_new(&self, stamp: Tai64n) -> bool {
        stamp > self.greatest
    }

    /// Accepts `stamp`: only greater timestamps are new afterwards.
    pub(super) fn accept(&mut self, stamp: Tai64n) {
        self.greatest = self.greatest.max(stamp);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_epoch_is_encoded_as_tai64_says() {
        let stamp = Tai64n::whitened(Duration::ZERO);
        assert_eq!(stamp.0, [0x40, 0, 0, 0, 0, 0, 0, 0x0a, 0, 0, 0, 0]);
        let stamp = Tai64n::whitened(Duration::new(1, 999_999_999));
        assert_eq!(stamp.0, [0x40, 0, 0, 0, 0, 0, 0, 0x0b, 0x3b, 0, 0, 0]);
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_make_us_repeat() {
        let mut stamps = Stamps::default();
        let before = stamps.next(Duration::from_secs(1_000_000));
        let after = stamps.next(Duration::from_secs(1_000));
        assert!(after > before);
        assert!(stamps.next(Duration::from_secs(2_000_000)) > after);
    }

    #[test]
    fn an_initiation_is_taken_once_and_never_after_a_later_one() {
        let mut guard = StampGuard::default();
        let [a, b] = [1, 2].map(|s| Tai64n::whitened(Duration::from_secs(s)));
        assert!(guard.is_new(a) && guard.is_new(b));
        guard.accept(b);
        assert!(!guard.is_new(b) && !guard.is_new(a));
        guard.accept(a);
        assert!(!guard.is_new(b) && guard.is_new(b.next()));
    }

    proptest! {
        #[test]
        fn timestamps_only_grow_and_stay_coarse(times: Vec<Duration>) {
            let mut stamps = Stamps::default();
            let mut last = Tai64n::default();
            for time in times {
                let stamp = stamps.next(time);
                // The greatest timestamp has no successor; no clock reaches it.
                prop_assert!(stamp > last || stamp.0[..8] == [0xff; 8]);
                let nanos = u32::from_be_bytes(stamp.0[8..].try_into().unwrap());
                prop_assert!(nanos % GRAIN == 0 && nanos < 1_000_000_000);
                last = stamp;
            }
        }
    }
}
