//! Busy polling: how long a worker looks for work before it sleeps.
//!
//! Off unless asked for: on a machine whose cores are shared, the time spent looking is taken from
//! whoever would have brought the work.

use std::time::{Duration, Instant};

/// Decides between looking again and sleeping.
#[derive(Debug)]
pub struct Spin {
    span: Duration,
    idle_since: Option<Instant>,
}

impl Spin {
    /// Looks for `span` after the last work; zero never looks twice.
    pub fn new(span: Duration) -> Self {
        Self { span, idle_since: None }
    }

    /// There was work.
    pub fn worked(&mut self) {
        self.idle_since = None;
    }

    /// There was none: whether to look again instead of sleeping.
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
