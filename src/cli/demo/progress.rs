//! What the person sees while traffic runs: a bar on a terminal, a line each second elsewhere. All of it goes to
//! standard error, so standard output holds the result and nothing else.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::traffic::Progress;

/// Shows [`Progress`].
#[derive(Debug)]
pub struct Display {
    bar: Option<ProgressBar>,
    seconds: u64,
    shown: u64,
}

impl Display {
    /// For a run that takes `time`.
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

    /// To be called now and then while traffic runs.
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

    /// Takes the bar away.
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
