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

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    let mut ladder: Vec<&CaseFlow<'_>> =
        case.flows.iter().filter(|(flow, _)| flow.plan.purpose == Purpose::Concurrent).collect();
    ladder.sort_by_key(|(flow, _)| flow.plan.at);
    let opens = |(flow, _): &CaseFlow<'_>| flow.opened.is_some();
    let Some(last) = ladder.iter().rposition(|rung| opens(rung)) else { return Vec::new() };
    let refused = &ladder[last + 1..];
    let lost_before = ladder[..=last].iter().filter(|rung| !opens(rung)).count();
    // Beyond the number none opens, up to it nearly all do.
    if refused.len() < thresholds::ALIKE_FLOWS || lost_before * 20 > last + 1 {
        return Vec::new();
    }
    let attempts: u64 = refused.iter().map(|(flow, _)| flow.attempts.len() as u64).sum();
    let p = thresholds::all_lost(attempts.max(refused.len() as u64));
    let at = refused[0].0.plan.at;
    let open = case.flows.iter().filter(|(flow, traffic)| is_held(flow, traffic, at)).count() as u64;
    // The earlier ones must have gone on, or it is an outage or a penalty.
    let alive =
        ladder[..=last].iter().filter(|(_, t)| t.life.answered.is_some_and(|mark| mark.at > at)).count();
    let going_on = alive * 10 >= (last + 1) * 8;
    let says = format!(
        "with {open} flows of datagrams open, none of the next {} opened ({attempts} attempts), while {alive} of the {} \
         opened before went on",
        refused.len(),
        last + 1
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
