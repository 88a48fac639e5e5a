//! Stretches in which an open flow got no reply at all. Every cause that kills flows looks like this once; telling them
//! apart takes replicates.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Evidence, Parameters, Side};
use probe_protocol::wire::hello::Carrier;

use crate::causes::lives::rounded;
use crate::causes::loss::silences;
use crate::causes::{Case, Claim};
use crate::observation::{FlowNo, Purpose};

pub(super) fn detect(case: &Case<'_>, explained: &dyn Fn(FlowNo) -> bool) -> Vec<Claim> {
    let mut silent = Vec::new();
    let mut alive = Vec::new();
    // Flows that are made to differ from one another die first; the steady ones go on beside them.
    let crossed = case
        .flows
        .iter()
        .filter(|(flow, _)| flow.plan.carrier == Carrier::Udp && flow.plan.purpose == Purpose::Crossed);
    for (flow, traffic) in case.steady_udp().chain(crossed) {
        let blocks: Vec<_> = traffic.timeline.blocks().collect();
        let length = traffic.timeline.block_length();
        let longest = silences(&blocks).into_iter().max_by_key(|range| range.len());
        match longest.filter(|_| traffic.counts.received > 0) {
            Some(range) => {
                let from = case.evidence.seconds(blocks[range.start].0);
                let to = case.evidence.seconds(blocks[range.end - 1].0 + length);
                // What the listener's restart or a sleep explains is no riddle.
                if !explained(flow.plan.flow) && !case.host_acted(from, to) {
                    let lost: u64 = blocks[range].iter().map(|(_, counts)| counts.lost()).sum();
                    silent.push((flow.plan.name.clone(), from, to, lost));
                }
            }
            None => alive.push(flow.plan.name.clone()),
        }
    }
    let Some((_, from, to, _)) = silent.first().cloned() else { return Vec::new() };
    let lost: u64 = silent.iter().map(|s| s.3).sum();
    let (candidates, beside): (Vec<Cause>, String) = if alive.is_empty() {
        (vec![Cause::Outage, Cause::LocalNetwork, Cause::PenaltyBox], "every UDP flow fell silent".to_owned())
    } else {
        (
            vec![
                Cause::FlowKilledByPackets,
                Cause::FlowKilledByBytes,
                Cause::FlowKilledByAge,
                Cause::StaleFlowState,
            ],
            format!("{} went on", alive.join(", ")),
        )
    };
    vec![
        Claim::new(Cause::Unexplained, Side::PathOrEndpoint)
            .probability(0.9)
            .because(Evidence {
                flows: silent.iter().map(|s| s.0.clone()).collect(),
                from_s: Some(from),
                to_s: Some(to),
                says: format!("no reply came for {:.1} s ({lost} packets); {beside}", to - from),
                ..Evidence::default()
            })
            .parameters(Parameters { length_s: Some(rounded(to - from, 3)), ..Parameters::default() })
            .or(candidates, "a longer run with several flows of different ages"),
    ]
}
