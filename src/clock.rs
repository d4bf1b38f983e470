//! The clocks: a monotonic one for everything, and the wall clock for TAI64N timestamps.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use crate::units::Nanos;

/// Returns the time in nanoseconds since boot. Never steps back, and includes time the machine was suspended.
///
/// # Panics
/// If the kernel lacks `CLOCK_BOOTTIME` (before Linux 2.6.39).
pub fn now() -> Nanos {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has had CLOCK_BOOTTIME since 2.6.39");
    Nanos(time.tv_sec().cast_unsigned() * 1_000_000_000 + time.tv_nsec().cast_unsigned())
}

/// Returns the time since the Unix epoch, for handshake timestamps.
pub(crate) fn unix_now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
