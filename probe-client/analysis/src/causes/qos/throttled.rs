//! `flow-throttled`: a long transfer is slowed, and a fresh flow is fast at that moment. Where the fresh one is slow, too,
//! and TCP is not, what slows it is a limit on UDP.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Evidence, Parameters, Side};
use probe_protocol::wire::hello::Carrier;

use super::measure::Measured;
use super::series::Stretch;
use super::steps::{self, Step};
use crate::causes::thresholds::FALSE_ALARM;
use crate::causes::{Case, Claim};
use crate::evidence::FlowEvidence;
use crate::observation::{FlowNo, Load, LoadBin, LoadExperiment, Outcome, Purpose};
use crate::rate::quantile;
use crate::stats::hypothesis::fisher_at_least;

/// After the change at most this share of the rate before it arrives.
const SLOWED: f64 = 0.8;
/// Slices of a rehearsal on either side of the change.
const EITHER_SIDE: usize = 3;
/// An opening that went on for so long, seconds, has asked many times.
const TRIED_S: f64 = 5.0;
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
            let slices = steps::slices(case, direction, flow);
            let own: Vec<&Step> = slices.iter().filter(|s| !shares(s, &all)).collect();
            claims.extend(slowed(case, direction, &all, &own));
        }
    }
    claims
}

/// Whether a fresh flow of datagrams took part of what this slice could have had.
fn shares(slice: &Step, all: &[Step]) -> bool {
    all.iter().any(|s| {
        s.experiment == LoadExperiment::Fresh
            && s.carrier == Carrier::Udp
            && s.from_s < slice.to_s
            && s.to_s > slice.from_s
    })
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

/// A transfer that does not get through as it is sent.
struct Slow<'s> {
    flow: FlowNo,
    /// The slices in which it is slow.
    slices: Vec<&'s Step>,
    /// When that began, and when the transfer did, seconds after the run's start.
    moment: f64,
    began: f64,
    /// What arrived before, and since then, bits per second.
    before: Option<f64>,
    after: f64,
    /// Delay that came with it, seconds.
    added: f64,
}

fn middle(part: &[&Step], q: f64) -> Option<f64> {
    quantile(&mut part.iter().map(|s| s.arrived_bps).collect::<Vec<_>>(), q)
}

fn slow<'s>(case: &Case<'_>, own: &[&'s Step]) -> Option<Slow<'s>> {
    let first = own.first()?;
    let mean = |part: &[&Step]| {
        let delays: Vec<f64> = part.iter().filter_map(|s| s.delay.map(|d| d.1)).collect();
        delays.iter().sum::<f64>() / delays.len().max(1) as f64
    };
    let changed = change(own).and_then(|at| {
        let (before, after) = (middle(&own[..at], 0.5)?, middle(&own[at..], 0.5)?);
        // All that came later is slower than nearly all that came before: a dip is not a change.
        let falls = after <= SLOWED * before && middle(&own[at..], 0.9)? <= middle(&own[..at], 0.1)?;
        // Clocks drift apart over hours, and not over a few slices.
        let near = |from: usize, to: usize| mean(&own[from..to.min(own.len())]);
        let added = near(at, at + EITHER_SIDE) - near(at.saturating_sub(EITHER_SIDE), at);
        falls.then_some((at, before, after, added))
    });
    let slow = |at: usize, before, after, added| Slow {
        flow: first.flow,
        slices: own[at..].to_vec(),
        moment: if at > 0 { moment(case, own[at - 1], own[at]) } else { first.from_s },
        began: first.from_s,
        before,
        after,
        added,
    };
    if let Some((at, before, after, added)) = changed {
        return Some(slow(at, Some(before), after, added));
    }
    // From the beginning on.
    let is_slow = |s: &&&Step| s.arrived_bps <= SLOWED * s.sent_bps;
    let slices = own.iter().filter(is_slow).count();
    if slices < EITHER_SIDE || slices * 10 < own.len() * 9 {
        return None;
    }
    let (least, mean) = first.delay?;
    Some(slow(0, None, middle(own, 0.5)?, mean - least))
}

/// When losses set in: the first of two slices' bins from which on a second of them misses as much as the slow slice does.
fn moment(case: &Case<'_>, before: &Step, after: &Step) -> f64 {
    const BINS: usize = 10;
    let share = (1.0 - after.arrived_bps / after.sent_bps.max(1.0)) * 0.7;
    let fits = |l: &&Load| l.flow == before.flow && l.experiment == LoadExperiment::Rehearsal;
    let within = |bin: &&LoadBin| (before.from_s..after.to_s).contains(&case.evidence.seconds(bin.at));
    let loads = case.evidence.loads.steps().iter().filter(fits);
    let bins: Vec<&LoadBin> = loads.flat_map(|l| &l.bins).filter(within).collect();
    let misses = |bins: &[&LoadBin]| {
        let (sent, lost) = bins
            .iter()
            .fold((0u64, 0u64), |(s, l), bin| (s + u64::from(bin.packets), l + u64::from(bin.lost)));
        lost as f64 >= share * sent as f64 && lost > 0
    };
    let at = bins.windows(BINS).position(|w| w.first().is_some_and(|first| misses(&[*first])) && misses(w));
    at.and_then(|at| bins.get(at)).map_or(after.from_s, |bin| case.evidence.seconds(bin.at))
}

/// What came and went at the same rate in all slices, up to this ratio, has a rate of its own.
const STEADY: f64 = 0.04;
/// Delay that a full queue adds at least, seconds.
const QUEUED: f64 = 0.005;

/// Whether other flows of datagrams, which send little beside the transfer, lose clearly more since a moment: what slows it
/// is no state of its own.
fn others_lose(case: &Case<'_>, direction: Direction, moment: f64) -> Option<Evidence> {
    let beside = |flow: &FlowEvidence| {
        matches!(flow.plan.carrier, Carrier::Udp | Carrier::Quic)
            && matches!(flow.plan.purpose, Purpose::Loaded | Purpose::Steady)
    };
    let (mut before, mut since) = ((0u64, 0u64), (0u64, 0u64));
    let mut flows = Vec::new();
    for (flow, traffic) in case.flows.iter().filter(|(flow, _)| beside(flow)) {
        for (at, counts) in traffic.timeline.blocks() {
            let lost = if direction == Direction::Up { counts.lost_up } else { counts.lost_down };
            let sum = if case.evidence.seconds(at) < moment { &mut before } else { &mut since };
            *sum = (sum.0 + lost, sum.1 + counts.sent);
        }
        flows.push(flow.plan.name.clone());
    }
    let p = fisher_at_least(since.0, since.1, before.0, before.1);
    (p < FALSE_ALARM).then(|| Evidence {
        flows,
        from_s: Some(moment),
        says: format!(
            "other flows of datagrams lost {} of {} packets since then, and {} of {} before",
            since.0, since.1, before.0, before.1
        ),
        test: Some("Fisher's exact test".to_owned()),
        p: Some(p),
        ..Evidence::default()
    })
}

/// A fresh flow that asked to be opened again and again and was not: what slows the old one slows it from its first packet
/// on, since the path was open to all before.
fn shut_out(case: &Case<'_>, moment: f64) -> Option<Evidence> {
    let never = |flow: &&FlowEvidence| {
        flow.plan.carrier == Carrier::Udp
            && flow.plan.purpose == Purpose::Bulk
            && flow.opened.is_none()
            && case.evidence.seconds(flow.plan.at) >= moment
    };
    let tried = |flow: &FlowEvidence| -> f64 {
        let silent = flow.attempts.iter().filter(|a| matches!(a.outcome, Outcome::Silent { .. }));
        silent.map(|a| a.to.since(a.from).as_secs_f64()).sum()
    };
    let flow = case
        .flows
        .iter()
        .map(|(flow, _)| *flow)
        .filter(never)
        .max_by(|a, b| tried(a).total_cmp(&tried(b)))?;
    (tried(flow) >= TRIED_S).then(|| Evidence {
        flows: vec![flow.plan.name.clone()],
        from_s: Some(case.evidence.seconds(flow.plan.at)),
        says: format!("a fresh flow asked to be opened for {:.0} s, and was not answered", tried(flow)),
        ..Evidence::default()
    })
}

fn slowed(case: &Case<'_>, direction: Direction, all: &[Step], own: &[&Step]) -> Option<Claim> {
    let slow = slow(case, own)?;
    let tried = |udp: bool| {
        all.iter().filter(move |s| {
            s.experiment == LoadExperiment::Fresh
                && s.from_s >= slow.moment
                && (s.carrier == Carrier::Udp) == udp
        })
    };
    let best = |udp: bool| tried(udp).map(|s| s.arrived_bps).reduce(f64::max);
    let mbit = |bps: f64| format!("{:.2} Mbit/s", bps / 1e6);
    let says = match slow.before {
        Some(before) => format!(
            "after {:.1} s the transfer fell from {} to {} and stayed there",
            slow.moment - slow.began,
            mbit(before),
            mbit(slow.after)
        ),
        None => {
            format!("of the transfer no more than {} got through, from its beginning on", mbit(slow.after))
        }
    };
    let (fresh, tcp) = (best(true), best(false));
    let is_fast = |bps: Option<f64>| bps.is_some_and(|b| b >= FRESH_BEATS * slow.after);
    // The first slice may hold what a bucket had in store.
    let later = slow.slices.get(1..).unwrap_or_default();
    let spread = middle(later, 0.9)? - middle(later, 0.1)?;
    let is_steady = later.len() >= EITHER_SIDE && spread <= STEADY * slow.after;
    let is_shaper = slow.added >= QUEUED;
    // A fresh flow that does not even open tells nothing by itself.
    let others = if fresh.is_none() {
        others_lose(case, direction, slow.moment).or_else(|| shut_out(case, slow.moment))
    } else {
        None
    };
    let is_shared = fresh.is_some() || others.is_some();
    let (cause, probability) = if is_fast(fresh) {
        (Cause::FlowThrottled, 0.97)
    } else if is_shared && is_fast(tcp) {
        let own = if is_shaper { Cause::UdpShaper } else { Cause::UdpPolicer };
        (own, if is_steady { 0.97 } else { 0.6 })
    } else if is_shared {
        (Cause::RateLimit, 0.6)
    } else {
        (Cause::FlowThrottled, 0.5)
    };
    let mut claim = Claim::new(cause, Side::Path)
        .direction(direction)
        .probability(probability)
        .parameters(Parameters {
            rate_bps: Some(slow.after.round() as u64),
            age_s: slow.before.map(|_| ((slow.moment - slow.began) * 10.0).round() / 10.0),
            ..Parameters::default()
        })
        .because(Evidence {
            flows: vec![case.evidence.name(slow.flow)],
            from_s: Some(slow.moment),
            to_s: slow.slices.last().map(|s| s.to_s),
            says,
            ..Evidence::default()
        });
    for (what, got) in [("a fresh flow", fresh), ("TCP", tcp)] {
        if let Some(got) = got {
            let says = format!("{what} got {} at that time", mbit(got));
            claim = claim.because(Evidence { says, ..Evidence::default() });
        }
    }
    let rejected = match others {
        Some(says) => {
            claim = claim.because(says);
            "what slows it is not this flow's alone"
        }
        None => "a fresh flow is as slow at the same time",
    };
    let others = if is_shaper {
        [Cause::UdpShaper, Cause::Congestion]
    } else {
        [Cause::UdpPolicer, Cause::Congestion]
    };
    Some(if cause == Cause::FlowThrottled && probability > 0.9 {
        claim.rather_than(Cause::Congestion, "a fresh flow is fast on the same path at the same time")
    } else if cause == Cause::FlowThrottled {
        claim.or([Cause::RateLimit, Cause::Congestion], "what a fresh flow gets while the old one is slow")
    } else if cause == Cause::RateLimit {
        claim.or(others, "TCP alone at the same rate over the same path")
    } else {
        claim
            .rather_than(Cause::FlowThrottled, rejected)
            .or([Cause::RateLimit, Cause::Congestion], "a transfer whose rate holds for half a minute")
    })
}
