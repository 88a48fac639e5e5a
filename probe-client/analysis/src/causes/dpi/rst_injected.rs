//! `rst-injected`: a TCP connection is reset, and neither end did it. Endpoint security at either end does the same, so
//! the side is "path or endpoint".

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Evidence, Parameters, Side};

use crate::causes::lives::{Agreement, Between, rounded};
use crate::causes::{Case, CaseFlow, Claim};
use crate::evidence::{FlowEvidence, Traffic};
use crate::observation::{End, Purpose, StreamEndSeen};

/// Counts of bytes at a reset that are so near one another are one.
const ALIKE: f64 = 0.2;

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    let reset: Vec<&CaseFlow<'_>> =
        case.flows.iter().filter(|(flow, traffic)| is_foreign(case, flow, traffic)).collect();
    if reset.is_empty() {
        return Vec::new();
    }
    let both =
        reset.iter().filter(|(f, _)| f.stream_end.is_some_and(|e| e.seen == StreamEndSeen::Reset)).count();
    let says = format!(
        "{} TCP connection{} reset while this program was using {}; the listener, asked over another connection, {}",
        reset.len(),
        if reset.len() == 1 { " was" } else { "s were" },
        if reset.len() == 1 { "it" } else { "them" },
        if both > 0 { "saw a reset too and had sent none" } else { "had not ended it, and holds it open" },
    );
    let bytes: Vec<Between> =
        reset.iter().map(|(_, t)| Between { low: t.bytes as f64, high: t.bytes as f64 }).collect();
    let slack: Vec<f64> = bytes.iter().map(|b| ALIKE * b.middle()).collect();
    let alike = Agreement::of(&bytes, &slack).filter(|a| a.of.len() == bytes.len() && bytes.len() > 1);
    vec![
        Claim::new(Cause::RstInjected, Side::PathOrEndpoint)
            .probability(0.98)
            .parameters(Parameters {
                bytes: alike.map(|a| a.value.round() as u64),
                number: Some(reset.len() as u64),
                kind: Some(if both > 0 { "both ends" } else { "client's end" }.to_owned()),
                ..Parameters::default()
            })
            .because(Evidence {
                flows: reset.iter().map(|(flow, _)| flow.plan.name.clone()).collect(),
                from_s: reset.iter().filter_map(|(f, _)| ended(case, f)).min_by(f64::total_cmp),
                to_s: reset.iter().filter_map(|(f, _)| ended(case, f)).max_by(f64::total_cmp),
                says,
                ..Evidence::default()
            })
            .explaining(reset.iter().map(|(flow, _)| flow.plan.flow))
            .rather_than(
                Cause::ListenerRestarted,
                "the listener is the same process as before, and says that it did not",
            ),
    ]
}

fn ended(case: &Case<'_>, flow: &FlowEvidence) -> Option<f64> {
    flow.ended.as_ref().map(|end| rounded(case.evidence.seconds(end.at), 3))
}

/// Reset at the client; the listener did not do it, and no host did anything then.
fn is_foreign(case: &Case<'_>, flow: &FlowEvidence, traffic: &Traffic) -> bool {
    let Some(end) = flow.ended.as_ref().filter(|end| end.end == End::Reset) else { return false };
    let at = case.evidence.seconds(end.at);
    // A translator that gives the flow another source has the listener's system reset the strange connection, at its next
    // segment: a slow flow's comes late.
    let answered = traffic.life.answered.map_or(at, |mark| case.evidence.seconds(mark.at));
    let moved = case.moved(answered.min(at), at);
    // A connection that was left alone on purpose is the ladder's to judge.
    flow.opened.is_some()
        && flow.plan.purpose != Purpose::Idle
        && !moved
        && !case.host_left_alone(at - 5.0, at)
        && flow.stream_end.is_some_and(|e| matches!(e.seen, StreamEndSeen::Open | StreamEndSeen::Reset))
}
