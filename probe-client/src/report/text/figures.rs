//! The tables.

use probe_analysis::model::FlowGroup;

use super::super::Report;
use super::super::model::Event;
use super::layout::Page;
use super::numbers;

pub(super) fn render(report: &Report, page: &mut Page) {
    flows(report, page);
    sizes_and_delays(report, page);
    events(report, page);
    instrument(report, page);
    if !report.not_examined.is_empty() {
        page.heading("Not examined");
        for item in &report.not_examined {
            page.paragraph(2, &format!("{}: {}", probe_analysis::words::capital(&item.what), item.why));
        }
    }
}

fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

/// What was not measured.
const NOTHING: &str = "-";

/// Their name, and how many they are.
fn name(group: &FlowGroup) -> String {
    if group.flows == 1 { group.name.clone() } else { format!("{} x{}", group.name, group.flows) }
}

/// How its flows ended; how many of them, where not all did alike.
fn ends(group: &FlowGroup) -> String {
    match group.ends.len() {
        0 => NOTHING.to_owned(),
        1 => group.ends.keys().cloned().collect(),
        _ => group.ends.iter().map(|(end, n)| format!("{n} {end}")).collect::<Vec<_>>().join(", "),
    }
}

/// Place of the column of probes lost on an unknown way.
const UNKNOWN: usize = 5;

fn flows(report: &Report, page: &mut Page) {
    let sent: Vec<&FlowGroup> =
        report.groups.iter().filter(|g| g.sent > 0 || !g.ends.contains_key("finished")).collect();
    if sent.iter().all(|group| group.sent == 0) {
        return;
    }
    page.heading("Figures");
    let excluded = sent.iter().any(|group| group.excluded > 0);
    // Without those that are excluded the others do not add up: a column of noughts makes room for them.
    let spared = excluded && sent.iter().all(|group| group.lost.unknown == 0);
    let columns = |row: [String; 8]| -> Vec<String> {
        let shown = |at: &usize| *at != UNKNOWN || !spared;
        row.into_iter().enumerate().filter(|(at, _)| shown(at)).map(|(_, cell)| cell).collect()
    };
    let head = ["flows", "sent", "received", "lost up", "down", "unknown", "excluded", "end"];
    let mut rows = vec![columns(head.map(str::to_owned))];
    for group in sent {
        rows.push(columns([
            name(group),
            numbers::count(group.sent),
            numbers::count(group.received),
            numbers::count(group.lost.up),
            numbers::count(group.lost.down),
            numbers::count(group.lost.unknown),
            numbers::count(group.excluded),
            ends(group),
        ]));
    }
    page.table(&rows);
    if excluded {
        page.paragraph(
            2,
            "Excluded: counted neither as received nor as lost, as they were asked to be answered late or never, or one of \
             the computers was at fault.",
        );
    }
    if report.groups.iter().any(|group| group.flows > 1) {
        page.line(2, "Flows that are alike stand in one row; --json has each by itself.");
    }
}

fn sizes_and_delays(report: &Report, page: &mut Page) {
    let measured: Vec<_> = report.groups.iter().filter(|group| group.rtt_us.is_some()).collect();
    if measured.is_empty() {
        return;
    }
    page.blank();
    page.line(
        2,
        "Delay there and back, its variation (RFC 3393, 99 of 100) and jitter (RFC 3550), milliseconds:",
    );
    let mut rows = vec![row(&[
        "flows",
        "min",
        "median",
        "99 %",
        "max",
        "program's",
        "var. up",
        "down",
        "jitter",
        "TTL up",
        "down",
    ])];
    let ms = |us: Option<f64>| us.map_or_else(|| NOTHING.to_owned(), numbers::ms);
    let ttl = |ttl: Option<u8>| ttl.map_or_else(|| NOTHING.to_owned(), |ttl| ttl.to_string());
    for group in measured {
        rows.push(vec![
            name(group),
            ms(group.rtt_us.map(|rtt| rtt.min)),
            ms(group.rtt_us.map(|rtt| rtt.p50)),
            ms(group.rtt_us.map(|rtt| rtt.p99)),
            ms(group.rtt_us.map(|rtt| rtt.max)),
            ms(group.rtt_application_us.map(|q| q.p50)),
            ms(group.ipdv_up_us.map(|q| q.p99)),
            ms(group.ipdv_down_us.map(|q| q.p99)),
            ms(group.jitter_rfc3550_p50_us),
            ttl(group.ttl_up),
            ttl(group.ttl_down),
        ]);
    }
    page.table(&rows);
}

fn events(report: &Report, page: &mut Page) {
    /// So many are shown; all of them stand in the JSON.
    const SHOWN: usize = 40;
    if report.events.is_empty() {
        return;
    }
    let clock = Clock::of(report);
    page.heading(clock.heading());
    // What was told several times in a row is one row.
    let alike = |a: &Event, b: &Event| a.says == b.says && a.flows == b.flows;
    let rows: Vec<&[Event]> = report.events.chunk_by(alike).collect();
    for events in rows.iter().take(SHOWN) {
        let [event, ..] = events else { continue };
        let flows = names(&event.flows);
        let until = events.last().filter(|last| last.from_s > event.from_s + 0.1);
        let times = match (events.len(), until) {
            (1, _) => String::new(),
            (n, None) => format!(" ({n} times)"),
            (n, Some(last)) => format!(" ({n} times, the last at {})", clock.of_event(last)),
        };
        page.row(&clock.of_event(event), &format!("{flows}{}{times}", event.says));
    }
    if rows.len() > SHOWN {
        let rest: usize = rows.iter().skip(SHOWN).map(|events| events.len()).sum();
        page.line(2, &format!("and {rest} more (--json shows all)"));
    }
}

/// How moments are told: of a long run by the clock, since who looks for what happens at night compares it with other
/// logs; of a short one by its seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Clock {
    Seconds,
    Day,
    Days,
}

impl Clock {
    /// From here on a run is long, seconds.
    const LONG: f64 = 900.0;
    const DAY: f64 = 86_400.0;

    fn of(report: &Report) -> Self {
        match report.run.duration_s {
            s if s < Self::LONG => Self::Seconds,
            s if s < Self::DAY => Self::Day,
            _ => Self::Days,
        }
    }

    const fn heading(self) -> &'static str {
        match self {
            Self::Seconds => "What happened when",
            Self::Day | Self::Days => "What happened when (UTC)",
        }
    }

    fn of_event(self, event: &Event) -> String {
        // `2026-01-31T23:14:02.100Z`
        let part = |range| event.from.as_deref().and_then(|from| from.get(range));
        let told = match self {
            Self::Seconds => None,
            Self::Day => part(11..19).map(str::to_owned),
            Self::Days => part(5..10).zip(part(11..19)).map(|(date, time)| format!("{date} {time}")),
        };
        told.unwrap_or_else(|| format!("{:.1} s", event.from_s))
    }
}

/// The first few flows of an event, and how many more there are.
fn names(flows: &[String]) -> String {
    const NAMED: usize = 4;
    let named: Vec<&str> = flows.iter().take(NAMED).map(String::as_str).collect();
    match flows.len() {
        0 => String::new(),
        n if n > NAMED => format!("{} and {} more: ", named.join(", "), n - NAMED),
        _ => format!("{}: ", named.join(", ")),
    }
}

fn instrument(report: &Report, page: &mut Page) {
    let instrument = &report.instrument;
    if !report.run.measured || report.run.kind == "analyze" {
        return;
    }
    page.heading("How good was the measurement?");
    if let Some(late) = instrument.send_error_us {
        let says = format!(
            "{} late at the median, 99 of 100 within {}",
            numbers::delay(late.p50),
            numbers::delay(late.p99)
        );
        page.row("Packets left", &says);
    }
    let faults = [
        (
            instrument.missed_slots as f64,
            format!("{} packets not sent in time", numbers::count(instrument.missed_slots)),
        ),
        (
            instrument.socket_drops as f64,
            format!("{} packets with no room for them", numbers::count(instrument.socket_drops)),
        ),
        (instrument.stalled_s, format!("too busy for {}", numbers::seconds(instrument.stalled_s))),
        (instrument.suspended_s, format!("asleep for {}", numbers::seconds(instrument.suspended_s))),
    ];
    let faults: Vec<_> = faults.into_iter().filter(|(n, _)| *n > 0.0).map(|(_, says)| says).collect();
    page.row(
        "This computer",
        if faults.is_empty() { "kept up".to_owned() } else { faults.join(", ") }.as_str(),
    );
    page.row(
        "Timestamps",
        if instrument.kernel_timestamps { "by the kernel, at both ends" } else { "by the program" },
    );
    let Some(floor) = &instrument.noise_floor else { return };
    page.blank();
    page.line(2, "Noise floor: what the instrument itself adds, over loopback, milliseconds:");
    let mut rows = vec![row(&["flows", "wire median", "99 %", "program median", "99 %", "loss"])];
    for flow in floor {
        let ms = |us: Option<f64>| us.map_or_else(|| NOTHING.to_owned(), numbers::ms);
        rows.push(vec![
            flow.flow.clone(),
            ms(flow.wire_us.map(|q| q.p50)),
            ms(flow.wire_us.map(|q| q.p99)),
            ms(flow.application_us.map(|q| q.p50)),
            ms(flow.application_us.map(|q| q.p99)),
            numbers::percent(flow.loss_ratio),
        ]);
    }
    page.table(&rows);
}
