//! What is wrong, and what to do about it.

use probe_analysis::words::capital;
use probe_protocol::finding::{Finding, Severity, Side};

use super::super::Report;
use super::super::model::Advice;
use super::layout::Page;

pub(super) fn render(report: &Report, page: &mut Page) {
    if let Some(refused) = &report.refused {
        page.heading("The listener refused");
        page.paragraph(2, &format!("{}.", capital(&refused.says)));
        page.paragraph(
            2,
            &format!("(reason: {}; listener version {})", refused.reason, refused.listener_version),
        );
    }
    let (matters, info): (Vec<_>, Vec<_>) = report
        .findings
        .iter()
        .zip(&report.advice)
        .partition(|(finding, _)| finding.severity >= Severity::Degraded);
    if !matters.is_empty() {
        page.heading("What is wrong, and what to do?");
        for (at, (finding, advice)) in matters.iter().enumerate() {
            one(at + 1, finding, advice, page);
        }
    }
    if !info.is_empty() {
        page.heading("Good to know");
        for (finding, advice) in info {
            let id = page.dim(&format!("({})", finding.cause.id()));
            page.paragraph(2, &format!("{} {id}", advice.says));
            for evidence in &finding.evidence {
                page.paragraph(4, &format!("{}.", capital(&evidence.says)));
            }
            page.paragraph(4, &finding.fix);
        }
    }
}

fn one(number: usize, finding: &Finding, advice: &Advice, page: &mut Page) {
    if number > 1 {
        page.blank();
    }
    let severity = match finding.severity {
        Severity::Blocking => page.bad("the product will not work"),
        Severity::Degraded => page.warn("the product will work badly or stop at times"),
        Severity::Info => page.dim("good to know"),
    };
    page.paragraph(2, &format!("{number}. {}", page.bold(&advice.says)));
    let sure = format!("{:.0} % sure", finding.probability * 100.0);
    page.paragraph(5, &format!("{} - {severity}; {}; {sure}", finding.cause.id(), place(finding.side)));
    page.row("   What was", &first_of(finding));
    for (at, evidence) in finding.evidence.iter().enumerate().skip(1) {
        page.row(if at == 1 { "   measured" } else { "" }, &with_test(evidence));
    }
    if let Some(rival) = &finding.rival {
        page.row("   Why not", &format!("{}: {}", rival.cause.id(), rival.rejected_because));
    }
    page.row("   What to do", &finding.fix);
    page.row("   Who can", &advice.who);
    if !finding.commands.is_empty() {
        page.paragraph(5, &format!("Commands ({}):", side_of_commands(finding.side)));
        for command in &finding.commands {
            // Commands are one line each, so that they can be copied.
            page.line(7, &format!("# {}", command.place));
            page.line(7, &command.run);
        }
    }
    if let Some(message) = &advice.message {
        page.line(5, "To send on:");
        page.paragraph(7, message);
    }
}

fn first_of(finding: &Finding) -> String {
    finding.evidence.first().map(with_test).unwrap_or_default()
}

fn with_test(evidence: &probe_protocol::finding::Evidence) -> String {
    match (&evidence.test, evidence.p) {
        (Some(test), Some(p)) => format!("{} ({test}: p = {p:.1e})", capital(&evidence.says)),
        (_, _) => capital(&evidence.says),
    }
}

fn side_of_commands(side: Side) -> &'static str {
    match side {
        Side::Client | Side::ClientNetwork => "on this computer",
        Side::Path | Side::Listener | Side::PathOrEndpoint => {
            "on the listener's host, if its own firewall is the cause"
        }
    }
}

fn place(side: Side) -> &'static str {
    match side {
        Side::Client => "in this computer",
        Side::ClientNetwork => "in this site's network",
        Side::Path => "on the way",
        Side::Listener => "at the listener's end",
        Side::PathOrEndpoint => "on the way or at an end",
    }
}
