//! Connections that broke while they were in use: what broke many at once is one event.

use std::time::Duration;

use probe_protocol::cause::Cause;
use probe_protocol::time::Timestamp;

use super::gather::Happened;
use crate::evidence::Evidence;
use crate::model::Recovery;
use crate::observation::{End, FlowNo, HostFault, Purpose};

/// Connections of one event break within this of each other: an end shows with the next packet, and a slow flow sends one
/// every few seconds.
const TOGETHER: Duration = Duration::from_secs(6);

/// Puts the ends of connections together. What was never open is none that broke, and a flow of datagrams has no end but
/// its silence.
pub(super) fn connections(evidence: &Evidence) -> Vec<Happened> {
    let mut ends: Vec<(Timestamp, &'static str, FlowNo)> = Vec::new();
    for (number, flow) in &evidence.flows {
        // Those that are left idle are there to find out when they break.
        if flow.opened.is_none() || matches!(flow.plan.purpose, Purpose::Idle | Purpose::Trial) {
            continue;
        }
        let Some(ended) = &flow.ended else { continue };
        let how = match &ended.end {
            End::Reset => "reset",
            End::Closed => "closed",
            End::Finished | End::NeverOpened | End::TimedOut | End::ListenerRestarted | End::Error(_) => {
                continue;
            }
        };
        ends.push((ended.at, how, *number));
    }
    ends.sort_unstable();
    let mut groups: Vec<Vec<(Timestamp, &'static str, FlowNo)>> = Vec::new();
    for end in ends {
        let home = groups.iter_mut().rev().take(8).find(|group| {
            group.first().is_some_and(|first| first.1 == end.1 && end.0.since(first.0) <= TOGETHER)
        });
        match home {
            Some(group) => group.push(end),
            None => groups.push(vec![end]),
        }
    }
    groups.iter().filter_map(|group| event(evidence, group)).collect()
}

fn event(evidence: &Evidence, group: &[(Timestamp, &'static str, FlowNo)]) -> Option<Happened> {
    let ((from, how, _), (to, ..)) = (*group.first()?, *group.last()?);
    let (begin, end) = (Timestamp(from.0.saturating_sub(TOGETHER.as_nanos() as u64)), to + TOGETHER);
    let restarted = evidence.restarts.iter().any(|restart| restart.last_seen <= end && restart.at >= begin);
    let changed = evidence.host.iter().any(|event| {
        matches!(event.what, HostFault::InterfaceChanged { .. }) && event.from <= end && event.to >= begin
    });
    let cause = if restarted {
        Some(Cause::ListenerRestarted)
    } else if changed {
        Some(Cause::InterfaceChanged)
    } else {
        None
    };
    let flows: Vec<FlowNo> = group.iter().map(|(_, _, flow)| *flow).collect();
    let opened_anew = evidence
        .flows
        .values()
        .any(|flow| flow.plan.replaces.is_some_and(|old| flows.contains(&old)) && flow.opened.is_some());
    let what = match flows.len() {
        1 => format!("the connection was {how}"),
        n => format!("{n} connections were {how}"),
    };
    let (recovery, after) =
        if opened_anew { (Some(Recovery::NewPort), "; new ones opened") } else { (None, "") };
    Some(Happened {
        kind: "connections-broken",
        from,
        to,
        flows,
        direction: None,
        lost: None,
        cause,
        recovery,
        meanwhile: None,
        says: format!("{what}{after}"),
    })
}
