//! What happened when.

use probe_protocol::cause::Cause;
use probe_protocol::finding::Finding;
use probe_protocol::time::Timestamp;

use super::facts::wall;
use crate::causes::Case;
use crate::events::gather;
use crate::model::{Event, Recovery};
use crate::observation::{HostEvent, HostFault};

/// Events, and of those that have no plain cause the one that was found for their flows.
pub(super) fn events(case: &Case<'_>, findings: &[Finding]) -> Vec<Event> {
    let mut events = told(case);
    for event in events.iter_mut().filter(|event| event.kind == "silence" && event.cause.is_none()) {
        // Who recovered by itself was not killed.
        if event.recovery != Some(Recovery::ByItself) {
            event.cause = killed(&event.flows, findings);
        }
    }
    events
}

/// What killed all of these flows.
fn killed(flows: &[String], findings: &[Finding]) -> Option<Cause> {
    let mut kills = findings.iter().filter(|finding| {
        matches!(
            finding.cause,
            Cause::FlowKilledByPackets
                | Cause::FlowKilledByBytes
                | Cause::FlowKilledByAge
                | Cause::PolicyPush
        )
    });
    let of = |finding: &&Finding| {
        let named = |flow: &String| finding.evidence.iter().any(|evidence| evidence.flows.contains(flow));
        !flows.is_empty() && flows.iter().all(named)
    };
    kills.find(of).map(|finding| finding.cause)
}

fn told(case: &Case<'_>) -> Vec<Event> {
    let mut events = Vec::new();
    for happened in gather(case.evidence) {
        let event = at(case, happened.kind, happened.from, happened.to, happened.says);
        events.push(Event {
            flows: happened.flows.iter().map(|flow| case.evidence.name(*flow)).collect(),
            direction: happened.direction,
            lost: happened.lost,
            cause: happened.cause,
            recovery: happened.recovery,
            meanwhile: happened.meanwhile,
            ..event
        });
    }
    for restart in &case.evidence.restarts {
        let gone = restart.at.since(restart.last_seen).as_secs_f64();
        let says = format!("the listener was started anew; it was away for {gone:.1} s");
        let event = at(case, "listener-restarted", restart.last_seen, restart.at, says);
        events.push(Event { cause: Some(Cause::ListenerRestarted), ..event });
    }
    events.extend(case.evidence.host.iter().map(|event| host(case, event)));
    events.sort_by(|a, b| a.from_s.total_cmp(&b.from_s));
    events
}

fn at(case: &Case<'_>, kind: &'static str, from: Timestamp, to: Timestamp, says: String) -> Event {
    let seconds = |at| (case.evidence.seconds(at) * 1000.0).round() / 1000.0;
    Event {
        kind,
        from_s: seconds(from),
        to_s: seconds(to),
        from: wall(case.evidence, from),
        to: wall(case.evidence, to),
        flows: Vec::new(),
        direction: None,
        lost: None,
        cause: None,
        recovery: None,
        meanwhile: None,
        says,
    }
}

fn host(case: &Case<'_>, event: &HostEvent) -> Event {
    let length = event.to.since(event.from).as_secs_f64();
    let (kind, cause, says) = match &event.what {
        HostFault::Suspended => {
            ("suspended", Some(Cause::ClientSuspended), format!("this computer was asleep for {length:.1} s"))
        }
        HostFault::ClockStepped(ns) => (
            "clock-stepped",
            Some(Cause::ClockStepped),
            format!("this computer's clock was set by {:+.3} s", *ns as f64 / 1e9),
        ),
        HostFault::Stalled => (
            "stalled",
            None,
            format!("this computer was too busy to measure for {length:.1} s, or the program was stopped"),
        ),
        HostFault::ReceiveOverflow(n) => {
            ("receive-overflow", None, format!("this computer had no room for {n} packets that had arrived"))
        }
        HostFault::SendFailed(says) => {
            ("send-failed", None, format!("this computer refused to send: {says}"))
        }
        HostFault::InterfaceChanged { old, new } => (
            "interface-changed",
            Some(Cause::InterfaceChanged),
            format!("this computer's way to the network changed from {old} to {new}"),
        ),
        HostFault::NotRunning => {
            ("not-running", None, format!("the program was not running for {length:.0} s"))
        }
        HostFault::NotRecorded(says) => ("not-recorded", None, says.clone()),
        HostFault::ListenerStalled => (
            "listener-stalled",
            None,
            format!("the listener's computer was too busy to answer for {length:.1} s"),
        ),
    };
    Event { cause, ..at(case, kind, event.from, event.to, says) }
}
