//! The clocks: a monotonic one for everything, and the wall clock for TAI64N timestamps.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use crate::units::Nanos;

/// Returns the time in nanoseconds since boot. Never steps back, and includes time the machine was suspended.
///
/// # Panics
/// If the kernel lacks `CLOCK_BOOTTIME` (before Linux 2.6.39).
pub fn now() -> Nanos {
    #[cfg(any(test, fuzzing))]
    if let Some(now) = simulated::now() {
        return now;
    }
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has had CLOCK_BOOTTIME since 2.6.39");
    Nanos(time.tv_sec().cast_unsigned() * 1_000_000_000 + time.tv_nsec().cast_unsigned())
}

/// Returns the time since the Unix epoch, for handshake timestamps.
pub(crate) fn unix_now() -> Duration {
    #[cfg(any(test, fuzzing))]
    if let Some(now) = simulated::now() {
        return simulated::unix(now);
    }
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A clock that a test sets, for code that runs on the test's thread.
#[cfg(any(test, fuzzing))]
pub(crate) mod simulated {
    use std::cell::Cell;

    use super::{Duration, Nanos};

    thread_local! {
        static NOW: Cell<Option<Nanos>> = const { Cell::new(None) };
    }

    /// Stops the clocks of this thread at `now`.
    pub(crate) fn set(now: Nanos) {
        NOW.set(Some(now));
    }

    pub(super) fn now() -> Option<Nanos> {
        NOW.get()
    }

    /// Returns what the wall clock shows at `now`.
    pub(crate) fn unix(now: Nanos) -> Duration {
        Duration::from_secs(1_700_000_000) + now.since(Nanos::NEVER)
    }
}
