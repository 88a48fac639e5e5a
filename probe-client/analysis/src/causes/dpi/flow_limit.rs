//! `flow-limit`: past a number of flows that are open at the same time, further ones die. Said only of the ladder that was
//! asked for: everyday plans open few. An exhausted carrier translator does the same, and has the same cure.

use std::time::Duration;

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Evidence, Parameters, Side};
use probe_protocol::time::Timestamp;
use probe_protocol::wire::hello::Carrier;

use crate::causes::{Case, CaseFlow, Claim, thresholds};
use crate::evidence::{FlowEvidence, Traffic};
use crate::observation::Purpose;

/// For so long after its last packet a flow of datagrams has its place in the tables on the way: none that a product could
/// live with forget sooner.
const LINGERS: Duration = Duration::from_secs(20);

/// Whether a box on the way counts this flow at that moment.
fn is_held(flow: &FlowEvidence, traffic: &Traffic, at: Timestamp) -> bool {
    if matches!(flow.plan.carrier, Carrier::Tcp | Carrier::Tls) {
        return false;
    }
    let Some(opened) = flow.opened.as_ref().filter(|opened| opened.at <= at) else { return false };
    // An idle flow is left alone from its opening on; others send to their end, or to their last probe.
    let last = match flow.plan.purpose {
        Purpose::Idle => Some(opened.at),
        Purpose::PathMtu | Purpose::Fragments | Purpose::Marks => traffic.life.last.map(|mark| mark.at),
        Purpose::Steady
        | Purpose::Reach
        | Purpose::Trial
        | Purpose::Crossed
        | Purpose::Fan
        | Purpose::Fresh
        | Purpose::Old
        | Purpose::Named
        | Purpose::Concurrent
        | Purpose::Bulk
        | Purpose::Loaded => flow.ended.as_ref().map(|ended| ended.at),
    };
    last.is_none_or(|last| last + LINGERS >= at)
}

/// After how many rungs of the ladder hardly any opens, where nearly all did before: the parting with the fewest
/// exceptions. None without one, or where as many do not open by chance.
fn parting(opened: &[bool]) -> Option<usize> {
    let mut beyond = opened.iter().filter(|open| **open).count();
    let (mut best, mut missing) = ((usize::MAX, 0, 0, 0), 0);
    for (at, is_open) in opened.iter().enumerate() {
        best = best.min((missing + beyond, at, missing, beyond));
        if *is_open {
            beyond -= 1;
        } else {
            missing += 1;
        }
    }
    let (exceptions, at, missing, strays) = best;
    let refused = opened.len() - at - strays;
    let is_clear = exceptions != usize::MAX
        && at > 0
        && refused >= thresholds::ALIKE_FLOWS
        && missing * 20 <= at
        && strays * 10 <= refused;
    is_clear.then_some(at)
}

/// In how many ways so few of all can be chosen.
fn choices(all: usize, few: usize) -> f64 {
    (0..few).map(|n| (all - n) as f64 / (n + 1) as f64).product()
}

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    let mut ladder: Vec<&CaseFlow<'_>> =
        case.flows.iter().filter(|(flow, _)| flow.plan.purpose == Purpose::Concurrent).collect();
    ladder.sort_by_key(|(flow, _)| flow.plan.at);
    let opens = |(flow, _): &&CaseFlow<'_>| flow.opened.is_some();
    // Beyond the number none opens, up to it nearly all do. Where a flow of before gives up its place meanwhile, one more
    // finds room.
    let Some(number) = parting(&ladder.iter().map(opens).collect::<Vec<_>>()) else {
        return Vec::new();
    };
    let (before, beyond) = ladder.split_at(number);
    let refused: Vec<&CaseFlow<'_>> = beyond.iter().copied().filter(|rung| !opens(rung)).collect();
    let attempts: u64 = refused.iter().map(|(flow, _)| flow.attempts.len() as u64).sum();
    let ways = choices(beyond.len(), beyond.len() - refused.len());
    let p = (thresholds::all_lost(attempts.max(refused.len() as u64)) * ways).min(1.0);
    let at = refused[0].0.plan.at;
    let open = case.flows.iter().filter(|(flow, traffic)| is_held(flow, traffic, at)).count() as u64;
    // The earlier ones must have gone on, or it is an outage or a penalty.
    let alive = before.iter().filter(|(_, t)| t.life.answered.is_some_and(|mark| mark.at > at)).count();
    let going_on = alive * 10 >= before.len() * 8;
    let says = format!(
        "with {open} flows of datagrams open, {} of the next {} did not open ({attempts} attempts), while {alive} of the {} \
         opened before went on",
        refused.len(),
        beyond.len(),
        before.len()
    );
    vec![
        Claim::new(Cause::FlowLimit, Side::Path)
            .probability(if going_on { 1.0 - p } else { 0.8 })
            .parameters(Parameters { number: Some(open), ..Parameters::default() })
            .because(Evidence {
                flows: refused.iter().map(|(flow, _)| flow.plan.name.clone()).take(16).collect(),
                from_s: Some(case.evidence.seconds(at)),
                says,
                test: Some("all lost by chance at 20 % loss".to_owned()),
                p: Some(p.max(1e-12)),
                ..Evidence::default()
            })
            .rather_than(Cause::PenaltyBox, "the flows that were open before went on all the time")
            .or([], "the ladder again, after a pause"),
    ]
}
