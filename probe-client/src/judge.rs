//! Judges a recorded run again: the same observations through the same analysis as live.
//!
//! A run that ended in order has its report in its file. Where that report was made by the very same judgement (its sources
//! have one fingerprint) and of all that the file holds, making it again would give it again, so it is taken as it is. Any
//! other version judges the observations anew.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use probe_analysis::{Evidence, analyse};

use crate::record::{Batch, FileError, Recording};
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
    let (evidence, skipped) = read(recording)?;
    let about = recording.about();
    let origin =
        Origin { id: about.id.clone(), kind: kind(&about.kind), port: about.port, quick: about.quick };
    Ok(Judged { report: build(analyse(&evidence), origin), skipped })
}

/// Batches on their way from one thread to the next: what is read ahead stays small.
const AHEAD: usize = 32;

/// All that a file holds, condensed. A thread reads and decompresses it, one finds episodes, and this one does the rest.
fn read(recording: &Recording) -> Result<(Evidence, u64), FileError> {
    let mut evidence = Evidence::default();
    let mut ledger = std::mem::take(&mut evidence.ledger);
    let (read, found) = std::thread::scope(|scope| {
        let (here, batches) = sync_channel::<Arc<Batch>>(AHEAD);
        let (beside, for_ledger) = sync_channel::<Arc<Batch>>(AHEAD);
        let path = recording.path();
        let reader = scope.spawn(move || {
            // A connection of its own: SQLite's are not to be shared.
            let recording = Recording::open(path)?;
            let mut observations = recording.observations();
            while let Some(batch) = observations.next_batch()? {
                let batch = Arc::new(batch);
                if here.send(Arc::clone(&batch)).and(beside.send(batch)).is_err() {
                    break;
                }
            }
            Ok(observations.skipped())
        });
        let finder = scope.spawn(move || {
            for batch in for_ledger {
                match &*batch {
                    Batch::Probes(probes) => probes.iter().for_each(|probe| ledger.probe(probe)),
                    Batch::Other(other) => ledger.observe(other),
                }
            }
            ledger
        });
        for batch in batches {
            match &*batch {
                Batch::Probes(probes) => probes.iter().for_each(|probe| evidence.probe_beside_ledger(probe)),
                Batch::Other(other) => evidence.observe_beside_ledger(other),
            }
        }
        (
            reader.join().unwrap_or_else(|p| resume_unwind(p)),
            finder.join().unwrap_or_else(|p| resume_unwind(p)),
        )
    });
    evidence.ledger = found;
    Ok((evidence, read?))
}

/// The command that recorded it.
fn kind(recorded: &str) -> &'static str {
    ["check", "soak", "rehearse"].into_iter().find(|kind| *kind == recorded).unwrap_or("recorded")
}
