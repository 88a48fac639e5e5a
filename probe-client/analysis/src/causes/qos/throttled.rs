//! `flow-throttled`: a long transfer is slowed, and a fresh flow is fast at that moment.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Evidence, Parameters, Side};

use super::measure::Measured;
use super::series::Stretch;
use super::steps::{self, Step};
use crate::causes::{Case, Claim};
use crate::observation::{FlowNo, LoadExperiment};
use crate::rate::quantile;

/// After the change at most this share of the rate before it arrives.
const SLOWED: f64 = 0.8;
/// Steps of a rehearsal on either side of the change.
const EITHER_SIDE: usize = 3;
/// A fresh flow must get this many times the throttled rate.
const FRESH_BEATS: f64 = 1.2;

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    if case.evidence.loads.is_empty() {
        return Vec::new();
    }
    let mut claims = Vec::new();
    for direction in [Direction::Up, Direction::Down] {
        let all = steps::steps(case, direction);
        let flows: std::collections::BTreeSet<FlowNo> =
            all.iter().filter(|s| s.experiment == LoadExperiment::Rehearsal).map(|s| s.flow).collect();
        for flow in flows {
            let own: Vec<&Step> =
                all.iter().filter(|s| s.flow == flow && s.experiment == LoadExperiment::Rehearsal).collect();
            claims.extend(slowed(case, direction, &all, &own));
        }
    }
    claims
}

/// The split of the steps at which the rate falls most: the squares of the distances from both means are least.
fn change(own: &[&Step]) -> Option<usize> {
    let rates: Vec<f64> = own.iter().map(|s| s.arrived_bps).collect();
    let cost = |part: &[f64]| {
        let mean = part.iter().sum::<f64>() / part.len() as f64;
        part.iter().map(|r| (r - mean) * (r - mean)).sum::<f64>()
    };
    (EITHER_SIDE..=rates.len().checked_sub(EITHER_SIDE)?).min_by(|a, b| {
        (cost(&rates[..*a]) + cost(&rates[*a..])).total_cmp(&(cost(&rates[..*b]) + cost(&rates[*b..])))
    })
}

/// A fresh flow must pass this many times what a limit that it shared with the old one could have let through.
const FRESH_PASSES: f64 = 1.5;

/// In a check: a flow that has come to a limit, and a fresh one that right after it passes far more.
pub(super) fn in_a_check(
    case: &Case<'_>,
    direction: Direction,
    found: &Measured<'_>,
    old: &[&Stretch],
    fresh: &[Stretch],
) -> Option<Claim> {
    let fresh = fresh.first()?;
    let first = fresh.packets.first()?.at;
    let last = fresh.packets.last()?.at;
    // The old flow used up what a bucket of both would have held.
    let empty = old
        .iter()
        .flat_map(|s| s.packets.iter().filter(|p| p.is_lost()).map(|p| p.at))
        .filter(|at| *at < first)
        .reduce(f64::max)?;
    let passed: f64 = fresh.packets.iter().filter(|p| !p.is_lost()).map(|p| p.bytes).sum();
    let shared = found.rate * (last - empty) + fresh.wire;
    if passed < FRESH_PASSES * shared {
        return None;
    }
    let until = old.iter().flat_map(|s| &s.packets).take_while(|p| !p.is_lost()).count();
    let says = format!(
        "after {until} packets the flow fell to {:.2} Mbit/s; a fresh flow beside it then passed {:.2} Mbit/s",
        found.rate * 8.0 / 1e6,
        passed / (last - first).max(1e-3) * 8.0 / 1e6
    );
    Some(
        Claim::new(Cause::FlowThrottled, Side::Path)
            .direction(direction)
            .probability(0.97)
            .parameters(Parameters {
                rate_bps: Some((found.rate * 8.0).round() as u64),
                packets: Some(until as u64),
                ..Parameters::default()
            })
            .because(Evidence {
                flows: [old.first()?.flow, fresh.flow].map(|f| case.evidence.name(f)).to_vec(),
                from_s: Some(old.first()?.from_s),
                to_s: Some(fresh.to_s),
                says,
                ..Evidence::default()
            })
            .rather_than(Cause::UdpPolicer, "a fresh flow on the same path is not bound by it"),
    )
}

fn slowed(case: &Case<'_>, direction: Direction, all: &[Step], own: &[&Step]) -> Option<Claim> {
    let at = change(own)?;
    let middle = |part: &[&Step], q| quantile(&mut part.iter().map(|s| s.arrived_bps).collect::<Vec<_>>(), q);
    let (before, after) = (middle(&own[..at], 0.5)?, middle(&own[at..], 0.5)?);
    // All that came later is slower than nearly all that came before: a dip is not a change.
    if after > SLOWED * before || middle(&own[at..], 0.9)? > middle(&own[..at], 0.1)? {
        return None;
    }
    let moment = own.get(at)?.from_s;
    let began = own.first()?.from_s;
    let fresh = all
        .iter()
        .filter(|s| s.experiment == LoadExperiment::Fresh && s.from_s >= moment)
        .map(|s| s.arrived_bps)
        .reduce(f64::max);
    let says = format!(
        "after {:.0} s the transfer fell from {:.2} to {:.2} Mbit/s and stayed there",
        moment - began,
        before / 1e6,
        after / 1e6
    );
    let is_fresh_fast = fresh.is_some_and(|f| f >= FRESH_BEATS * after);
    let mut claim = Claim::new(Cause::FlowThrottled, Side::Path)
        .direction(direction)
        .probability(if is_fresh_fast { 0.97 } else { 0.5 })
        .parameters(Parameters {
            rate_bps: Some(after.round() as u64),
            age_s: Some(((moment - began) * 10.0).round() / 10.0),
            ..Parameters::default()
        })
        .because(Evidence {
            flows: own.first().map(|s| case.evidence.name(s.flow)).into_iter().collect(),
            from_s: Some(moment),
            to_s: own.last().map(|s| s.to_s),
            says,
            ..Evidence::default()
        })
        .or([Cause::RateLimit, Cause::Congestion], "what a fresh flow gets while the old one is slow");
    if let Some(fresh) = fresh.filter(|_| is_fresh_fast) {
        claim = claim
            .because(Evidence {
                says: format!("a fresh flow got {:.2} Mbit/s at that time", fresh / 1e6),
                ..Evidence::default()
            })
            .rather_than(Cause::Congestion, "a fresh flow is fast on the same path at the same time");
    }
    Some(claim)
}
