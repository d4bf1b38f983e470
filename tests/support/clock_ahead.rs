//! A clock that tests put forward: replaces the C library's `clock_gettime` in the whole program. It is therefore not part
//! of `support`, which every test has; a test that uses it declares it with `#[path]`.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

/// How far the clock is ahead of the kernel's, in seconds.
pub(crate) static AHEAD: AtomicI64 = AtomicI64::new(0);

/// Replaces the C library's function in this program.
#[allow(unsafe_code)]
#[unsafe(no_mangle)]
unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    // SAFETY: the caller passes a `time` that the kernel may write to (clock_gettime(2)); it is initialised on
    // success.
    unsafe {
        let result = libc::syscall(libc::SYS_clock_gettime, clock, time);
        if result == 0 && clock == libc::CLOCK_BOOTTIME {
            (*time).tv_sec += AHEAD.load(Relaxed);
        }
        result as libc::c_int
    }
}
