//! Judges a recorded run again: the same observations through the same analysis as live.
//!
//! A run that ended in order has its report in its file. Where that report was made by the very same judgement (its sources
//! have one fingerprint) and of all that the file holds, making it again would give it again, so it is taken as it is. Any
//! other version judges the observations anew.

use probe_analysis::{Evidence, analyse};

use crate::record::{FileError, Recording};
use crate::report::{Origin, Report, build};

/// The fingerprint of everything that decides what is said of a run.
pub const JUDGEMENT: &str = env!("PROBE_JUDGEMENT");

/// A recorded run, judged.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// What is said of it.
    pub report: Report,
    /// Observations of kinds that this version does not know, which were left out.
    pub skipped: u64,
}

/// Judges a recorded run; `afresh` from its observations, whatever report its file holds.
///
/// # Errors
/// As reading the file: it is damaged, or the system says no.
pub fn recorded(recording: &Recording, afresh: bool) -> Result<Judged, FileError> {
    if !afresh
        && let Some(text) = recording.report_by(JUDGEMENT)?
        && let Ok(report) = serde_json::from_str(&text)
    {
        return Ok(Judged { report, skipped: 0 });
    }
    let mut evidence = Evidence::default();
    let mut observations = recording.observations();
    for observation in &mut observations {
        evidence.observe(&observation?);
    }
    let skipped = observations.skipped();
    let about = recording.about();
    let origin =
        Origin { id: about.id.clone(), kind: kind(&about.kind), port: about.port, quick: about.quick };
    Ok(Judged { report: build(analyse(&evidence), origin), skipped })
}

/// The command that recorded it.
fn kind(recorded: &str) -> &'static str {
    ["check", "soak", "rehearse"].into_iter().find(|kind| *kind == recorded).unwrap_or("recorded")
}
