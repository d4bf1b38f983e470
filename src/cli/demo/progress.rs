//! Progress display: a bar on a terminal, otherwise one line per second. Written to standard error, so that
//! standard output holds only the result.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::traffic::Progress;

/// Displays [`Progress`].
#[derive(Debug)]
pub struct Display {
    bar: Option<ProgressBar>,
    seconds: u64,
    shown: u64,
}

impl Display {
    /// Creates a display for a transfer that takes `time`.
    pub fn new(time: Duration) -> Display {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(time.as_millis() as u64);
            if let Ok(style) = ProgressStyle::with_template("{bar:40} {msg}") {
                bar.set_style(style);
            }
            bar
        });
        Display { bar, seconds: time.as_secs(), shown: 0 }
    }

    /// Updates the display. Call this regularly while traffic runs.
    pub fn show(&mut self, progress: Progress) {
        let elapsed = progress.elapsed.as_secs();
        if let Some(bar) = &self.bar {
            bar.set_position(progress.elapsed.as_millis() as u64);
            bar.set_message(self.line(progress));
        } else if elapsed > self.shown {
            self.shown = elapsed;
            eprintln!("{}", self.line(progress));
        }
    }

    /// Removes the bar.
    pub fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }

    fn line(&self, progress: Progress) -> String {
        let elapsed = progress.elapsed.as_secs().min(self.seconds);
        format!("{elapsed} of {} s   {:.2} Gbit/s", self.seconds, progress.gbit_per_second())
    }
}
