//! From the episodes of single flows to the events of the run.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use probe_protocol::cause::Cause;
use probe_protocol::finding::Direction;
use probe_protocol::time::Timestamp;
use probe_protocol::wire::hello::Carrier;

use super::{Burst, Episode, Ledger, Shift};
use crate::evidence::{Evidence, PROMPT};
use crate::model::{Meanwhile, Recovery};
use crate::observation::{FlowNo, HostFault, Moved, Purpose};

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
    let silences = Silences::of(&ledger);
    let mut happened: Vec<Happened> =
        clusters(ledger.bursts(), |b| (b.from, b.to), |a, b| a.is_silence() == b.is_silence())
            .into_iter()
            .flat_map(apart)
            .map(|cluster| losses(evidence, &ledger, &silences, &cluster))
            .collect();
    let alike = |a: &Shift, b: &Shift| (a.after > a.before) == (b.after > b.before);
    happened.extend(clusters(ledger.shifts(), |s| (s.from, s.to), alike).iter().map(|c| shifts(c)));
    // The ladders' flows are idle so that their mappings are forgotten: what becomes of those is in the findings.
    let is_idle = |flow| evidence.flows.get(&flow).is_some_and(|flow| flow.plan.purpose == Purpose::Idle);
    let busy: Vec<Moved> = evidence.moves.iter().filter(|moved| !is_idle(moved.flow)).copied().collect();
    happened.extend(super::moved::moves(&busy));
    happened.extend(super::broken::connections(evidence));
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

/// Flows that fell silent together, apart: those that were answered again, and those that never were. The end of a silence
/// that the first went through is not the others'.
fn apart(cluster: Vec<Episode<Burst>>) -> Vec<Vec<Episode<Burst>>> {
    let silent = cluster.iter().all(|episode| episode.what.is_silence());
    let answered = |episode: &Episode<Burst>| !silent || episode.what.first_ok.is_some();
    let end = cluster.iter().filter_map(|episode| episode.what.first_ok).min();
    // Who sent nothing more by then could not have been answered: its silence is theirs.
    let is_theirs = |episode: &Episode<Burst>| end.is_some_and(|end| episode.what.to <= end);
    let (over, dead): (Vec<_>, Vec<_>) =
        cluster.into_iter().partition(|episode| answered(episode) || is_theirs(episode));
    [over, dead].into_iter().filter(|part| !part.is_empty()).collect()
}

fn losses(evidence: &Evidence, ledger: &Ledger, silences: &Silences, cluster: &[Episode<Burst>]) -> Happened {
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
    // On a connection nothing is lost, only late: it is a witness where any was answered at once meanwhile.
    let streams_answered = {
        let (from_s, to_s) = (evidence.seconds(from), evidence.seconds(to));
        // What was sent shortly before the end may have been answered after it.
        let meanwhile = evidence.streams.within(from_s, to_s - PROMPT.as_secs_f64());
        meanwhile.sent == 0 || meanwhile.received > 0
    };
    let is_witness = |flow: FlowNo| {
        streams_answered
            || evidence
                .flows
                .get(&flow)
                .is_none_or(|flow| !matches!(flow.plan.carrier, Carrier::Tcp | Carrier::Tls))
    };
    let others: Vec<FlowNo> = ledger
        .alive(from, to)
        .filter(|flow| !flows.contains(flow) && !silences.were_during(*flow, from, to) && is_witness(*flow))
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

/// When each flow was silent.
struct Silences(BTreeMap<FlowNo, Vec<(Timestamp, Timestamp)>>);

impl Silences {
    fn of(ledger: &Ledger) -> Self {
        let mut silences: BTreeMap<FlowNo, Vec<(Timestamp, Timestamp)>> = BTreeMap::new();
        for episode in ledger.bursts().iter().filter(|episode| episode.what.is_silence()) {
            silences.entry(episode.flow).or_default().push((episode.what.from, episode.what.to));
        }
        Self(silences)
    }

    /// A flow that was silent itself all the time is no witness that the path was alive.
    fn were_during(&self, flow: FlowNo, from: Timestamp, to: Timestamp) -> bool {
        let silences = self.0.get(&flow).map_or(&[][..], Vec::as_slice);
        silences.iter().any(|(begins, ends)| {
            *begins <= to && *ends >= from && *begins <= from + TOGETHER && *ends + TOGETHER >= to
        })
    }
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
    if let Some(end) = end {
        let restarted =
            evidence.restarts.iter().any(|restart| restart.last_seen <= end && restart.at >= from);
        return if restarted { Recovery::ListenerRestart } else { Recovery::ByItself };
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
    // What came long after a silence had begun is not what it came of.
    let began = |begin: Timestamp, end: Timestamp| begin <= from + TOGETHER && begin <= to && end >= from;
    let did = |is: fn(&HostFault) -> bool| {
        evidence.host.iter().any(|event| is(&event.what) && began(event.from, event.to))
    };
    let restarted = evidence.restarts.iter().any(|restart| began(restart.last_seen, restart.at));
    if did(|what| matches!(what, HostFault::Suspended)) {
        Some(Cause::ClientSuspended)
    } else if restarted {
        Some(Cause::ListenerRestarted)
    } else if did(|what| matches!(what, HostFault::InterfaceChanged { .. })) {
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
