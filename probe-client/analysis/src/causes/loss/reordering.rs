//! `reordering`: packets overtake one another (RFC 4737) more than on a benign path.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Evidence, Parameters, Side};

use super::percent;
use crate::causes::{Case, CaseFlow, Claim, thresholds};
use crate::evidence::Traffic;
use crate::stats::hypothesis::binomial_at_least;
use crate::stats::reordering::Reordering;

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    let sum = |pick: fn(&Traffic) -> &Reordering| {
        case.steady_udp().fold((0, 0, 0), |(reordered, arrivals, extent), (_, traffic): &CaseFlow<'_>| {
            let r = pick(traffic);
            (reordered + r.reordered(), arrivals + r.arrivals(), extent.max(r.extent_max().unwrap_or(0)))
        })
    };
    let up = sum(|traffic| &traffic.up.reordering);
    let down = sum(|traffic| &traffic.down.reordering);
    let p = |(reordered, arrivals, _): (u64, u64, u32)| {
        binomial_at_least(reordered, arrivals, thresholds::BENIGN_REORDERING)
    };
    let bad = |way| p(way) < thresholds::FALSE_ALARM;
    let direction = match (bad(up), bad(down)) {
        (true, true) => Direction::Both,
        (true, false) => Direction::Up,
        (false, true) => Direction::Down,
        (false, false) => return Vec::new(),
    };
    let worse = if p(up) <= p(down) { up } else { down };
    let ratio = |(reordered, arrivals, _): (u64, u64, u32)| reordered as f64 / arrivals.max(1) as f64;
    let says = format!(
        "{} of packets were overtaken on the way up, {} on the way down, by up to {} packets",
        percent(ratio(up)),
        percent(ratio(down)),
        up.2.max(down.2)
    );
    vec![
        Claim::new(Cause::Reordering, Side::Path)
            .direction(direction)
            .probability(1.0 - p(worse))
            .because(Evidence {
                flows: case.steady_udp().map(|(flow, _)| flow.plan.name.clone()).collect(),
                says,
                test: Some(format!("exact binomial test against {}", percent(thresholds::BENIGN_REORDERING))),
                p: Some(p(worse)),
                ..Evidence::default()
            })
            .parameters(Parameters {
                number: Some(u64::from(up.2.max(down.2))),
                packets: Some(worse.0),
                ..Parameters::default()
            })
            .rather_than(Cause::LossyPath, "the packets arrived, only later than their followers"),
    ]
}
