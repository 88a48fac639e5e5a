//! The tables.

use super::super::Report;
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

fn flows(report: &Report, page: &mut Page) {
    if report.flows.iter().all(|flow| flow.sent == 0) {
        return;
    }
    page.heading("Figures");
    let mut rows = vec![row(&["flow", "sent", "received", "lost up", "down", "unknown", "excluded", "end"])];
    for flow in report.flows.iter().take(SHOWN) {
        rows.push(vec![
            flow.id.clone(),
            numbers::count(flow.sent),
            numbers::count(flow.received),
            numbers::count(flow.lost.up),
            numbers::count(flow.lost.down),
            numbers::count(flow.lost.unknown),
            numbers::count(flow.excluded),
            flow.end.clone().unwrap_or_else(|| NOTHING.to_owned()),
        ]);
    }
    page.table(&rows);
    more(report.flows.len(), page);
}

/// Flows that are shown: a check has fewer, a night has hundreds that come and go beside those that opened first.
const SHOWN: usize = 64;

fn more(flows: usize, page: &mut Page) {
    if flows > SHOWN {
        page.line(2, &format!("and {} more flows (--json shows all)", flows - SHOWN));
    }
}

fn sizes_and_delays(report: &Report, page: &mut Page) {
    let measured: Vec<_> = report.flows.iter().filter(|flow| flow.rtt_us.is_some()).collect();
    if measured.is_empty() {
        return;
    }
    page.blank();
    page.line(
        2,
        "Delay there and back, its variation (RFC 3393, 99 of 100) and jitter (RFC 3550), milliseconds:",
    );
    let mut rows = vec![row(&[
        "flow",
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
    let all = measured.len();
    for flow in measured.into_iter().take(SHOWN) {
        rows.push(vec![
            flow.id.clone(),
            ms(flow.rtt_us.map(|rtt| rtt.min)),
            ms(flow.rtt_us.map(|rtt| rtt.p50)),
            ms(flow.rtt_us.map(|rtt| rtt.p99)),
            ms(flow.rtt_us.map(|rtt| rtt.max)),
            ms(flow.rtt_application_us.map(|q| q.p50)),
            ms(flow.ipdv_up_us.map(|q| q.p99)),
            ms(flow.ipdv_down_us.map(|q| q.p99)),
            ms(flow.jitter_rfc3550_us),
            ttl(flow.ttl_up),
            ttl(flow.ttl_down),
        ]);
    }
    page.table(&rows);
    more(all, page);
}

fn events(report: &Report, page: &mut Page) {
    /// So many are shown; all of them stand in the JSON.
    const SHOWN: usize = 40;
    if report.events.is_empty() {
        return;
    }
    page.heading("What happened when");
    for event in report.events.iter().take(SHOWN) {
        let flows = names(&event.flows);
        page.row(&format!("{:.1} s", event.from_s), &format!("{flows}{}", event.says));
    }
    if report.events.len() > SHOWN {
        page.line(2, &format!("and {} more (--json shows all)", report.events.len() - SHOWN));
    }
}

/// The first few flows of an event, and how many more there are.
fn names(flows: &[String]) -> String {
    const NAMED: usize = 4;
    let more = match flows.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let named: Vec<&str> = flows.iter().take(NAMED).map(String::as_str).collect();
    if named.is_empty() { String::new() } else { format!("{}{more}: ", named.join(", ")) }
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
    let mut rows = vec![row(&["flow", "wire median", "99 %", "program median", "99 %", "loss"])];
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
