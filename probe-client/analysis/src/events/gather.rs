//! From the episodes of single flows to the events of the run.

use std::collections::BTreeSet;
use std::time::Duration;

use probe_protocol::cause::Cause;
use probe_protocol::finding::Direction;
use probe_protocol::time::Timestamp;

use super::{Burst, Episode, Ledger, Shift};
use crate::evidence::Evidence;
use crate::model::{Meanwhile, Recovery};
use crate::observation::{FlowNo, HostFault};

/// Episodes of one cause begin within this of each other: the longest time between two probes of a slow flow.
const TOGETHER: Duration = Duration::from_secs(6);
/// The whole path is out where at least this share of the flows is silent.
const WHOLE: f64 = 0.9;
/// A new flow that opens within this after a silence began cured it.
const CURED_WITHIN: Duration = Duration::from_secs(120);

/// What happened to some flows or all of them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Happened {
    pub(crate) kind: &'static str,
    pub(crate) from: Timestamp,
    pub(crate) to: Timestamp,
    pub(crate) flows: Vec<FlowNo>,
    pub(crate) direction: Option<Direction>,
    pub(crate) lost: Option<u64>,
    pub(crate) cause: Option<Cause>,
    pub(crate) recovery: Option<Recovery>,
    pub(crate) meanwhile: Option<Meanwhile>,
    pub(crate) says: String,
}

/// Puts episodes together.
pub(crate) fn gather(evidence: &Evidence) -> Vec<Happened> {
    let ledger = evidence.ledger.finished();
    let mut happened: Vec<Happened> =
        clusters(ledger.bursts(), |b| (b.from, b.to), |a, b| a.is_silence() == b.is_silence())
            .iter()
            .map(|cluster| losses(evidence, &ledger, cluster))
            .collect();
    let alike = |a: &Shift, b: &Shift| (a.after > a.before) == (b.after > b.before);
    happened.extend(clusters(ledger.shifts(), |s| (s.from, s.to), alike).iter().map(|c| shifts(c)));
    happened
}

/// Episodes that begin together, overlap and are alike.
fn clusters<T: Copy>(
    episodes: &[Episode<T>],
    window: impl Fn(&T) -> (Timestamp, Timestamp),
    alike: impl Fn(&T, &T) -> bool,
) -> Vec<Vec<Episode<T>>> {
    let mut sorted = episodes.to_vec();
    sorted.sort_by_key(|episode| (window(&episode.what).0, episode.flow));
    let mut clusters: Vec<Vec<Episode<T>>> = Vec::new();
    for episode in sorted {
        let (from, _) = window(&episode.what);
        let home = clusters.iter_mut().rev().take(64).find(|cluster| {
            cluster.first().is_some_and(|first| {
                let (start, end) = window(&first.what);
                from.since(start) <= TOGETHER && from <= end && alike(&first.what, &episode.what)
            })
        });
        match home {
            Some(cluster) => cluster.push(episode),
            None => clusters.push(vec![episode]),
        }
    }
    clusters
}

fn losses(evidence: &Evidence, ledger: &Ledger, cluster: &[Episode<Burst>]) -> Happened {
    let bursts = || cluster.iter().map(|episode| &episode.what);
    let sum = |of: fn(&Burst) -> u64| bursts().map(of).sum::<u64>();
    let (up, down, lost, sent) = (sum(|b| b.up), sum(|b| b.down), sum(Burst::lost), sum(|b| b.sent));
    let flows: BTreeSet<FlowNo> = cluster.iter().map(|episode| episode.flow).collect();
    let silent = bursts().all(Burst::is_silence);
    let first = bursts().map(|b| b.from).min().unwrap_or_default();
    let last = bursts().map(|b| b.to).max().unwrap_or_default();
    // All flows together tell the edges better than each one does.
    let last_ok = bursts().filter_map(|b| b.last_ok).max();
    let first_ok = bursts().filter_map(|b| b.first_ok).min();
    let from = if silent { first.max(last_ok.unwrap_or(first)) } else { first };
    let to = if silent { first_ok.unwrap_or(last).max(from) } else { last };
    let others: Vec<FlowNo> = ledger
        .alive(from, to)
        .filter(|flow| !flows.contains(flow) && !was_silent_before(ledger, *flow, first))
        .collect();
    let share = flows.len() as f64 / (flows.len() + others.len()) as f64;
    let whole = silent && share >= WHOLE && (flows.len() > 1 || others.is_empty());
    let direction = match (up > 0, down > 0) {
        (true, false) => Some(Direction::Up),
        (false, true) => Some(Direction::Down),
        (true, true) => Some(Direction::Both),
        (false, false) => None,
    };
    let meanwhile = meanwhile(evidence, from, to, &others);
    let recovery = silent.then(|| recovery(evidence, &flows, cluster, from));
    let cause = if silent { cause(evidence, whole, from, to, &meanwhile) } else { None };
    let length = to.since(from).as_secs_f64();
    let (kind, says) = match (whole, silent) {
        (true, _) => ("outage", format!("nothing got through for {length:.1} s: {lost} packets were lost")),
        (false, true) => ("silence", format!("no answer for {length:.1} s: {lost} packets were lost")),
        (false, false) => ("loss", format!("{lost} of {sent} packets were lost")),
    };
    let says = match recovery {
        Some(recovery) => format!("{says}; {}", recovery.says()),
        None => says,
    };
    Happened {
        kind,
        from,
        to,
        flows: flows.into_iter().collect(),
        direction,
        lost: Some(lost),
        cause,
        recovery,
        meanwhile: Some(meanwhile),
        says,
    }
}

/// A flow that was dead long before is no witness that the path was alive, nor that it was not.
fn was_silent_before(ledger: &Ledger, flow: FlowNo, at: Timestamp) -> bool {
    ledger.bursts().iter().any(|episode| {
        let burst = &episode.what;
        episode.flow == flow && burst.is_silence() && burst.from + TOGETHER < at && burst.to >= at
    })
}

fn meanwhile(evidence: &Evidence, from: Timestamp, to: Timestamp, others: &[FlowNo]) -> Meanwhile {
    let gateway = &evidence.watches.gateway;
    let asked = if gateway.tells() { gateway.between(from, to) } else { (0, 0) };
    let host = evidence.host.iter().filter(|event| event.from <= to && event.to >= from);
    let host: BTreeSet<&'static str> = host.map(|event| word(&event.what)).collect();
    Meanwhile {
        gateway_asked: (asked.0 > 0).then_some(asked.0),
        gateway_silent: (asked.0 > 0).then_some(asked.1),
        host: host.into_iter().map(str::to_owned).collect(),
        other_flows_answered: others.len() as u64,
    }
}

fn word(fault: &HostFault) -> &'static str {
    match fault {
        HostFault::Suspended => "suspended",
        HostFault::ClockStepped(_) => "clock-stepped",
        HostFault::Stalled => "stalled",
        HostFault::ReceiveOverflow(_) => "receive-overflow",
        HostFault::SendFailed(_) => "send-failed",
        HostFault::InterfaceChanged { .. } => "interface-changed",
        HostFault::ListenerStalled => "listener-stalled",
        HostFault::NotRunning => "not-running",
        HostFault::NotRecorded(_) => "not-recorded",
    }
}

fn recovery(
    evidence: &Evidence,
    flows: &BTreeSet<FlowNo>,
    cluster: &[Episode<Burst>],
    from: Timestamp,
) -> Recovery {
    let end = cluster.iter().filter_map(|episode| episode.what.first_ok).min();
    let last = cluster.iter().map(|episode| episode.what.to).max().unwrap_or(from);
    if evidence.restarts.iter().any(|restart| restart.last_seen <= end.unwrap_or(last) && restart.at >= from)
    {
        return Recovery::ListenerRestart;
    }
    if end.is_some() {
        return Recovery::ByItself;
    }
    let cured = evidence.flows.values().any(|flow| {
        let follows = flow.plan.replaces.is_some_and(|replaced| flows.contains(&replaced));
        let opened = flow
            .opened
            .as_ref()
            .is_some_and(|o| o.at >= from && o.at.since(from) <= CURED_WITHIN + last.since(from));
        follows && opened
    });
    if cured { Recovery::NewPort } else { Recovery::Not }
}

/// What is plain without further analysis. The rest is for the findings.
fn cause(
    evidence: &Evidence,
    whole: bool,
    from: Timestamp,
    to: Timestamp,
    meanwhile: &Meanwhile,
) -> Option<Cause> {
    let has = |name: &str| meanwhile.host.iter().any(|host| host == name);
    let restarted = evidence.restarts.iter().any(|restart| restart.last_seen <= to && restart.at >= from);
    if has("suspended") {
        Some(Cause::ClientSuspended)
    } else if restarted {
        Some(Cause::ListenerRestarted)
    } else if has("interface-changed") {
        Some(Cause::InterfaceChanged)
    } else if whole && meanwhile.gateway_silent.zip(meanwhile.gateway_asked).is_some_and(|(s, n)| s * 2 >= n)
    {
        Some(Cause::LocalNetwork)
    } else if whole {
        Some(Cause::Outage)
    } else {
        None
    }
}

fn shifts(cluster: &[Episode<Shift>]) -> Happened {
    let shifts = || cluster.iter().map(|episode| &episode.what);
    let mut befores: Vec<u64> = shifts().map(|shift| shift.before).collect();
    let mut afters: Vec<u64> = shifts().map(|shift| shift.after).collect();
    let middle = |values: &mut Vec<u64>| {
        values.sort_unstable();
        values.get(values.len() / 2).copied().unwrap_or(0) as f64 / 1e6
    };
    let (before, after) = (middle(&mut befores), middle(&mut afters));
    let flows: BTreeSet<FlowNo> = cluster.iter().map(|episode| episode.flow).collect();
    let over = shifts().any(|shift| shift.is_over);
    let end = if over { ", and went back" } else { "" };
    Happened {
        kind: "delay-shift",
        from: shifts().map(|shift| shift.from).min().unwrap_or_default(),
        to: shifts().map(|shift| shift.to).max().unwrap_or_default(),
        flows: flows.into_iter().collect(),
        direction: None,
        lost: None,
        cause: None,
        recovery: None,
        meanwhile: None,
        says: format!("the delay there and back went from {before:.1} ms to {after:.1} ms{end}"),
    }
}
