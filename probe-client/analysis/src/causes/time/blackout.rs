//! `outage` and `local-network`: everything was silent for a while. The gateway, asked beside the path, tells whose fault
//! it was. `penalty-box`: datagrams alone were silent, fresh flows among them, after a burst of new flows.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Evidence, Parameters, Side};
use probe_protocol::time::Timestamp;
use probe_protocol::wire::hello::Carrier;

use crate::causes::lives::rounded;
use crate::causes::{Case, Claim, thresholds};
use crate::evidence::{Blackout, Pulse};
use crate::observation::Outcome;
use crate::summarise::wall_of;

/// Bins of the pulse in a row without an answer before it is looked at.
const LEAST_BINS: usize = 5;
/// New flows of datagrams within [`TRIGGER_S`] before a silence that are a burst: half a fan.
const TRIGGER_FLOWS: usize = 12;
const TRIGGER_S: f64 = 12.0;

/// A flow that was not heard for longer before a silence began has no part in it: the slowest of a soak probes less often
/// than each two seconds.
const HEARD_S: f64 = 3.0;

/// A silence of all datagrams, with its edges as exact as the probes give them.
pub(in crate::causes) struct Silence {
    pub(in crate::causes) from_s: f64,
    pub(in crate::causes) to_s: f64,
    pub(in crate::causes) lost: u64,
    pub(in crate::causes) to_the_end: bool,
    /// Streams were answered meanwhile; none where nothing was sent over them.
    pub(in crate::causes) streams_alive: Option<bool>,
}

impl Silence {
    fn length(&self) -> f64 {
        self.to_s - self.from_s
    }
}

/// The silences of all datagrams that are long enough to be named, without those in which a host did not look. Where it
/// could not send, it is the gateway that tells whose fault that was.
pub(in crate::causes) fn silences(case: &Case<'_>) -> Vec<Silence> {
    let pulse = &case.evidence.datagrams;
    pulse
        .blackouts(LEAST_BINS)
        .into_iter()
        .filter(|b| b.to_s - b.from_s >= thresholds::BLACKOUT && b.sent >= thresholds::DEATH_PACKETS)
        .filter(|b| !case.host_explains_silence(b.from_s, b.to_s))
        .filter(|b| is_everybody_s(case, b) && !is_contradicted(case, b))
        .map(|b| Silence { streams_alive: streams(case, &b), ..sharpened(case, &b) })
        .collect()
}

/// Somebody who is not dead for good fell silent with it: flows that died one by one before are no blackout.
fn is_everybody_s(case: &Case<'_>, blackout: &Blackout) -> bool {
    let seconds = |at| case.evidence.seconds(at);
    case.flows
        .iter()
        .filter(|(flow, _)| flow.plan.carrier == Carrier::Udp && case.lives.died(flow.plan.flow).is_none())
        .any(|(flow, traffic)| {
            let from = flow.opened.as_ref().is_some_and(|opened| seconds(opened.at) < blackout.from_s + 0.2);
            let still = traffic.life.last.is_some_and(|last| seconds(last.at) > blackout.to_s - 0.2);
            // Until its begin, or again after it.
            let heard =
                traffic.life.answered.is_some_and(|mark| seconds(mark.at) > blackout.from_s - HEARD_S);
            from && still && heard
        })
}

/// Whether datagrams of any flow were answered in the midst of it, those of a load's time included: the pulse holds but
/// what is sent at a steady rate, and where the last of those died one by one nothing else stands in it.
fn is_contradicted(case: &Case<'_>, blackout: &Blackout) -> bool {
    let bin = case.evidence.datagrams.length().as_secs_f64();
    let (from, to) = (blackout.from_s + bin, blackout.to_s - bin);
    case.flows.iter().filter(|(flow, _)| flow.plan.carrier == Carrier::Udp).any(|(_, traffic)| {
        let length = traffic.timeline.block_length();
        let inside = |at| case.evidence.seconds(at) > from && case.evidence.seconds(at + length) < to;
        traffic.timeline.blocks().any(|(at, counts)| counts.received > 0 && inside(at))
    })
}

/// The pulse's bins are coarse after a night: the longest gaps of the flows are exact.
fn sharpened(case: &Case<'_>, blackout: &Blackout) -> Silence {
    let bin = case.evidence.datagrams.length().as_secs_f64();
    let inside = |at: Timestamp| {
        let s = case.evidence.seconds(at);
        (blackout.from_s - 2.0 * bin..=blackout.to_s + 2.0 * bin).contains(&s).then_some(s)
    };
    let edges: Vec<(f64, f64)> = case
        .flows
        .iter()
        .filter(|(flow, _)| flow.plan.carrier == Carrier::Udp)
        .filter_map(|(_, traffic)| traffic.life.gap)
        .filter_map(|gap| Some((inside(gap.from)?, inside(gap.to)?)))
        .collect();
    // The first lost of any and the first answered of any.
    let from = edges.iter().map(|e| e.0).fold(f64::MAX, f64::min);
    let to = edges.iter().map(|e| e.1).fold(f64::MAX, f64::min);
    let exact = !edges.is_empty() && to - from > 0.5 * (blackout.to_s - blackout.from_s);
    Silence {
        from_s: if exact { from } else { blackout.from_s },
        to_s: if exact { to } else { blackout.to_s },
        lost: blackout.sent,
        to_the_end: blackout.to_the_end,
        streams_alive: None,
    }
}

/// Whether streams were answered during it: at once, not only when TCP had sent again.
fn streams(case: &Case<'_>, blackout: &Blackout) -> Option<bool> {
    let within = case.evidence.streams.within(blackout.from_s, blackout.to_s - 0.5);
    (within.sent >= 3).then(|| within.received * 2 > within.sent)
}

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    let silences = silences(case);
    let mut claims = Vec::new();
    // Where datagrams alone were silent before, a silence in which no stream was asked is another one of these.
    let alone = silences.iter().any(|s| s.streams_alive == Some(true));
    let is_whole = |s: &&Silence| s.streams_alive == Some(false) || s.streams_alive.is_none() && !alone;
    let whole: Vec<&Silence> = silences.iter().filter(is_whole).collect();
    let (local, rest): (Vec<&Silence>, Vec<&Silence>) =
        whole.into_iter().partition(|s| gateway(case, s) == Some(false));
    let (outages, unknown): (Vec<&Silence>, Vec<&Silence>) = rest
        .into_iter()
        .filter(|s| !case.host_meddled(s.from_s, s.to_s))
        .partition(|s| gateway(case, s) == Some(true));
    let unsent = unsent(case, &silences);
    let local: Vec<&Silence> = local.into_iter().chain(&unsent).collect();
    claims.extend(named(case, &local, Cause::LocalNetwork));
    claims.extend(named(case, &outages, Cause::Outage));
    claims.extend(named(case, &unknown, Cause::Unexplained));
    let boxed: Vec<&Silence> = silences.iter().filter(|s| s.streams_alive == Some(true)).collect();
    claims.extend(penalty(case, &boxed));
    claims
}

/// Times in which nothing could be sent: the way to the network was gone and came back as it was, or the gateway did not
/// answer and the system refused.
fn unsent(case: &Case<'_>, silences: &[Silence]) -> Vec<Silence> {
    let watches = &case.evidence.watches;
    let ways = case.lost_ways().into_iter().filter(|way| way.same).map(|way| (way.from_s, way.to_s));
    let down = watches.gateway.watched.down.iter().filter(|_| watches.gateway.tells());
    let down = down.map(|(from, to)| (case.evidence.seconds(*from), case.evidence.seconds(*to)));
    let end = case.evidence.last.map_or(0.0, |last| case.evidence.seconds(last));
    let mut found: Vec<Silence> = Vec::new();
    for (from_s, to_s) in ways.chain(down) {
        let answered = |pulse: &Pulse| pulse.within(from_s + 1.0, to_s - 1.0).received > 0;
        let known = silences.iter().chain(&found).any(|s| s.from_s < to_s && s.to_s > from_s);
        let alive = answered(&case.evidence.datagrams) || answered(&case.evidence.streams);
        if to_s - from_s >= thresholds::BLACKOUT && !known && !alive && !case.host_was_away(from_s, to_s) {
            let lost = u64::from(case.evidence.datagrams.within(from_s, to_s).lost());
            found.push(Silence { from_s, to_s, lost, to_the_end: to_s >= end - 1.0, streams_alive: None });
        }
    }
    found
}

/// Whether the gateway answered during it; none where it was not asked, or does not tell.
fn gateway(case: &Case<'_>, silence: &Silence) -> Option<bool> {
    let watches = &case.evidence.watches;
    let at = |s: f64| case.evidence.start() + std::time::Duration::from_secs_f64(s.max(0.0));
    let (from, to) = (at(silence.from_s), at(silence.to_s));
    if watches.interface.failed_within(from, to) {
        return Some(false);
    }
    if !watches.gateway.tells() {
        return None;
    }
    let (asked, failed) = watches.gateway.between(from, to);
    match (asked, failed) {
        (0, _) => None,
        (asked, failed) if failed * 2 >= asked => Some(false),
        (asked, 0) if asked >= 2 => Some(true),
        _ => None,
    }
}

fn named(case: &Case<'_>, silences: &[&Silence], cause: Cause) -> Option<Claim> {
    let longest = silences.iter().max_by(|a, b| a.length().total_cmp(&b.length()))?;
    let says = |silence: &Silence| {
        format!(
            "from {:.1} s to {:.1} s of the run nothing was answered over any flow ({} packets){}",
            silence.from_s,
            silence.to_s,
            silence.lost,
            if silence.to_the_end { ", and nothing came after it" } else { "" }
        )
    };
    let side = if cause == Cause::LocalNetwork { Side::ClientNetwork } else { Side::Path };
    let mut claim = Claim::new(cause, side)
        .probability(if cause == Cause::Unexplained { 0.9 } else { 0.98 })
        .parameters(Parameters {
            length_s: Some(rounded(longest.length(), 2)),
            moment: wall_of(case.evidence, longest.from_s),
            number: Some(silences.len() as u64),
            ..Parameters::default()
        });
    for silence in silences.iter().take(16) {
        claim = claim.because(Evidence {
            from_s: Some(rounded(silence.from_s, 2)),
            to_s: Some(rounded(silence.to_s, 2)),
            says: says(silence),
            ..Evidence::default()
        });
    }
    let claim = claim.explaining(case.flows.iter().map(|(flow, _)| flow.plan.flow));
    Some(if cause == Cause::LocalNetwork {
        claim.rather_than(Cause::Outage, "this site's own gateway did not answer at that time either")
    } else if cause == Cause::Outage {
        claim.rather_than(Cause::LocalNetwork, "this site's own gateway answered all the time")
    } else {
        claim.or(
            [Cause::Outage, Cause::LocalNetwork],
            "the gateway watched beside the path, which this system or network does not allow here",
        )
    })
}

/// Flows of datagrams whose first attempt began between two moments.
fn new_flows(case: &Case<'_>, from_s: f64, to_s: f64) -> usize {
    case.flows
        .iter()
        .filter(|(flow, _)| !matches!(flow.plan.carrier, Carrier::Tcp | Carrier::Tls))
        .filter(|(flow, _)| (from_s..to_s).contains(&case.evidence.seconds(flow.plan.at)))
        .count()
}

fn penalty(case: &Case<'_>, silences: &[&Silence]) -> Option<Claim> {
    let longest = silences.iter().max_by(|a, b| a.length().total_cmp(&b.length()))?;
    let burst = new_flows(case, longest.from_s - TRIGGER_S, longest.from_s + 0.5);
    let seconds = |at| case.evidence.seconds(at);
    // Fresh flows that tried during it, and got nothing.
    let fresh: Vec<_> = case
        .flows
        .iter()
        .filter(|(flow, _)| !matches!(flow.plan.carrier, Carrier::Tcp | Carrier::Tls))
        .flat_map(|(flow, _)| flow.attempts.iter().map(move |attempt| (flow, attempt)))
        .filter(|(_, a)| seconds(a.from) > longest.from_s && seconds(a.from) < longest.to_s)
        .collect();
    let failed = fresh.iter().filter(|(_, a)| matches!(a.outcome, Outcome::Silent { .. })).count();
    // One that began in the silence may have opened after its end.
    let early =
        fresh.iter().filter(|(_, a)| a.outcome == Outcome::Opened && seconds(a.to) < longest.to_s).count();
    let triggered = burst >= TRIGGER_FLOWS && longest.to_s > longest.from_s;
    let certain = triggered && failed >= thresholds::ALIKE_FLOWS && early == 0 && !longest.to_the_end;
    let says = format!(
        "from {:.1} s to {:.1} s no datagram was answered over any flow, while TCP was; {burst} new flows of datagrams had \
         been opened in the {TRIGGER_S:.0} s before, and {failed} of {} fresh ones tried meanwhile got nothing",
        longest.from_s,
        longest.to_s,
        fresh.len()
    );
    let claim = Claim::new(Cause::PenaltyBox, Side::Path)
        .probability(if certain { 0.97 } else { 0.8 })
        .parameters(Parameters {
            hold_s: (!longest.to_the_end).then(|| rounded(longest.length(), 2)),
            kind: Some("new flows".to_owned()),
            number: Some(burst as u64),
            ..Parameters::default()
        })
        .because(Evidence {
            from_s: Some(rounded(longest.from_s, 2)),
            to_s: Some(rounded(longest.to_s, 2)),
            says,
            ..Evidence::default()
        })
        .explaining(case.flows.iter().map(|(flow, _)| flow.plan.flow))
        .or([Cause::PolicyPush], "the same burst of new flows again, and fresh flows beside it");
    Some(if certain {
        claim.rather_than(
            Cause::Outage,
            "TCP to the same port was answered all the time, and old and new flows of \
                          datagrams alike came back",
        )
    } else {
        claim
    })
}
