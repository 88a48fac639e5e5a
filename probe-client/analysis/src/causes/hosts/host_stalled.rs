//! `host-stalled`: an end was too busy, or its socket buffer overflowed.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Evidence, Parameters, Side};

use crate::causes::{Case, Claim, thresholds};
use crate::observation::HostFault;

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    let sent: u64 = case.flows.iter().map(|(_, traffic)| traffic.sent).sum();
    let missed: u64 = case.flows.iter().map(|(_, traffic)| traffic.missed).sum();
    let spoiled = |why: &[&str]| -> u64 {
        case.flows
            .iter()
            .flat_map(|(_, t)| why.iter().map(|why| t.excluded.get(why).copied().unwrap_or(0)))
            .sum()
    };
    let here = spoiled(&["send-failed", "receive-overflow"]) + missed;
    let there = spoiled(&["listener-overflow"]);
    let too_many = |n: u64| {
        n >= thresholds::SPOILED_PROBES && n as f64 > thresholds::SPOILED_SHARE * (sent + missed) as f64
    };
    let stalled: f64 = case
        .evidence
        .host
        .iter()
        .filter(|event| event.what == HostFault::Stalled)
        .map(|event| event.to.since(event.from))
        .sum::<std::time::Duration>()
        .as_secs_f64();
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
    let asleep: f64 = case
        .evidence
        .host
        .iter()
        .filter(|event| event.what == HostFault::ListenerStalled)
        .map(|event| event.to.since(event.from))
        .sum::<std::time::Duration>()
        .as_secs_f64();
    if asleep > thresholds::STALLED_SHARE * length || asleep >= thresholds::STALLED_FOR {
        let says = format!("the listener's host was too busy to answer for {asleep:.1} s, by its own clocks");
        claims.push(claim(Side::Listener, says, asleep, there));
    } else if too_many(there) {
        let says = format!("the listener's host had no room for {there} of {sent} probes that had arrived");
        claims.push(claim(Side::Listener, says, 0.0, there));
    }
    claims
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
