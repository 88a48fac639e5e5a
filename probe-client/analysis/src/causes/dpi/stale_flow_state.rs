//! `stale-flow-state`: an old flow decays, and a new port cures it. At the same time as the old flow loses, at least eight
//! fresh ports are clean (a failing path member would take some of them); and the old flow itself was clean before.
//!
//! `flow-throttled` is the same with another kind of loss: what a meter drops comes in nearly equal numbers, and what chance
//! takes does not.

use std::fmt::Write as _;

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Evidence, Parameters, Side};
use probe_protocol::wire::hello::Carrier;

use crate::causes::lives::{born, rounded};
use crate::causes::{Case, Claim, thresholds};
use crate::evidence::{FlowEvidence, Traffic};
use crate::stats::hypothesis::fisher_at_least;
use crate::stats::timeline::Counts;

/// Share of the age at which the first flow decayed, up to which another one is fresh.
const YOUNG: f64 = 0.8;

/// An old flow that loses from some moment on.
struct Decay<'c> {
    flow: &'c FlowEvidence,
    onset_s: f64,
    age_s: f64,
    before: Counts,
    after: Counts,
    /// IP bits per second that got through after the onset, where a meter drops the rest.
    metered_bps: Option<f64>,
    p: f64,
}

/// Fewest blocks of a timeline that tell a meter from chance.
const METERED_BLOCKS: usize = 30;
/// Variance of the losses of single blocks over that of chance, up to which a meter drops: with so few blocks chance comes
/// below it once in ten thousand times (chi-square of 29 degrees of freedom).
const METERED: f64 = 0.3;

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    let decays: Vec<Decay<'_>> = case
        .flows
        .iter()
        .filter(|(flow, _)| flow.plan.carrier == Carrier::Udp && flow.opened.is_some())
        .filter_map(|(flow, traffic)| decay(case, flow, traffic))
        .collect();
    let Some(first) = decays.iter().min_by(|a, b| a.onset_s.total_cmp(&b.onset_s)) else { return Vec::new() };
    // Fresh ports that were born after the onset, those that follow an old flow among them; what they lost while they
    // were younger than any that decayed.
    let youngest = decays.iter().map(|d| d.age_s).fold(f64::MAX, f64::min);
    let fresh: Vec<Counts> = case
        .flows
        .iter()
        .filter(|(flow, _)| {
            flow.plan.carrier == Carrier::Udp
                && flow.opened.as_ref().is_some_and(|o| case.evidence.seconds(o.at) > first.onset_s)
        })
        .map(|(flow, traffic)| while_young(case, flow, traffic, YOUNG * youngest))
        .filter(|counts| counts.sent >= 10)
        .collect();
    let mut beside = Counts::default();
    fresh.iter().for_each(|counts| beside.add(counts));
    let clean = fresh
        .iter()
        .filter(|counts| counts.received as f64 >= thresholds::FRESH_SHARE * counts.sent as f64)
        .count();
    let mut after = Counts::default();
    decays.iter().for_each(|d| after.add(&d.after));
    let p = fisher_at_least(after.lost(), after.sent, beside.lost(), beside.sent);
    let enough = clean >= thresholds::FRESH_PORTS && clean * 20 >= fresh.len() * 19;
    // Where many fresh ports lose too, it is no state of the old ones.
    if beside.sent == 0 || p > thresholds::DEATH_CHANCE || clean * 5 < fresh.len() * 4 {
        return Vec::new();
    }
    let mut ages: Vec<f64> = decays.iter().map(|d| d.age_s).collect();
    ages.sort_by(f64::total_cmp);
    let age = ages[ages.len() / 2];
    let ratio = after.lost() as f64 / after.sent.max(1) as f64;
    let before = decays.iter().fold(Counts::default(), |mut sum, d| {
        sum.add(&d.before);
        sum
    });
    let says = format!(
        "{} old flow{} lost {:.1} % from an age of {age:.0} s on ({:.1} % before), while {clean} of {} fresh source ports \
         opened after that were clean ({:.1} % lost)",
        decays.len(),
        if decays.len() == 1 { "" } else { "s" },
        100.0 * ratio,
        100.0 * before.lost() as f64 / before.sent.max(1) as f64,
        fresh.len(),
        100.0 * beside.lost() as f64 / beside.sent.max(1) as f64
    );
    let up = after.lost_up * 10 >= after.lost() * 9;
    let down = after.lost_down * 10 >= after.lost() * 9;
    let direction = if up {
        Direction::Up
    } else if down {
        Direction::Down
    } else {
        Direction::Both
    };
    let least = decays.iter().map(|d| d.p).fold(1.0, f64::min);
    if decays.iter().filter(|d| d.metered_bps.is_some()).count() * 2 > decays.len() {
        return throttled(&decays, says, direction, if enough { 1.0 - p.max(least) } else { 0.9 });
    }
    vec![
        Claim::new(Cause::StaleFlowState, Side::Path)
            .direction(direction)
            .probability(if enough { 1.0 - p.max(least) } else { 0.9 })
            .parameters(Parameters {
                age_s: Some(rounded(age, 1)),
                loss_ratio: Some(rounded(ratio, 4)),
                number: Some(decays.len() as u64),
                ..Parameters::default()
            })
            .because(Evidence {
                flows: decays.iter().map(|d| d.flow.plan.name.clone()).collect(),
                from_s: Some(rounded(first.onset_s, 1)),
                to_s: case.evidence.last.map(|last| rounded(case.evidence.seconds(last), 1)),
                says,
                test: Some("Fisher's exact test, old flows against fresh ports at the same time".to_owned()),
                p: Some(p.max(1e-12)),
            })
            .explaining(decays.iter().map(|d| d.flow.plan.flow))
            .rather_than(
                Cause::BadPathMember,
                "the old flows were clean on the same ports before, and no fresh port loses",
            )
            .or([], "more fresh ports beside the old flows"),
    ]
}

/// Flows that a meter slows once they are old.
fn throttled(decays: &[Decay<'_>], mut says: String, direction: Direction, probability: f64) -> Vec<Claim> {
    let rates: Vec<f64> = decays.iter().filter_map(|d| d.metered_bps).collect();
    let rate = rates.iter().sum::<f64>() / rates.len().max(1) as f64;
    let packets: Vec<u64> = decays.iter().map(|d| d.before.sent).collect();
    let _ = write!(
        says,
        "; since then {:.3} Mbit/s of each gets through, and the rest is dropped evenly",
        rate / 1e6
    );
    let age = decays.iter().map(|d| d.age_s).fold(f64::MAX, f64::min);
    vec![
        Claim::new(Cause::FlowThrottled, Side::Path)
            .direction(direction)
            .probability(probability)
            .parameters(Parameters {
                rate_bps: Some(rate.round() as u64),
                packets: packets.iter().min().copied(),
                age_s: Some(rounded(age, 1)),
                number: Some(decays.len() as u64),
                ..Parameters::default()
            })
            .because(Evidence {
                flows: decays.iter().map(|d| d.flow.plan.name.clone()).collect(),
                from_s: decays.iter().map(|d| rounded(d.onset_s, 1)).reduce(f64::min),
                says,
                ..Evidence::default()
            })
            .explaining(decays.iter().map(|d| d.flow.plan.flow))
            .rather_than(
                Cause::StaleFlowState,
                "what is lost comes in nearly equal numbers, as a meter drops it, and not as chance does",
            )
            .or([Cause::StaleFlowState], "more fresh ports beside the old flows"),
    ]
}

/// What a flow sent and lost until an age.
fn while_young(case: &Case<'_>, flow: &FlowEvidence, traffic: &Traffic, age_s: f64) -> Counts {
    let until = case.evidence.seconds(born(flow)) + age_s;
    let length = traffic.timeline.block_length();
    let mut sum = Counts::default();
    let is_told =
        |at: f64| at + length.as_secs_f64() <= until && !case.was_silent(at, at + length.as_secs_f64());
    traffic
        .timeline
        .blocks()
        .filter(|(at, _)| is_told(case.evidence.seconds(*at)))
        .for_each(|(_, counts)| sum.add(&counts));
    sum
}

/// The moment from which a flow loses most clearly more than before.
fn decay<'c>(case: &Case<'_>, flow: &'c FlowEvidence, traffic: &Traffic) -> Option<Decay<'c>> {
    // What took all flows at once is no state of one.
    let length = traffic.timeline.block_length().as_secs_f64();
    let common = common_silences(case);
    let is_common = |at: f64| common.iter().any(|(from, to)| at < *to && at + length > *from);
    let blocks: Vec<(f64, Counts)> = traffic
        .timeline
        .blocks()
        .map(|(at, counts)| (case.evidence.seconds(at), counts))
        .filter(|(at, counts)| counts.sent > 0 && !is_common(*at) && !case.was_silent(*at, at + length))
        .collect();
    // A flow that died is no decaying one.
    if traffic.life.trailing >= thresholds::DEATH_PACKETS
        || blocks.len() < 20
        || blocks.iter().map(|(_, c)| c.lost()).sum::<u64>() < 20
    {
        return None;
    }
    let mut whole = Counts::default();
    blocks.iter().for_each(|(_, counts)| whole.add(counts));
    let mut before = Counts::default();
    let mut best: Option<(f64, usize, Counts)> = None;
    for (n, (_, counts)) in blocks.iter().enumerate() {
        if n >= 5 && n + 5 <= blocks.len() {
            let score = likelihood_gain(&before, &whole);
            if best.as_ref().is_none_or(|(most, ..)| score > *most) {
                best = Some((score, n, before));
            }
        }
        before.add(counts);
    }
    let (_, n, before) = best?;
    let mut after = whole;
    after.sent -= before.sent;
    after.received -= before.received;
    after.lost_up -= before.lost_up;
    after.lost_down -= before.lost_down;
    after.lost_unknown -= before.lost_unknown;
    // Each block is one look at most: packets within one are not independent.
    let lossy = |blocks: &[(f64, Counts)]| blocks.iter().filter(|(_, c)| c.lost() > 0).count() as u64;
    let (early, late) = blocks.split_at(n);
    let p = fisher_at_least(lossy(late), late.len() as u64, lossy(early), early.len() as u64)
        * blocks.len() as f64;
    let ratio = |c: &Counts| c.lost() as f64 / c.sent.max(1) as f64;
    let onset_s = late.first()?.0;
    let clear = ratio(&after) > 0.05 && ratio(&after) > 5.0 * ratio(&before) + 0.01;
    (p < thresholds::DEATH_CHANCE.sqrt() && clear).then(|| Decay {
        metered_bps: metered(flow, late, length),
        flow,
        onset_s,
        age_s: onset_s - case.evidence.seconds(born(flow)),
        before,
        after,
        p: p.max(1e-12),
    })
}

/// What gets through a meter that drops the rest, IP bits per second; none where the losses of these blocks vary as chance
/// has it.
fn metered(flow: &FlowEvidence, blocks: &[(f64, Counts)], length: f64) -> Option<f64> {
    // The first and the last hold what was before, or are cut short.
    let whole = blocks.get(1..blocks.len().saturating_sub(1)).filter(|b| b.len() >= METERED_BLOCKS)?;
    let mut sum = Counts::default();
    whole.iter().for_each(|(_, counts)| sum.add(counts));
    let share = sum.lost() as f64 / sum.sent.max(1) as f64;
    let chance: f64 = whole.iter().map(|(_, c)| c.sent as f64 * share * (1.0 - share)).sum();
    let seen: f64 = whole.iter().map(|(_, c)| (c.lost() as f64 - c.sent as f64 * share).powi(2)).sum();
    let header = if flow.plan.to.is_ipv6() { 48.0 } else { 28.0 };
    let bits = (f64::from(flow.plan.size) + header) * 8.0;
    (chance > 0.0 && seen <= METERED * chance)
        .then(|| sum.received as f64 * bits / (whole.len() as f64 * length))
}

/// When nothing was answered over any flow of datagrams, when a host did something, and when the listener was away: seconds
/// of the run.
fn common_silences(case: &Case<'_>) -> Vec<(f64, f64)> {
    /// Bins of the run's pulse in a row: so many are no chance where a hundred probes a second are answered.
    const BINS: usize = 10;
    let evidence = case.evidence;
    let spare = evidence.datagrams.length().as_secs_f64();
    let mut silences: Vec<(f64, f64)> =
        evidence.datagrams.blackouts(BINS).iter().map(|s| (s.from_s - spare, s.to_s + spare)).collect();
    silences.extend(evidence.host.iter().map(|e| (evidence.seconds(e.from), evidence.seconds(e.to))));
    // A flow of before is known to the new listener only when it has opened again.
    const OPENS_AGAIN_WITHIN: f64 = 10.0;
    silences.extend(evidence.restarts.iter().map(|restart| {
        (evidence.seconds(restart.last_seen) - spare, evidence.seconds(restart.at) + OPENS_AGAIN_WITHIN)
    }));
    silences
}

/// How much likelier two rates are than one (log of the ratio).
fn likelihood_gain(before: &Counts, whole: &Counts) -> f64 {
    let entropy = |lost: u64, sent: u64| {
        if sent == 0 || lost == 0 || lost == sent {
            return 0.0;
        }
        let rate = lost as f64 / sent as f64;
        sent as f64 * (rate * rate.ln() + (1.0 - rate) * (1.0 - rate).ln())
    };
    entropy(before.lost(), before.sent) + entropy(whole.lost() - before.lost(), whole.sent - before.sent)
        - entropy(whole.lost(), whole.sent)
}
