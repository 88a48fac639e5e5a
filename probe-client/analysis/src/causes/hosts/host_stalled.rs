//! `host-stalled`: an end was too busy, or its socket buffer overflowed.

use std::time::Duration;

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Evidence, Parameters, Side};
use probe_protocol::time::Timestamp;

use crate::causes::{Case, Claim, thresholds};
use crate::observation::{HostEvent, HostFault};

/// Clocks are compared about twice a second.
const MARGIN: Duration = Duration::from_secs(1);

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    let sent: u64 = case.flows.iter().map(|(_, traffic)| traffic.sent).sum();
    // A host that sleeps is not busy: what it missed then, and its late awakening, are the sleep's.
    let asleep = |from: Timestamp, to: Timestamp| {
        let sleeps = case
            .evidence
            .host
            .iter()
            .filter(|event| matches!(event.what, HostFault::Suspended | HostFault::NotRunning));
        sleeps.into_iter().any(|event| from <= event.to + MARGIN && to + MARGIN >= event.from)
    };
    let missed: u64 = case
        .evidence
        .missed
        .iter()
        .filter(|(from, to, _)| !asleep(*from, *to))
        .map(|(.., count)| count)
        .sum();
    let spoiled = |why: &[&str]| -> u64 {
        case.flows
            .iter()
            .flat_map(|(_, t)| why.iter().map(|why| t.excluded.get(why).copied().unwrap_or(0)))
            .sum()
    };
    // Without a way to the network nobody can send: that is the network's failure.
    let lost = case.lost_ways();
    let margin = MARGIN.as_secs_f64();
    let has_no_way = |event: &HostEvent| {
        let (from, to) = (case.evidence.seconds(event.from), case.evidence.seconds(event.to));
        lost.iter().any(|way| from > way.from_s - margin && to < way.to_s + margin)
            || case.evidence.watches.gateway_was_down(event.from, event.to)
    };
    let failures: Vec<&HostEvent> =
        case.evidence.host.iter().filter(|e| matches!(e.what, HostFault::SendFailed(_))).collect();
    let excused = !failures.is_empty() && failures.into_iter().all(has_no_way);
    let failed = if excused { 0 } else { spoiled(&["send-failed"]) };
    let here = failed + spoiled(&["receive-overflow"]) + missed;
    let there = spoiled(&["listener-overflow"]);
    let too_many = |n: u64| {
        n >= thresholds::SPOILED_PROBES && n as f64 > thresholds::SPOILED_SHARE * (sent + missed) as f64
    };
    let stalls = |of: HostFault| case.evidence.host.iter().filter(move |event| event.what == of);
    let stalled = in_all(stalls(HostFault::Stalled).filter(|event| !asleep(event.from, event.to)));
    let length = case.evidence.last.map_or(0.0, |last| case.evidence.seconds(last));
    let mut claims = Vec::new();
    if too_many(here)
        || stalled > thresholds::STALLED_SHARE * length && stalled > 0.0
        || stalled >= thresholds::STALLED_FOR
    {
        let says = format!(
            "this computer was too busy to measure for {stalled:.1} s of {length:.1} s, and spoiled {here} of {} probes",
            sent + missed
        );
        claims.push(claim(Side::Client, says, stalled, here));
    }
    let listener_s = in_all(stalls(HostFault::ListenerStalled));
    if listener_s > thresholds::STALLED_SHARE * length || listener_s >= thresholds::STALLED_FOR {
        let says =
            format!("the listener's host was too busy to answer for {listener_s:.1} s, by its own clocks");
        claims.push(claim(Side::Listener, says, listener_s, there));
    } else if too_many(there) {
        let says = format!("the listener's host had no room for {there} of {sent} probes that had arrived");
        claims.push(claim(Side::Listener, says, 0.0, there));
    }
    claims
}

/// Seconds in which any of these went on: each flow tells the same stall of the listener.
fn in_all<'e>(events: impl Iterator<Item = &'e HostEvent>) -> f64 {
    let mut spans: Vec<(Timestamp, Timestamp)> = events.map(|event| (event.from, event.to)).collect();
    spans.sort_unstable();
    let mut end = Timestamp::default();
    let mut sum = Duration::ZERO;
    for (from, to) in spans {
        sum += to.since(from.max(end));
        end = end.max(to);
    }
    sum.as_secs_f64()
}

fn claim(side: Side, says: String, length: f64, packets: u64) -> Claim {
    Claim::new(Cause::HostStalled, side)
        .because(Evidence { says, ..Evidence::default() })
        .parameters(Parameters {
            length_s: (length > 0.0).then_some((length * 1000.0).round() / 1000.0),
            packets: Some(packets),
            ..Parameters::default()
        })
        .rather_than(Cause::LossyPath, "the packets were spoiled by a host, not by the path")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stall_that_several_flows_tell_is_one() {
        let event = |from: u64, to: u64| HostEvent {
            from: Timestamp(from * 1_000_000_000),
            to: Timestamp(to * 1_000_000_000),
            what: HostFault::ListenerStalled,
        };
        let events = [event(10, 13), event(11, 13), event(12, 14), event(20, 21), event(10, 12)];
        assert!((in_all(events.iter()) - 5.0).abs() < 1e-9, "{}", in_all(events.iter()));
    }
}
