//! State kept on the way, and addresses.

pub(super) mod address_changed;
pub(super) mod fragments_dropped;
pub(super) mod idle;
pub(super) mod mtu_black_hole;
pub(super) mod nat_rebinding;

use probe_protocol::wire::hello::Carrier;

use super::Case;
use crate::evidence::{FlowEvidence, Traffic};
use crate::observation::{End, FlowNo, Moved, Purpose};

/// Moves of busy flows of one kind, with the names of their flows. A flow that was left alone on purpose is not busy, nor
/// one whose host slept or changed its network.
fn moves<'c>(case: &'c Case<'_>, of_kind: fn(&Moved) -> bool) -> Vec<&'c Moved> {
    let is_busy = |moved: &&Moved| {
        let at = case.evidence.seconds(moved.at);
        let flow = case.evidence.flows.get(&moved.flow);
        flow.is_none_or(|flow| flow.plan.purpose != Purpose::Idle) && !case.host_left_alone(at - QUIET_S, at)
    };
    let moves = case.evidence.moves.iter().filter(|moved| moved.old != moved.new && of_kind(moved));
    moves.filter(is_busy).collect()
}

/// What a host did so shortly before a move may have caused it, seconds.
const QUIET_S: f64 = 5.0;

/// Connections that were cut off as the source of the client's flows changed: a stream is known by its addresses, and a
/// QUIC connection may not have found its way again.
fn broken(case: &Case<'_>) -> Vec<FlowNo> {
    let cut = |flow: &&FlowEvidence, traffic: &Traffic| {
        let ended = flow.ended.as_ref().filter(|e| matches!(e.end, End::Reset | End::Closed | End::TimedOut));
        let Some(ended) = ended.filter(|_| flow.plan.carrier != Carrier::Udp) else { return false };
        let at = case.evidence.seconds(ended.at);
        let answered = traffic.life.answered.map_or(at, |mark| case.evidence.seconds(mark.at));
        case.moved(answered.min(at), at)
    };
    case.flows.iter().filter(|(flow, traffic)| cut(flow, traffic)).map(|(flow, _)| flow.plan.flow).collect()
}

fn names(case: &Case<'_>, moves: &[&Moved]) -> Vec<String> {
    let mut names: Vec<_> = moves.iter().map(|moved| case.evidence.name(moved.flow)).collect();
    names.sort();
    names.dedup();
    names
}
