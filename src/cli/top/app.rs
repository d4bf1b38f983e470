//! What the terminal shows, and what keys change about it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::figures::{Figures, Order};
use super::totals::Totals;

/// Number of readings that the sparklines keep.
const HISTORY: usize = 600;
/// Intervals that + and - step through, in seconds.
const INTERVALS: [u64; 6] = [1, 2, 5, 10, 30, 60];
/// Rows that Page Up and Page Down move.
const PAGE: isize = 10;

/// A table on the screen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum View {
    Queues = 0,
    Drops = 1,
    #[default]
    Peers = 2,
}

/// The rates of one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    pub(super) at: Instant,
    /// Bits per second in.
    pub(super) received: f64,
    /// Bits per second out.
    pub(super) sent: f64,
    /// Packets dropped per second.
    pub(super) dropped: f64,
}

/// Figures, and those of the last minutes; the newest come first.
#[derive(Clone, Debug, Default)]
pub(super) struct FigureHistory {
    pub(super) figures: Figures,
    pub(super) history: VecDeque<Moment>,
}

/// The state of the program.
#[derive(Debug)]
pub(super) struct App {
    /// The interface or URL.
    pub(super) source: String,
    /// Time between readings.
    pub(super) interval: Duration,
    pub(super) order: Order,
    pub(super) reversed: bool,
    /// The table that arrow keys scroll.
    pub(super) focus: View,
    /// The first row shown of each table.
    pub(super) offsets: [usize; 3],
    /// Why the last reading failed.
    pub(super) error: Option<String>,
    last: Totals,
    live: FigureHistory,
    /// What was shown when the user paused.
    frozen: Option<FigureHistory>,
}

/// What a key asks of the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Nothing but to draw again.
    Draw,
    /// To quit.
    Quit,
    /// To suspend the process, as Ctrl-Z does.
    Suspend,
    /// To read at the new interval.
    Interval,
}

impl App {
    /// Creates the state after a first reading.
    pub(super) fn new(source: String, interval: Duration, first: Totals) -> App {
        let mut app = App {
            source,
            interval,
            order: Order::default(),
            reversed: false,
            focus: View::default(),
            offsets: [0; 3],
            error: None,
            live: FigureHistory { figures: Figures::between(&first, &first), history: VecDeque::new() },
            last: first,
            frozen: None,
        };
        app.sort();
        app
    }

    /// Returns what is on the screen.
    pub(super) fn shown(&self) -> &FigureHistory {
        self.frozen.as_ref().unwrap_or(&self.live)
    }

    /// Returns whether the screen is paused.
    pub(super) fn paused(&self) -> bool {
        self.frozen.is_some()
    }

    /// Adds a reading. A paused screen stays as it is.
    pub(super) fn update(&mut self, reading: Totals) {
        self.error = None;
        self.live.figures = Figures::between(&self.last, &reading);
        let Figures { received, sent, dropped, .. } = self.live.figures;
        self.live.history.push_front(Moment { at: reading.at, received, sent, dropped });
        self.live.history.truncate(HISTORY);
        self.last = reading;
        self.sort();
    }

    fn sort(&mut self) {
        for shown in std::iter::once(&mut self.live).chain(&mut self.frozen) {
            self.order.sort(&mut shown.figures.peers, self.reversed);
        }
    }

    /// Handles a key.
    pub(super) fn press(&mut self, key: KeyEvent) -> Action {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if control => return Action::Quit,
            KeyCode::Char('z') if control => return Action::Suspend,
            KeyCode::Char('q') | KeyCode::Esc => return Action::Quit,
            KeyCode::Char('p' | ' ') => {
                self.frozen = if self.paused() { None } else { Some(self.live.clone()) };
            }
            KeyCode::Char('s') => {
                self.order = self.order.next();
                self.sort();
            }
            KeyCode::Char('r') => {
                self.reversed = !self.reversed;
                self.sort();
            }
            KeyCode::Char('+') => return self.step(|other, own| other > own, INTERVALS.into_iter()),
            KeyCode::Char('-') => return self.step(|other, own| other < own, INTERVALS.into_iter().rev()),
            KeyCode::Tab => {
                self.focus = match self.focus {
                    View::Queues => View::Drops,
                    View::Drops => View::Peers,
                    View::Peers => View::Queues,
                }
            }
            KeyCode::Up | KeyCode::Char('k') => self.scroll(-1),
            KeyCode::Down | KeyCode::Char('j') => self.scroll(1),
            KeyCode::PageUp => self.scroll(-PAGE),
            KeyCode::PageDown => self.scroll(PAGE),
            KeyCode::Home => self.scroll(isize::MIN),
            KeyCode::End => self.scroll(isize::MAX),
            _ => {}
        }
        Action::Draw
    }

    /// Sets the first of `intervals` that is `beyond` the current one.
    fn step(&mut self, beyond: fn(u64, u64) -> bool, mut intervals: impl Iterator<Item = u64>) -> Action {
        let own = self.interval.as_secs();
        match intervals.find(|other| beyond(*other, own)) {
            Some(interval) => self.interval = Duration::from_secs(interval),
            None => return Action::Draw,
        }
        Action::Interval
    }

    /// Scrolls the table in focus. Drawing bounds the offset by the number of rows.
    fn scroll(&mut self, rows: isize) {
        let offset = &mut self.offsets[self.focus as usize];
        *offset = offset.saturating_add_signed(rows);
    }
}
