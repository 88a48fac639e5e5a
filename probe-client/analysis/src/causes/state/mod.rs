//! State kept on the way, and addresses.

pub(super) mod address_changed;
pub(super) mod fragments_dropped;
pub(super) mod idle;
pub(super) mod mtu_black_hole;
pub(super) mod nat_rebinding;

use super::Case;
use crate::observation::Moved;

/// Moves of one kind, with the names of their flows.
fn moves<'c>(case: &'c Case<'_>, of_kind: fn(&Moved) -> bool) -> Vec<&'c Moved> {
    case.evidence.moves.iter().filter(|moved| moved.old != moved.new && of_kind(moved)).collect()
}

fn names(case: &Case<'_>, moves: &[&Moved]) -> Vec<String> {
    let mut names: Vec<_> = moves.iter().map(|moved| case.evidence.name(moved.flow)).collect();
    names.sort();
    names.dedup();
    names
}
