//! `address-changed`: the client's public address changes while flows are busy.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Evidence, Parameters, Side};

use super::{broken, moves, names};
use crate::causes::lives::rounded;
use crate::causes::{Case, Claim, thresholds};
use crate::observation::Moved;

/// Flows learn of one change within so much of one another: each by its own next answer, seconds.
const TOGETHER_S: f64 = 10.0;
/// Changes that must be equally far apart before a period is told: were they at random, three distances would be as alike
/// once in some hundred runs.
const TURNS: usize = 4;

/// The moments at which the address changed, seconds after the run's start: when the first flow learned of each.
fn changes(case: &Case<'_>, moves: &[&Moved]) -> Vec<f64> {
    let mut moments: Vec<f64> = moves.iter().map(|moved| case.evidence.seconds(moved.at)).collect();
    moments.sort_by(f64::total_cmp);
    let mut firsts: Vec<f64> = Vec::new();
    for at in moments {
        if firsts.last().is_none_or(|last| at - last > TOGETHER_S) {
            firsts.push(at);
        }
    }
    firsts
}

/// What lies between two changes, where that is always the same.
fn period(times: &[f64]) -> Option<f64> {
    let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let mean = gaps.iter().sum::<f64>() / gaps.len().max(1) as f64;
    let variance =
        gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / (gaps.len() as f64 - 1.0).max(1.0);
    (times.len() >= TURNS && variance.sqrt() < thresholds::DEATH_VARIATION * mean).then_some(mean)
}

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    let moves = moves(case, |moved| moved.old.ip() != moved.new.ip());
    let Some(first) = moves.first() else { return Vec::new() };
    let at = case.evidence.seconds(first.at);
    let times = changes(case, &moves);
    let period = period(&times);
    let again = match (times.len(), period) {
        (1, _) => String::new(),
        (n, None) => format!(", and {} more time(s)", n - 1),
        (n, Some(period)) => format!(", and {} more time(s), every {period:.0} s", n - 1),
    };
    vec![
        Claim::new(Cause::AddressChanged, Side::PathOrEndpoint)
            .direction(Direction::Up)
            .because(Evidence {
                flows: names(case, &moves),
                from_s: Some(at),
                to_s: times.last().copied(),
                says: format!(
                    "the listener saw this client's address change from {} to {}{again}",
                    first.old, first.new
                ),
                ..Evidence::default()
            })
            .parameters(Parameters {
                old: Some(first.old.to_string()),
                new: Some(first.new.to_string()),
                number: Some(times.len() as u64),
                period_s: period.map(|s| rounded(s, 2)),
                ..Parameters::default()
            })
            .explaining(broken(case))
            .rather_than(Cause::NatRebinding, "the address changed, not the port alone"),
    ]
}
