//! `payload-rewritten`: records fail the integrity check at a constant offset, though every checksum on the way agreed.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Evidence, Parameters, Side};

use crate::causes::{Case, Claim, thresholds};

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    let altered: Vec<_> = case.flows.iter().filter(|(flow, _)| flow.rewrites.count > 0).collect();
    let count: u64 = altered.iter().map(|(flow, _)| flow.rewrites.count).sum();
    if count < thresholds::ALTERED_RECORDS {
        return Vec::new();
    }
    let constant = altered
        .iter()
        .flat_map(|(flow, _)| &flow.rewrites.offsets)
        .filter(|(_, n)| **n >= thresholds::ALTERED_RECORDS)
        .max_by_key(|(_, n)| **n);
    let (up, down): (u64, u64) = altered
        .iter()
        .fold((0, 0), |(up, down), (flow, _)| (up + flow.rewrites.up, down + flow.rewrites.down));
    let direction = match (up > 0, down > 0) {
        (true, false) => Some(Direction::Up),
        (false, true) => Some(Direction::Down),
        (true, true) => Some(Direction::Both),
        (false, false) => None,
    };
    let says = match constant {
        Some((offset, n)) => format!("{n} of {count} altered packets were changed first at byte {offset}"),
        None => format!("{count} packets came altered, each at another place"),
    };
    let claim = Claim::new(Cause::PayloadRewritten, Side::Path)
        .probability(if constant.is_some() { 0.99 } else { 0.7 })
        .because(Evidence {
            flows: altered.iter().map(|(flow, _)| flow.plan.name.clone()).collect(),
            says,
            ..Evidence::default()
        })
        .parameters(Parameters {
            packets: Some(count),
            bytes: constant.map(|(offset, _)| u64::from(*offset)),
            ..Parameters::default()
        })
        .or([], "whether the changed bytes are always the same ones");
    vec![Claim { direction, ..claim }]
}
