//! The outcome in one sentence that a person without network training understands.

use probe_protocol::finding::{Finding, Severity};

use crate::model::{Reach, Reachability, Refused, RunFacts, Verdict};
use crate::words;

pub(super) fn verdict(
    run: &RunFacts,
    refused: Option<&Refused>,
    reachability: &Reachability,
    findings: &[Finding],
    port: u16,
) -> Verdict {
    let worst = findings.iter().map(|finding| finding.severity).max();
    let bad: Vec<_> = findings.iter().filter(|finding| finding.severity >= Severity::Degraded).collect();
    let summary = if let Some(refused) = refused {
        refused.says.clone()
    } else if let Some((first, rest)) = bad.split_first() {
        let more = match rest.len() {
            0 => String::new(),
            1 => ", and one more problem was found".to_owned(),
            n => format!(", and {n} more problems were found"),
        };
        format!("{}{more}", words::headline(first, port))
    } else if !run.measured {
        "nothing was measured".to_owned()
    } else {
        clean(run, reachability)
    };
    Verdict {
        clean: run.measured && refused.is_none() && bad.is_empty(),
        summary: words::capital(&summary),
        worst,
    }
}

fn clean(run: &RunFacts, reachability: &Reachability) -> String {
    let open: Vec<_> = reachability
        .each()
        .into_iter()
        .filter(|(_, reach)| *reach == Reach::Open)
        .map(|(name, _)| name)
        .collect();
    let through = format!("{} {} through", words::list(&open), if open.len() == 1 { "gets" } else { "get" });
    if run.complete {
        format!("{through}, and nothing wrong was found on the way")
    } else {
        format!("{through}; the run was stopped before its end, and until then nothing wrong was found")
    }
}
