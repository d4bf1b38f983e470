//! The clock that everything but TAI64N goes by.

use nix::time::{ClockId, clock_gettime};

use crate::units::Nanos;

/// Now, on a clock that never steps back and that counts the time the machine was suspended.
///
/// # Panics
/// On a kernel without `CLOCK_BOOTTIME`: one before 2.6.39.
pub fn now() -> Nanos {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has had CLOCK_BOOTTIME since 2.6.39");
    Nanos(time.tv_sec().cast_unsigned() * 1_000_000_000 + time.tv_nsec().cast_unsigned())
}
