//! Busy polling: how long a worker polls for work before it sleeps.
//!
//! Off by default: on shared cores, spinning takes CPU time from the threads that would produce the
//! work.

use std::time::{Duration, Instant};

/// Decides whether an idle worker polls again or sleeps.
#[derive(Debug)]
pub struct Spin {
    span: Duration,
    idle_since: Option<Instant>,
}

impl Spin {
    /// Spins for `span` after the last work. Zero disables spinning.
    pub fn new(span: Duration) -> Self {
        Self { span, idle_since: None }
    }

    /// Records that there was work, which restarts the span.
    pub fn worked(&mut self) {
        self.idle_since = None;
    }

    /// Called when there was no work. Returns whether to poll again instead of sleeping.
    pub fn goes_on(&mut self) -> bool {
        if self.span.is_zero() {
            return false;
        }
        std::hint::spin_loop();
        let since = *self.idle_since.get_or_insert_with(Instant::now);
        since.elapsed() < self.span
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_span_a_worker_sleeps_at_once() {
        assert!(!Spin::new(Duration::ZERO).goes_on());
    }

    #[test]
    fn a_spin_goes_on_until_its_span_is_over_and_begins_anew_with_work() {
        let mut spin = Spin::new(Duration::from_secs(3600));
        assert!(spin.goes_on() && spin.goes_on());
        let mut short = Spin::new(Duration::from_nanos(1));
        short.goes_on();
        std::thread::sleep(Duration::from_millis(1));
        assert!(!short.goes_on());
        short.worked();
        assert!(short.idle_since.is_none());
    }
}
