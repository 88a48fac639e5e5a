//! `duplication`: packets arrive more than once (RFC 5560), more than on a benign path.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Evidence, Parameters, Side};

use super::percent;
use crate::causes::{Case, Claim, thresholds};
use crate::stats::hypothesis::binomial_at_least;

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    let (mut twice_up, mut twice, mut received) = (0, 0, 0);
    for (_, traffic) in case.steady_udp() {
        twice_up += traffic.duplicated_up;
        twice += traffic.duplicates;
        received += traffic.counts.received;
    }
    // What arrives twice at the listener is answered twice.
    let twice_down = twice.saturating_sub(twice_up);
    let worse = twice_up.max(twice_down);
    let p = binomial_at_least(worse, received, thresholds::BENIGN_DUPLICATION);
    if p >= thresholds::FALSE_ALARM {
        return Vec::new();
    }
    let direction = match (twice_up * 10 > worse, twice_down * 10 > worse) {
        (true, false) => Direction::Up,
        (false, true) => Direction::Down,
        (_, _) => Direction::Both,
    };
    let ratio = worse as f64 / received.max(1) as f64;
    vec![
        Claim::new(Cause::Duplication, Side::Path)
            .direction(direction)
            .probability(1.0 - p)
            .because(Evidence {
                flows: case.steady_udp().map(|(flow, _)| flow.plan.name.clone()).collect(),
                says: format!("{worse} of {received} packets arrived more than once ({})", percent(ratio)),
                test: Some(format!(
                    "exact binomial test against {}",
                    percent(thresholds::BENIGN_DUPLICATION)
                )),
                p: Some(p),
                ..Evidence::default()
            })
            .parameters(Parameters { packets: Some(worse), ..Parameters::default() }),
    ]
}
