//! The loop of the live view: keys, readings and drawing.

use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, raise};
use ratatui::crossterm::event::{self, Event, KeyEventKind};

use super::TopError;
use super::app::{Action, App};
use super::source::Source;
use super::totals::Totals;
use super::view;
use crate::sys::signals;

/// How long the loop waits for a key before it looks for a reading or a signal.
const LOOK: Duration = Duration::from_millis(50);

/// A reading or the reason why there is none.
type Reading = Result<Totals, TopError>;

/// Shows `source` until the user quits or a signal ends the process.
///
/// # Errors
/// The first reading failed, or the terminal did.
pub(super) fn run(source: Source, interval: Duration) -> Result<(), TopError> {
    let mut app = App::new(source.to_string(), interval, source.read()?);
    // SIGTERM must not leave the terminal in raw mode. SIGHUP means that the terminal is gone.
    let ends = signals::terminations().map_err(TopError::Terminal)?;
    let (intervals, reader_intervals) = mpsc::channel();
    let (readings_sender, readings) = mpsc::sync_channel(1);
    // Readings have a thread of their own, because a router that does not answer must not make keys wait. The thread
    // ends with the process.
    thread::spawn(move || read(&source, interval, &reader_intervals, &readings_sender));
    let result = show(&mut app, &readings, &intervals, || matches!(ends.read_signal(), Ok(Some(_))));
    ratatui::restore();
    result.map_err(TopError::Terminal)
}

fn show(
    app: &mut App,
    readings: &Receiver<Reading>,
    intervals: &Sender<Duration>,
    ended: impl Fn() -> bool,
) -> io::Result<()> {
    let mut terminal = ratatui::try_init()?;
    let mut changed = true;
    loop {
        if changed {
            terminal.draw(|frame| view::draw(frame, app))?;
        }
        changed = false;
        if ended() {
            return Ok(());
        }
        if event::poll(LOOK)? {
            changed = true;
            let action = match event::read()? {
                Event::Key(key) if key.kind != KeyEventKind::Release => app.press(key),
                _ => Action::Draw,
            };
            match action {
                Action::Draw => {}
                Action::Quit => return Ok(()),
                // The reader thread ends with the process.
                Action::Interval => drop(intervals.send(app.interval)),
                Action::Suspend => {
                    ratatui::try_restore()?;
                    raise(Signal::SIGTSTP)?;
                    terminal = ratatui::try_init()?;
                }
            }
        }
        if let Ok(reading) = readings.try_recv() {
            changed = true;
            match reading {
                Ok(reading) => app.update(reading),
                Err(error) => app.error = Some(error.to_string()),
            }
        }
    }
}

/// Reads at each interval until nobody receives.
fn read(
    source: &Source,
    mut interval: Duration,
    intervals: &Receiver<Duration>,
    readings: &SyncSender<Reading>,
) {
    let mut last = Instant::now();
    loop {
        match intervals.recv_timeout((last + interval).saturating_duration_since(Instant::now())) {
            Ok(new) => {
                interval = new;
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => last = Instant::now(),
        }
        if readings.send(source.read()).is_err() {
            return;
        }
    }
}
