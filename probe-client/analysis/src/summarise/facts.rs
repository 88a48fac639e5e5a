//! The run itself, the path MTU, and the clocks.

use probe_protocol::finding::Direction;
use probe_protocol::time::{Timestamp, WallTime};

use crate::causes::Case;
use crate::evidence::{Evidence, FlowEvidence};
use crate::model::{ClockSummary, PathMtuSummary, RunFacts, version};

pub(super) fn run(evidence: &Evidence) -> RunFacts {
    let opened = || evidence.flows.values().filter_map(|flow| flow.opened.as_ref().map(|o| (flow, o)));
    // The steady UDP flow is what people mean by "my address"; else whatever opened first.
    let face = opened().min_by_key(|(flow, o)| (flow.plan.carrier, o.at)).map(|(_, o)| o);
    let end = evidence.ended.as_ref().map(|ended| ended.at).or(evidence.last);
    let run = evidence.run.as_ref();
    RunFacts {
        target: run.map(|run| run.target.clone()).unwrap_or_default(),
        started: run.map(|run| run.wall),
        duration_s: end.map_or(0.0, |end| (evidence.seconds(end) * 1000.0).round() / 1000.0),
        complete: evidence.ended.as_ref().is_some_and(|ended| ended.complete),
        local: run.is_some_and(|run| run.local),
        invited: run.is_some_and(|run| run.invited),
        authenticated: face.map(|_| opened().any(|(_, o)| o.authenticated)),
        measured: face.is_some(),
        client_observed_as: face.map(|o| o.observed.to_string()),
        listener_version: face.map(|o| version(o.software)),
    }
}

/// A moment on the client's wall clock.
pub(super) fn wall(evidence: &Evidence, at: Timestamp) -> Option<WallTime> {
    evidence.run.as_ref().map(|run| WallTime(run.wall.0.saturating_add(at.signed_since(run.at))))
}

pub(super) fn path_mtu(evidence: &Evidence) -> Vec<PathMtuSummary> {
    let row = |o: &crate::observation::PathMtu| PathMtuSummary {
        direction: if o.up { Direction::Up } else { Direction::Down },
        mtu_bytes: o.largest,
        smallest_lost_bytes: o.smallest_lost,
        told_bytes: o.told,
        interface_bytes: o.interface,
    };
    evidence.path_mtu.iter().map(row).collect()
}

pub(super) fn clock(case: &Case<'_>) -> Option<ClockSummary> {
    let wall = case
        .flows
        .iter()
        .filter_map(|(flow, _)| wall_offset(case.evidence, flow))
        .min_by(|a, b| a.1.total_cmp(&b.1));
    let drift = case
        .flows
        .iter()
        .filter_map(|(_, traffic)| traffic.clock.drift_ppm())
        .min_by(|a, b| a.1.total_cmp(&b.1));
    (wall.is_some() || drift.is_some()).then(|| ClockSummary {
        offset_s: wall.map(|(offset, _)| offset),
        offset_error_s: wall.map(|(_, error)| error),
        // Plus nothing: no minus before a nought.
        drift_ppm: drift.map(|(drift, _)| (drift * 10.0).round() / 10.0 + 0.0),
        drift_error_ppm: drift.map(|(_, error)| (error * 10.0).round() / 10.0),
    })
}

/// The listener read its wall clock between the start of the attempt that opened the flow and its opening.
fn wall_offset(evidence: &Evidence, flow: &FlowEvidence) -> Option<(f64, f64)> {
    let opened = flow.opened.as_ref()?;
    let from = wall(evidence, flow.opening_attempt()?.from)?;
    let to = wall(evidence, opened.at)?;
    let seconds = |ns: i64| ns as f64 / 1e9;
    let (high, low) =
        (opened.listener_wall.0.saturating_sub(from.0), opened.listener_wall.0.saturating_sub(to.0));
    Some((seconds(low) + seconds(high - low) / 2.0, seconds(high - low) / 2.0))
}

/// The wall time of a moment of the run, RFC 3339 in UTC.
pub(crate) fn wall_of(evidence: &Evidence, seconds: f64) -> Option<String> {
    let wall = evidence.run.as_ref()?.wall.0.checked_add((seconds * 1e9) as i64)?;
    let at = jiff::Timestamp::from_nanosecond(i128::from(wall)).ok()?;
    Some(format!("{at:.3}"))
}
