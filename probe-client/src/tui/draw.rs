//! The view: a function of the state. From the top: where and how long, the flows, the delay of the chosen one over time,
//! what happened, the keys.

use std::time::Duration;

use probe_protocol::time::Timestamp;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{
    Axis, Block, Borders, Cell, Chart, Clear, Dataset, GraphType, Paragraph, Row as TableRow, Table,
    TableState, Wrap,
};

use super::lines::{clock_time, size};
use super::state::{Health, Row, State};
use crate::engine::Phase;

/// What the person who watches has chosen.
#[derive(Clone, Debug, Default)]
pub(super) struct Look {
    pub(super) colour: bool,
    /// Which row; 0 is that of all flows.
    pub(super) selected: usize,
    pub(super) scale: Scale,
    pub(super) paused: bool,
    pub(super) paused_at: Option<Timestamp>,
    pub(super) help: bool,
    /// Whether the run is to end is being asked.
    pub(super) asking: bool,
}

/// How much of the run the chart shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Scale {
    #[default]
    Minutes,
    Hour,
    Whole,
    Minute,
}

impl Scale {
    pub(super) const fn next(self) -> Self {
        match self {
            Self::Minute => Self::Minutes,
            Self::Minutes => Self::Hour,
            Self::Hour => Self::Whole,
            Self::Whole => Self::Minute,
        }
    }

    const fn window(self) -> Option<Duration> {
        match self {
            Self::Minute => Some(Duration::from_secs(60)),
            Self::Minutes => Some(Duration::from_secs(600)),
            Self::Hour => Some(Duration::from_secs(3600)),
            Self::Whole => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Minute => "1 minute",
            Self::Minutes => "10 minutes",
            Self::Hour => "1 hour",
            Self::Whole => "whole run",
        }
    }
}

impl Look {
    fn style(&self, colour: Color) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new() }
    }
}

/// Draws a frame.
pub(super) fn draw(frame: &mut Frame<'_>, state: &State, look: &mut Look, now: Timestamp) {
    let area = frame.area();
    let chart = if area.height >= 20 { 8 } else { 0 };
    let events = if area.height >= 12 { (area.height / 5).clamp(3, 8) } else { 0 };
    let [head, flows, graph, happened, keys] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Min(3),
        Constraint::Length(chart),
        Constraint::Length(events),
        Constraint::Length(1),
    ])
    .areas(area);
    let rows = ordered(state);
    look.selected = look.selected.min(rows.len().saturating_sub(1));
    header(frame, head, state, look, now);
    table(frame, flows, &rows, look);
    if let Some(row) = rows.get(look.selected)
        && chart > 0
    {
        delays(frame, graph, row, state, look, now);
    }
    if events > 0 {
        what_happened(frame, happened, state, look);
    }
    footer(frame, keys, state, look);
    if look.help {
        help(frame, area);
    }
}

/// All flows together first, then those that are alive, then those that are over, the latest first.
fn ordered(state: &State) -> Vec<&Row> {
    let over = |row: &&Row| matches!(row.health, Health::Over(_));
    let alive = state.rows.values().filter(|row| !over(row));
    state.all.iter().chain(alive).chain(state.rows.values().filter(over).rev()).collect()
}

fn header(frame: &mut Frame<'_>, area: Rect, state: &State, look: &Look, now: Timestamp) {
    let time = match state.left(now) {
        Some(left) => format!("{} gone, {} left", clock_time(state.elapsed(now)), clock_time(left)),
        None => format!("{} gone, until it is stopped", clock_time(state.elapsed(now))),
    };
    let phase = match state.phase {
        Some(Phase::Reach) | None => "opening",
        Some(Phase::Measure) if state.stopping => "stopping",
        Some(Phase::Measure) => "measuring",
        Some(Phase::Drain | Phase::Settle | Phase::Settled | Phase::HandIn | Phase::Done) => {
            "waiting for the last answers"
        }
    };
    let mut first = vec![
        Span::styled(format!(" {} ", state.target), Style::new().add_modifier(Modifier::BOLD)),
        Span::raw(format!(" {phase}; {time}")),
    ];
    if look.paused {
        first.push(Span::styled("  VIEW PAUSED", look.style(Color::Yellow).add_modifier(Modifier::BOLD)));
    }
    let file = match &state.file.trouble {
        None => Span::raw(format!(" file {}", size(state.file.bytes))),
        Some(why) => {
            Span::styled(format!(" NOT WRITING: {why}"), look.style(Color::Red).add_modifier(Modifier::BOLD))
        }
    };
    let second =
        vec![file, Span::raw(format!("; {}, {} opened so far", state.open_flows(), state.flows_opened))];
    frame.render_widget(Paragraph::new(vec![Line::from(first), Line::from(second)]), area);
}

fn count(n: u64) -> String {
    match n {
        n if n < 1_000_000 => n.to_string(),
        n => format!("{:.2}M", n as f64 / 1e6),
    }
}

/// A column of the table: its head, and how wide it is; the name takes what is left.
const COLUMNS: [(&str, u16); 8] = [
    ("flow", NAME_WIDTH),
    ("", 9),
    ("sent", 8),
    ("lost up", 8),
    ("down", 7),
    ("unknown", 7),
    ("loss", 8),
    ("delay", 10),
];
/// A name is shown with at least so many columns.
const NAME_WIDTH: u16 = 16;
/// Columns that are left out where there is no room, the first one first: what they tell is told by others too.
const SPARED: [usize; 5] = [5, 6, 2, 7, 1];

/// Places of the columns that are shown on so many columns of the screen.
fn columns(width: u16) -> Vec<usize> {
    let mut shown: Vec<usize> = (0..COLUMNS.len()).collect();
    let need = |shown: &[usize]| shown.iter().map(|at| COLUMNS[*at].1 + 1).sum::<u16>() - 1;
    for spared in SPARED {
        if need(&shown) <= width {
            break;
        }
        shown.retain(|at| *at != spared);
    }
    shown
}

fn table(frame: &mut Frame<'_>, area: Rect, rows: &[&Row], look: &Look) {
    let shown = columns(area.width);
    let pick = |mut cells: Vec<Cell<'static>>| -> TableRow<'static> {
        TableRow::new(shown.iter().map(|at| std::mem::take(&mut cells[*at])).collect::<Vec<_>>())
    };
    let body = rows.iter().map(|row| {
        let (word, style) = match &row.health {
            Health::Opening if row.sent > 0 => ("", Style::new()),
            Health::Opening => ("opening", Style::new()),
            Health::Open => ("open", look.style(Color::Green)),
            Health::Silent => ("SILENT", look.style(Color::Red).add_modifier(Modifier::BOLD)),
            Health::Over(how) => (*how, Style::new().add_modifier(Modifier::DIM)),
        };
        let loss = if row.sent > 0 {
            format!("{:.2} %", row.lost() as f64 / row.sent as f64 * 100.0)
        } else {
            String::new()
        };
        let delay = row.rtt.map_or_else(String::new, |rtt| format!("{:.1} ms", rtt.as_secs_f64() * 1e3));
        let number = |n: u64, bad: bool| {
            let style = if bad && n > 0 { look.style(Color::Red) } else { Style::new() };
            Cell::from(Line::from(count(n)).right_aligned()).style(style)
        };
        pick(vec![
            Cell::from(row.name.clone()),
            Cell::from(word).style(style),
            number(row.sent, false),
            number(row.lost_up, true),
            number(row.lost_down, true),
            number(row.lost_unknown, true),
            Cell::from(Line::from(loss).right_aligned()),
            Cell::from(Line::from(delay).right_aligned()),
        ])
    });
    let widths = shown.iter().map(|at| match *at {
        0 => Constraint::Min(COLUMNS[0].1),
        at => Constraint::Length(COLUMNS[at].1),
    });
    let head = COLUMNS.iter().enumerate().map(|(at, (name, _))| {
        let line = Line::from(*name);
        Cell::from(if at < 2 { line } else { line.right_aligned() })
    });
    let head = pick(head.collect());
    let table = Table::new(body, widths)
        .column_spacing(1)
        .header(head.style(Style::new().add_modifier(Modifier::BOLD)))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .block(Block::new().borders(Borders::TOP));
    let mut at = TableState::default().with_selected(Some(look.selected));
    frame.render_stateful_widget(table, area, &mut at);
}

fn delays(frame: &mut Frame<'_>, area: Rect, row: &Row, state: &State, look: &Look, now: Timestamp) {
    let elapsed = state.elapsed(now);
    let bins = row.series.bins(look.scale.window(), elapsed);
    let of = |pick: &dyn Fn(&super::series::Bin) -> Option<f64>| -> Vec<(f64, f64)> {
        bins.iter().filter_map(|(at, bin)| Some((*at, pick(bin)?))).collect()
    };
    let (means, peaks) = (of(&|bin| bin.mean_ms()), of(&|bin| bin.most_ms()));
    let top = means.iter().chain(&peaks).map(|(_, ms)| *ms).fold(1.0, f64::max) * 1.1;
    let losses: Vec<(f64, f64)> =
        bins.iter().filter(|(_, bin)| bin.lost > 0).map(|(at, _)| (*at, top)).collect();
    let end = elapsed.as_secs_f64().max(1.0);
    let start = look.scale.window().map_or(0.0, |window| (end - window.as_secs_f64()).max(0.0));
    let dot = |data, colour, marker, kind| {
        Dataset::default().data(data).style(look.style(colour)).marker(marker).graph_type(kind)
    };
    let sets = vec![
        dot(&peaks, Color::DarkGray, Marker::Dot, GraphType::Scatter),
        dot(&means, Color::Cyan, Marker::Braille, GraphType::Line),
        dot(&losses, Color::Red, Marker::Block, GraphType::Scatter),
    ];
    let label = |seconds: f64| clock_time(Duration::from_secs_f64(seconds));
    let chart = Chart::new(sets)
        .block(Block::new().borders(Borders::TOP).title(format!(
            " {}: delay, {} (line: mean, dots: longest, blocks: loss) ",
            row.name,
            look.scale.name()
        )))
        .x_axis(Axis::default().bounds([start, end]).labels([label(start), label(end)]))
        .y_axis(Axis::default().bounds([0.0, top]).labels(["0".to_owned(), format!("{top:.0} ms")]));
    frame.render_widget(chart, area);
}

fn what_happened(frame: &mut Frame<'_>, area: Rect, state: &State, look: &Look) {
    let room = usize::from(area.height.saturating_sub(1));
    let shown = state.events.iter().rev().take(room).rev();
    let mut lines: Vec<Line<'_>> = shown
        .map(|told| {
            Line::from(vec![
                Span::styled(
                    format!(" {:>9}  ", clock_time(state.elapsed(told.at))),
                    look.style(Color::DarkGray),
                ),
                Span::raw(told.says.clone()),
            ])
        })
        .collect();
    if lines.is_empty() {
        lines.push(Line::from(" nothing so far"));
    }
    let block = Block::new().borders(Borders::TOP).title(" what happened ");
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn footer(frame: &mut Frame<'_>, area: Rect, state: &State, look: &Look) {
    let text = if look.asking {
        " End the run in order and write everything? y: yes, any other key: no "
    } else if state.stopping {
        " Ending in order: waiting for the last answers. Ctrl-C stops at once. "
    } else {
        " up/down flow   s scale   p pause view   q end the run   h help "
    };
    frame.render_widget(Paragraph::new(text).style(Style::new().add_modifier(Modifier::REVERSED)), area);
}

/// Lines of the help at its full width, its frame included.
const HELP_HEIGHT: u16 = 15;

fn help(frame: &mut Frame<'_>, area: Rect) {
    let text = "up, down, j, k   choose a flow\npage up, down     eight at a time\ns                scale of the chart: from 1 minute to the whole run\n\
        p, space         pause this view; measuring goes on\nq                end the run in order; everything is written\nCtrl-C           the same at once; twice: stop without waiting\n\
        h, ?             this help\n\nProbes are counted once their fate is known, some seconds after they were sent.\n\nAny key closes this.";
    let (width, height) = (76.min(area.width), HELP_HEIGHT.min(area.height));
    let place =
        Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height };
    frame.render_widget(Clear, place);
    let block = Block::new().borders(Borders::ALL).title(" keys ");
    frame.render_widget(Paragraph::new(text).wrap(Wrap { trim: false }).block(block), place);
}
