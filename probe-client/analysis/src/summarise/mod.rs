//! From evidence to the analysis: each part of the output in its own file.

mod events;
mod facts;
pub(crate) use self::facts::wall_of;
mod flows;
mod groups;
mod instrument;
mod path;
pub(crate) mod reach;
mod transfer;
mod unlimited;
mod verdict;

use crate::causes::{self, Case};
use crate::evidence::Evidence;
use crate::model::{Analysis, Reachability, Refused};

/// Judges a run. A pure function of the evidence: the same evidence gives the same analysis.
pub fn analyse(evidence: &Evidence) -> Analysis {
    let case = Case::new(evidence);
    let findings = causes::judge(&case);
    let reachability =
        reach::best(&case.places).map_or_else(Reachability::default, reach::Place::reachability);
    let run = facts::run(evidence);
    let refused = refused(&case);
    let verdict = verdict::verdict(&run, refused.as_ref(), &reachability, &findings, case.port());
    Analysis {
        verdict,
        reachability,
        reachability_by_address: reach::by_address(&case.places),
        path: path::path(&case),
        flows: flows::flows(&case),
        groups: groups::summaries(&case),
        events: events::events(&case, &findings),
        transfers: transfer::transfers(&case),
        under_load: transfer::loaded_delays(&case),
        unlimited: unlimited::unlimited(&case, &findings),
        path_mtu: facts::path_mtu(evidence),
        clock: facts::clock(&case),
        instrument: instrument::instrument(&case, run.local),
        run,
        refused,
        findings,
    }
}

/// The refusal, where nothing opened because of it, or where it ended the run.
fn refused(case: &Case<'_>) -> Option<Refused> {
    if let Some((at, reason, software)) = case.turned_away() {
        let refused = Refused::new(Some(reason), software);
        let says = format!("after {:.0} s, {}", case.evidence.seconds(at), refused.says);
        return Some(Refused { says, ..refused });
    }
    if case.opened_anywhere() {
        return None;
    }
    let refusals = case.places.iter().flat_map(|place| place.openings.values()).flat_map(|o| &o.refusals);
    // One that this version understands says more than one it does not.
    let (reason, software) = refusals.max_by_key(|(reason, _)| reason.is_some())?;
    Some(Refused::new(*reason, *software))
}
