//! `diagnose`: judges a recorded run again, as if it had just been seen.

use probe_protocol::finding::Severity;

use super::args::DiagnoseArgs;
use super::exit::Exit;
use super::output::{self, Failure, say};
use crate::judge;
use crate::record::Recording;
use crate::report::redact;

pub(super) fn run(args: &DiagnoseArgs) -> Result<Exit, Failure> {
    let recording = Recording::open(&args.file)?;
    let judged = judge::recorded(&recording, args.afresh)?;
    if judged.skipped > 0 {
        say(&format!(
            "{} observations are of kinds that this version does not know, and were left out: a newer one may say more.",
            judged.skipped
        ));
    }
    let report = if args.redact { redact::redact(&judged.report)? } else { judged.report };
    output::show(&report, args.json)?;
    Ok(Exit::of(&report, Severity::from(args.fail_on)))
}
