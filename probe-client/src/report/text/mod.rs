//! The report for people: plain words first (what gets through, what the path does, what to do and who can), figures
//! after.

mod figures;
mod findings;
mod layout;
mod numbers;

use probe_analysis::model::{Clock, Reach};
use probe_protocol::finding::{Direction, Severity};

pub use self::layout::Look;
use self::layout::Page;
use super::Report;

/// Renders it.
pub fn render(report: &Report, look: Look) -> String {
    let mut page = Page::new(look);
    head(report, &mut page);
    reach(report, &mut page);
    path(report, &mut page);
    transfer(report, &mut page);
    findings::render(report, &mut page);
    figures::render(report, &mut page);
    page.into_text()
}

fn head(report: &Report, page: &mut Page) {
    let verdict = &report.verdict;
    let worst = verdict.worst.filter(|_| !verdict.clean);
    let mark = match (verdict.clean, worst) {
        (true, _) => page.good("OK"),
        (false, Some(Severity::Blocking) | None) => page.bad("PROBLEM"),
        (false, Some(Severity::Degraded | Severity::Info)) => page.warn("PROBLEM"),
    };
    let end = if verdict.summary.ends_with(['.', '!']) { "" } else { "." };
    page.paragraph(0, &format!("{mark}  {}{end}", verdict.summary));
    page.blank();
    let run = &report.run;
    let mut facts = vec![format!("{} of {}", run.kind, run.target)];
    facts.extend(run.started.as_ref().map(|started| format!("started {started}")));
    let took = if run.kind == "analyze" { "covers" } else { "took" };
    facts.push(format!("{took} {}", numbers::seconds(run.duration_s)));
    facts.extend(run.client_observed_as.as_ref().map(|seen| format!("the listener sees you as {seen}")));
    facts.extend(run.listener_version.as_ref().map(|version| format!("listener version {version}")));
    page.paragraph(0, &format!("{}.", facts.join("; ")));
    if run.local {
        page.paragraph(0, "Both ends ran in this computer (--local): the figures are the instrument's own, not a network's.");
    }
    if run.kind == "analyze" {
        return;
    }
    if !run.invited {
        page.paragraph(
            0,
            "Not authenticated: no invite was given, so this is the short check, and whoever answers has not proven to be \
             your listener. Ask the admin for an invite (`probe-server invite`) for the whole check.",
        );
    } else if run.authenticated == Some(false) {
        page.paragraph(
            0,
            "Not authenticated: the listener did not accept the invite's key, so this is the short check.",
        );
    }
    if !run.complete {
        page.paragraph(0, "The run was stopped before its end; what is said here is of the part until then.");
    }
}

fn reach(report: &Report, page: &mut Page) {
    if report.run.kind == "analyze" {
        return;
    }
    page.heading("Does it get through?");
    let several = report.reachability_by_address.len() > 1;
    for place in &report.reachability_by_address {
        if several {
            page.line(2, &place.address);
        }
        for (name, reach) in place.reachability.each() {
            let word = match reach {
                Reach::Open => page.good("yes"),
                Reach::Intercepted => page.warn("yes, but"),
                Reach::NotTested => page.dim("not tested"),
                Reach::Blocked | Reach::Filtered | Reach::Refused | Reach::WrongHost | Reach::OneWay => {
                    page.bad("NO")
                }
            };
            let line = format!("{} {} {}", page.padded(name, 5), page.padded(&word, 10), explain(reach));
            page.line(if several { 4 } else { 2 }, line.trim_end());
        }
    }
    if report.reachability_by_address.is_empty() {
        page.line(2, "There was no address to try.");
    }
}

fn explain(reach: Reach) -> &'static str {
    match reach {
        Reach::Open | Reach::NotTested => "",
        Reach::Intercepted => "a third party opens it (intercepted)",
        Reach::Blocked => "it does not arrive (blocked)",
        Reach::Filtered => "no answer to a connection (filtered)",
        Reach::Refused => "it is turned away (refused)",
        Reach::WrongHost => "something else answers (wrong-host)",
        Reach::OneWay => "no answer comes back (one-way)",
    }
}

fn transfer(report: &Report, page: &mut Page) {
    if !report.transfers.is_empty() {
        page.heading("What did the transfer get?");
    }
    let rate = |bps: Option<f64>| bps.map_or_else(|| "?".to_owned(), |bps| format!("{:.3}", bps / 1e6));
    for transfer in &report.transfers {
        let says = format!(
            "{} of {} Mbit/s over {}; {} of {} blocks lost",
            rate(transfer.sustained_bps),
            rate(Some(transfer.target_bps as f64)),
            numbers::seconds(transfer.length_s),
            numbers::count(transfer.packets_lost),
            numbers::count(transfer.packets_sent)
        );
        page.row(if transfer.direction == Direction::Up { "Up" } else { "Down" }, &says);
        if transfer.sent_bps.is_some_and(|sent| sent < SENT * transfer.target_bps as f64) {
            let says = format!(
                "only {} Mbit/s could be sent: the sending end was too slow, not the path",
                rate(transfer.sent_bps)
            );
            page.row("", &says);
        }
        for slowed in transfer.slowed.iter().take(SLOWED_SHOWN) {
            let what = if slowed.cut { "cut" } else { "slowed" };
            let says = format!(
                "{what} from {} to {} after the start: {} Mbit/s arrived",
                numbers::seconds(slowed.from_s),
                numbers::seconds(slowed.to_s),
                rate(slowed.rate_bps)
            );
            page.row("", &says);
        }
    }
    if !report.unlimited.is_empty() {
        page.heading("How much gets through?");
    }
    for free in &report.unlimited {
        let says = format!(
            "nothing limited UDP up to {} Mbit/s and {} packets a second",
            rate(Some(free.udp_bps as f64)),
            numbers::count(free.packets_per_second as u64)
        );
        page.row(if free.direction == Direction::Up { "Up" } else { "Down" }, &says);
    }
    if !report.under_load.is_empty() {
        page.heading("What does load do to delay?");
    }
    for class in &report.under_load {
        let name = class.flow.split_once('/').map_or(class.flow.as_str(), |(_, name)| name);
        let added = class.added_delay_ms;
        let says = if added.abs() < UNCHANGED_MS {
            "no change".to_owned()
        } else {
            format!("{added:+.1} ms at the median")
        };
        let says = match class.round_trips_per_minute {
            Some(rpm) => format!("{says}; {} round trips a minute", numbers::count(rpm as u64)),
            None => says,
        };
        page.row(name, &says);
    }
}

/// What is below the last digit that is shown, milliseconds.
const UNCHANGED_MS: f64 = 0.05;
/// Stretches of a slower transfer that are shown; the JSON has all of them.
const SLOWED_SHOWN: usize = 5;
/// A sender that reaches this share of its target has kept it.
const SENT: f64 = 0.98;

fn path(report: &Report, page: &mut Page) {
    let Some(path) = &report.path else { return };
    page.heading("What does the path do?");
    if let Some(rtt) = &path.rtt_us {
        let clock = match rtt.clock {
            Clock::Kernel => "as the wire saw it",
            Clock::Application => "as the program saw it",
        };
        let says = format!(
            "{} there and back {clock}; 99 of 100 within {}, the longest {}",
            numbers::delay(rtt.p50),
            numbers::delay(rtt.p99),
            numbers::delay(rtt.max)
        );
        page.row("Delay", &says);
    }
    if let Some(one_way) = &path.one_way_us {
        let says = format!(
            "{} there, {} back, each within {} of the truth (two clocks cannot tell it better)",
            numbers::delay(one_way.up.p50),
            numbers::delay(one_way.down.p50),
            numbers::delay(one_way.error)
        );
        page.row("One way", &says);
    }
    page.row("Loss", &loss(path.sent, path.lost.up, path.lost.down, path.lost.unknown, path));
    let oddities = [(path.reordered, "out of order"), (path.duplicates, "more than once")];
    let odd: Vec<_> = oddities
        .iter()
        .filter(|(n, _)| *n > 0)
        .map(|(n, what)| format!("{} came {what}", numbers::count(*n)))
        .collect();
    page.row(
        "Order",
        if odd.is_empty() { "all packets came once and in order".to_owned() } else { odd.join(", ") }
            .as_str(),
    );
    let sizes: Vec<_> = report
        .path_mtu
        .iter()
        .filter_map(|search| {
            let way = if search.direction == Direction::Up { "up" } else { "down" };
            Some(format!("{} bytes {way}", numbers::count(u64::from(search.mtu_bytes?))))
        })
        .collect();
    if !sizes.is_empty() {
        page.row("Packet size", &format!("up to {}", sizes.join(", ")));
    }
    if let Some((offset, error)) =
        report.clock.and_then(|clock| Some((clock.offset_s?, clock.offset_error_s?)))
    {
        let way = if offset < 0.0 { "behind" } else { "ahead" };
        let says = if offset.abs() <= error {
            format!("the two clocks agree, as far as can be told (within {})", numbers::delay(error * 1e6))
        } else {
            format!(
                "the listener's clock is {} {way} of this one (give or take {})",
                numbers::delay(offset.abs() * 1e6),
                numbers::delay(error * 1e6)
            )
        };
        page.row("Clocks", &says);
    }
}

fn loss(sent: u64, up: u64, down: u64, unknown: u64, path: &probe_analysis::model::PathSummary) -> String {
    if up + down + unknown == 0 {
        let hidden = match path.over.as_str() {
            "udp" | "quic" => "",
            _ => " (what this transport loses it sends again, which shows as delay)",
        };
        return format!("none of {} packets{hidden}", numbers::count(sent));
    }
    let mut parts = vec![
        format!("{} on the way there ({})", numbers::count(up), numbers::percent(path.loss_up_ratio)),
        format!("{} on the way back ({})", numbers::count(down), numbers::percent(path.loss_down_ratio)),
    ];
    if unknown > 0 {
        parts.push(format!("{} on an unknown way", numbers::count(unknown)));
    }
    format!("of {} packets: {}", numbers::count(sent), parts.join(", "))
}
