//! State kept on the way, and addresses.

pub(super) mod address_changed;
pub(super) mod fragments_dropped;
pub(super) mod idle;
pub(super) mod mtu_black_hole;
pub(super) mod nat_rebinding;

use super::Case;
use crate::observation::{Moved, Purpose};

/// Moves of busy flows of one kind, with the names of their flows. A flow that was left alone on purpose is not busy, nor
/// one whose host slept or changed its network.
fn moves<'c>(case: &'c Case<'_>, of_kind: fn(&Moved) -> bool) -> Vec<&'c Moved> {
    let is_busy = |moved: &&Moved| {
        let at = case.evidence.seconds(moved.at);
        let flow = case.evidence.flows.get(&moved.flow);
        flow.is_none_or(|flow| flow.plan.purpose != Purpose::Idle) && !case.host_acted(at - QUIET_S, at)
    };
    let moves = case.evidence.moves.iter().filter(|moved| moved.old != moved.new && of_kind(moved));
    moves.filter(is_busy).collect()
}

/// What a host did so shortly before a move may have caused it, seconds.
const QUIET_S: f64 = 5.0;

fn names(case: &Case<'_>, moves: &[&Moved]) -> Vec<String> {
    let mut names: Vec<_> = moves.iter().map(|moved| case.evidence.name(moved.flow)).collect();
    names.sort();
    names.dedup();
    names
}
