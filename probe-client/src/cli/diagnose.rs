//! `diagnose`: judges a recorded run again, as if it had just been seen.

use std::path::Path;

use probe_analysis::{Evidence, analyse};
use probe_protocol::finding::Severity;

use super::args::DiagnoseArgs;
use super::exit::Exit;
use super::output::{self, Failure, say};
use crate::record::Recording;
use crate::report::{Origin, Report, build, redact};

pub(super) fn run(args: &DiagnoseArgs) -> Result<Exit, Failure> {
    let report = judge(&args.file)?;
    let report = if args.redact { redact::redact(&report)? } else { report };
    output::show(&report, args.json)?;
    Ok(Exit::of(&report, Severity::from(args.fail_on)))
}

/// The report of a recorded run.
fn judge(path: &Path) -> Result<Report, Failure> {
    let recording = Recording::open(path)?;
    let mut evidence = Evidence::default();
    let mut observations = recording.observations();
    for observation in &mut observations {
        evidence.observe(&observation?);
    }
    if observations.skipped() > 0 {
        say(&format!(
            "{} observations are of kinds that this version does not know, and were left out: a newer one may say more.",
            observations.skipped()
        ));
    }
    let about = recording.about();
    let origin =
        Origin { id: about.id.clone(), kind: kind(&about.kind), port: about.port, quick: about.quick };
    Ok(build(analyse(&evidence), origin))
}

/// The command that recorded it.
fn kind(recorded: &str) -> &'static str {
    ["check", "soak", "rehearse"].into_iter().find(|kind| *kind == recorded).unwrap_or("recorded")
}
