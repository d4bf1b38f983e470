//! Draws the live view: a summary, sparklines, and tables of queues, drops and peers.

use ratatui::Frame;
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, RenderDirection, Row, Sparkline};

use super::app::{App, FigureHistory, Moment, View};
use super::text::{
    DROP_HEADS, PEER_HEADS, QUEUE_HEADS, age, drop_cells, peer_cells, peer_count, process, queue_cells,
    scaled, spaced, summary,
};

/// Height of the sparklines with their titles.
const SPARKLINES: u16 = 4;
/// Minimum height of a screen with sparklines.
const TALL: u16 = 18;
/// Widths of the queue columns, and what is left out first on a narrow screen: the highest rank.
const QUEUE_COLUMNS: [(u16, u8); 10] =
    [(5, 0), (6, 0), (6, 0), (9, 4), (8, 5), (9, 6), (9, 7), (6, 2), (7, 3), (6, 1)];
const DROP_COLUMNS: [(u16, u8); 4] = [(9, 0), (20, 0), (8, 0), (13, 1)];
/// Maximum widths of the peer columns; they are as wide as their longest cell.
const PEER_COLUMNS: [(u16, u8); 6] = [(44, 0), (40, 3), (47, 2), (9, 1), (8, 0), (9, 0)];
/// Width that the names of peers keep if the other columns need the room.
const NAME: u16 = 12;

/// Draws the whole screen. Bounds the offsets of the tables by their numbers of rows.
pub(super) fn draw(frame: &mut Frame<'_>, app: &mut App) {
    let area = frame.area();
    let sparklines = if area.height < TALL { 0 } else { SPARKLINES };
    let figures = &app.shown().figures;
    let left = area.height.saturating_sub(3 + sparklines);
    // One blank line after each table.
    let queues = (figures.queues.len() as u16).saturating_add(3).min(left / 2);
    let queues = if figures.queues.is_empty() { 0 } else { queues };
    let drops = (figures.drops.len() as u16).saturating_add(2).min(left / 4);
    let drops = if figures.drops.is_empty() { 0 } else { drops };
    let rows = [2, sparklines, queues, drops].map(Constraint::Length);
    let rows = [&rows[..], &[Constraint::Fill(1), Constraint::Length(1)]].concat();
    let [head, sparklines, queues, drops, peers, foot] = Layout::vertical(rows).areas(area);

    draw_head(frame, app, head);
    draw_sparklines(frame, app.shown(), sparklines);
    draw_queues(frame, app, queues);
    draw_drops(frame, app, drops);
    draw_peers(frame, app, peers);
    draw_foot(frame, app, foot);
}

fn draw_head(frame: &mut Frame<'_>, app: &App, area: Rect) {
    let figures = &app.shown().figures;
    let mut first = vec![app.source.clone().bold(), "  ".into(), summary(figures).into()];
    if app.paused() {
        first.push("  paused".bold().yellow());
    }
    let second = match &app.error {
        Some(error) => Line::from(error.clone().red()),
        None => Line::from(process(figures)),
    };
    frame.render_widget(Paragraph::new(vec![Line::from(first), second]), area);
}

/// Name, unit and value of a sparkline.
type SparklineKind = (&'static str, &'static str, fn(&Moment) -> f64);

fn draw_sparklines(frame: &mut Frame<'_>, shown: &FigureHistory, area: Rect) {
    let columns = Layout::horizontal([Constraint::Fill(1); 3]).spacing(2).areas::<3>(area);
    let kinds: [SparklineKind; 3] = [
        ("in", "bit/s", |moment| moment.received),
        ("out", "bit/s", |moment| moment.sent),
        ("drops", "/s", |moment| moment.dropped),
    ];
    for (area, (name, unit, value)) in columns.into_iter().zip(kinds) {
        let [title, bars] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
        let moments: Vec<_> = shown.history.iter().take(usize::from(bars.width)).collect();
        let peak = moments.iter().map(|moment| value(moment)).fold(0.0, f64::max);
        let span = match (moments.first(), moments.last()) {
            (Some(newest), Some(oldest)) => age(newest.at.saturating_duration_since(oldest.at)),
            _ => age(std::time::Duration::ZERO),
        };
        let peak_text = if unit == "/s" { scaled(peak) } else { spaced(peak) };
        let text = format!("{name}, {span}, peak {peak_text}{unit}");
        frame.render_widget(Line::from(text.dim()), title);
        // Scaled to a fixed range, since the widget takes whole numbers.
        let scale = |moment: &&Moment| {
            if peak > 0.0 { ((value(moment) / peak * 1000.0) as i64).cast_unsigned() } else { 0 }
        };
        let data: Vec<_> = moments.iter().map(scale).collect();
        let color = if name == "drops" { Color::Red } else { Color::Cyan };
        let sparkline = Sparkline::default().data(data).max(1000).direction(RenderDirection::RightToLeft);
        frame.render_widget(sparkline.style(Style::new().fg(color)), bars);
    }
}

fn draw_queues(frame: &mut Frame<'_>, app: &mut App, area: Rect) {
    let rows: Vec<_> = app
        .shown()
        .figures
        .queues
        .iter()
        .map(|queue| (queue_cells(queue).to_vec(), queue.dropped > 0.0))
        .collect();
    let heads = [QUEUE_HEADS.map(|head| head.0), QUEUE_HEADS.map(|head| head.1)];
    let heads: Vec<&[&str]> = heads.iter().map(<[&str; 10]>::as_slice).collect();
    Grid { heads: &heads, columns: &QUEUE_COLUMNS, left: 0, rows }.draw(frame, app, View::Queues, area);
}

fn draw_drops(frame: &mut Frame<'_>, app: &mut App, area: Rect) {
    let rows: Vec<_> = app
        .shown()
        .figures
        .drops
        .iter()
        .map(|drops| (drop_cells(drops).to_vec(), drops.rate > 0.0))
        .collect();
    Grid { heads: &[&DROP_HEADS], columns: &DROP_COLUMNS, left: 2, rows }.draw(frame, app, View::Drops, area);
}

fn draw_peers(frame: &mut Frame<'_>, app: &mut App, area: Rect) {
    let [title, area] = Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(area);
    let direction = if app.reversed { ", reversed" } else { "" };
    let text = format!("{}, by {}{direction}", peer_count(&app.shown().figures), app.order.name());
    frame.render_widget(Line::from(text.bold()), title);
    let rows: Vec<_> =
        app.shown().figures.peers.iter().map(|peer| (peer_cells(peer).to_vec(), false)).collect();
    let mut columns = PEER_COLUMNS;
    for (index, (width, _)) in columns.iter_mut().enumerate() {
        let cells = rows.iter().map(|(cells, _)| cells[index].chars().count());
        let longest = cells.chain([PEER_HEADS[index].len()]).max().unwrap_or_default();
        *width = (*width).min(longest as u16);
    }
    // Names are cut before other columns are left out.
    let others: u16 = columns[1..].iter().map(|(width, _)| width + 1).sum();
    columns[0].0 = columns[0].0.min(area.width.saturating_sub(others).max(NAME));
    Grid { heads: &[&PEER_HEADS], columns: &columns, left: 3, rows }.draw(frame, app, View::Peers, area);
}

fn draw_foot(frame: &mut Frame<'_>, app: &App, area: Rect) {
    let keys = [("q", "quit"), ("p", "pause"), ("s", "sort"), ("r", "reverse"), ("Tab ↑ ↓", "scroll")];
    let mut spans: Vec<Span<'_>> =
        keys.iter().flat_map(|(key, what)| [(*key).bold(), format!(" {what}  ").into()]).collect();
    spans.extend(["+ -".bold(), format!(" every {}", age(app.interval)).into()]);
    frame.render_widget(Paragraph::new(Line::from(spans)), area);
}

/// A table whose columns give way to the width of the screen.
struct Grid<'a> {
    heads: &'a [&'a [&'a str]],
    /// Width and rank of each column. The columns with the highest ranks are left out first; those with rank 0 stay.
    columns: &'a [(u16, u8)],
    /// Number of columns on the left that are left-aligned.
    left: usize,
    /// Cells, and whether the row is marked.
    rows: Vec<(Vec<String>, bool)>,
}

impl Grid<'_> {
    fn draw(mut self, frame: &mut Frame<'_>, app: &mut App, table: View, area: Rect) {
        let heads = self.heads.len();
        let visible = usize::from(area.height).saturating_sub(heads + usize::from(table != View::Peers));
        let offset = &mut app.offsets[table as usize];
        *offset = (*offset).min(self.rows.len().saturating_sub(visible));
        let end = self.rows.len().min(*offset + visible);
        let shown = self.rows.drain(*offset..end).collect::<Vec<_>>();
        let columns = self.fitting(area.width);
        let row = |cells: &[&str]| {
            let cells = columns.iter().map(|column| {
                let alignment = if *column < self.left { Alignment::Left } else { Alignment::Right };
                Cell::from(Line::from(cut(cells[*column], self.columns[*column].0)).alignment(alignment))
            });
            Row::new(cells.collect::<Vec<_>>())
        };
        let head = Style::new().dim();
        let head = if app.focus == table { head.underlined() } else { head };
        let heads = self.heads.iter().map(|cells| row(cells).style(head));
        let shown = shown.iter().map(|(cells, marked)| {
            let cells: Vec<_> = cells.iter().map(String::as_str).collect();
            let row = row(&cells);
            if *marked { row.style(Style::new().fg(Color::Red)) } else { row }
        });
        let widths = columns.iter().map(|column| Constraint::Length(self.columns[*column].0));
        frame.render_widget(ratatui::widgets::Table::new(heads.chain(shown), widths).column_spacing(1), area);
    }

    /// Returns the indices of the columns that fit into `width`.
    fn fitting(&self, width: u16) -> Vec<usize> {
        let mut columns: Vec<_> = (0..self.columns.len()).collect();
        loop {
            let needed: u16 = columns.iter().map(|column| self.columns[*column].0 + 1).sum();
            let last = columns.iter().copied().max_by_key(|column| self.columns[*column].1);
            match last {
                Some(last) if needed > width + 1 && self.columns[last].1 > 0 => {
                    columns.retain(|column| *column != last);
                }
                _ => return columns,
            }
        }
    }
}

/// Cuts a cell that is too wide, with an ellipsis.
fn cut(text: &str, width: u16) -> String {
    let width = usize::from(width);
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}
