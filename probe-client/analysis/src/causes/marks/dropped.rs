//! `dscp-dropped` and `ecn-dropped`: packets with a mark are lost where those of the same flow without one get through.

use std::collections::BTreeMap;

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Evidence, Parameters, Side};
use probe_protocol::wire::hello::Carrier;

use crate::causes::{Case, Claim, thresholds};
use crate::evidence::{FlowEvidence, MarkFate};
use crate::stats::hypothesis::fisher_at_least;

/// ECT(0), RFC 3168.
const ECT_0: u8 = 2;
/// What marks its packets so.
const QUIC: &[Carrier] = &[Carrier::Quic, Carrier::QuicInverse];

pub(in crate::causes) fn dscp(case: &Case<'_>) -> Vec<Claim> {
    // A packet without an ECN mark: else it is that mark which may be meant.
    judge(case, Cause::DscpDropped, |tos| (tos & 3 == 0).then_some(tos >> 2), "DSCP")
}

pub(in crate::causes) fn ecn(case: &Case<'_>) -> Vec<Claim> {
    judge(case, Cause::EcnDropped, |tos| (tos >> 2 == 0).then_some(tos & 3), "ECN")
}

fn judge(case: &Case<'_>, cause: Cause, field: fn(u8) -> Option<u8>, name: &str) -> Vec<Claim> {
    let mut values: BTreeMap<u8, MarkFate> = BTreeMap::new();
    let mut flows = Vec::new();
    for (flow, traffic) in &case.flows {
        for (tos, fate) in &traffic.marked {
            if let Some(value) = field(*tos) {
                values.entry(value).or_default().add(fate);
            }
        }
        if !traffic.marked.is_empty() {
            flows.push(flow.plan.name.clone());
        }
    }
    let Some(plain) = values.get(&0).copied() else { return Vec::new() };
    let tests = values.len().max(2) - 1;
    let dropped: Vec<(u8, MarkFate, f64)> = values
        .iter()
        .filter(|(value, fate)| **value != 0 && fate.sent >= thresholds::MARKED_PACKETS)
        .map(|(value, fate)| {
            // Bonferroni: each value is a test of its own.
            let p = fisher_at_least(fate.lost(), fate.sent, plain.lost(), plain.sent) * tests as f64;
            (*value, *fate, p.min(1.0))
        })
        .filter(|(_, fate, p)| *p < thresholds::FALSE_ALARM && fate.lost() * 10 >= fate.sent * 9)
        .collect();
    if dropped.is_empty() {
        return Vec::new();
    }
    let (up, down) =
        dropped.iter().fold((0, 0), |(up, down), (_, f, _)| (up + f.lost_up, down + f.lost_down));
    let p = dropped.iter().map(|(.., p)| *p).fold(0.0, f64::max);
    let list: Vec<String> = dropped
        .iter()
        .map(|(value, fate, _)| format!("{name} {value}: {} of {} lost", fate.lost(), fate.sent))
        .collect();
    let map = dropped.iter().map(|(value, ..)| (value.to_string(), "lost".to_owned())).collect();
    let mut claim = Claim::new(cause, Side::Path)
        .probability(1.0 - p)
        .parameters(Parameters { map: Some(map), ..Parameters::default() })
        .because(Evidence {
            flows,
            says: format!("{}; without a mark {} of {}", list.join(", "), plain.lost(), plain.sent),
            test: Some("Fisher's exact test, corrected for the number of marks".to_owned()),
            p: Some(p.max(1e-12)),
            ..Evidence::default()
        })
        .rather_than(Cause::LossyPath, "packets of the same flow without the mark got through in between");
    // QUIC's stacks mark what they send as able to take part in ECN (RFC 9000, section 13.4), ours too.
    if cause == Cause::EcnDropped && dropped.iter().any(|(value, ..)| *value == ECT_0) {
        let quic = |flow: &&FlowEvidence| QUIC.contains(&flow.plan.carrier);
        claim = claim
            .covering(QUIC)
            .explaining(case.flows.iter().map(|(flow, _)| *flow).filter(quic).map(|flow| flow.plan.flow));
    }
    // Where the way up is closed, the way down was not seen.
    claim.direction = Some(if up >= down { Direction::Up } else { Direction::Down });
    vec![claim]
}
