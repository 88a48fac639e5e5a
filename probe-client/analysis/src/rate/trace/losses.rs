//! Findings of loss: what recurs, what fell silent, and what neither a limit nor an event accounts for.

use std::collections::BTreeMap;

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Evidence, Parameters, Rival};

use super::Way;
use super::findings::{Draft, percent, round};
use super::segment::{Gaps, Limited, Verdict};
use super::silences::{self, BURST_LOST, Burst, Period, Silence};
use crate::causes::thresholds::{
    BENIGN_LOSS, BENIGN_REORDERING, CERTAIN, FALSE_ALARM, LOSSY_BLOCKS, PERIOD_CHANCE,
};
use crate::rate::judge::Limit;
use crate::rate::quantile;
use crate::stats::hypothesis::{binomial_at_least, fisher_at_least};

/// Blocks with loss from which congestion is no accident: each of its loss periods follows on a full queue.
const CONGESTED_BLOCKS: usize = 3;
/// Share of all packets in parts with a queue of the trace's own, from which what overflows is that queue.
const OWN_QUEUE: f64 = 0.2;
/// A path that loses more than this by chance is rarer than a limit whose form is not recognised.
const MOST_BY_CHANCE: f64 = 0.25;
/// Share of the uncertainty about losses that no bucket explains of losses by chance, bursts of them included.
const BUCKET_LIKE: f64 = 0.6;
/// Concentration of the phases of what recurs by the clock, from 0 to 1.
const RECURS: f64 = 0.93;
/// Packets that get through between two moments of loss that recur.
const BETWEEN: f64 = 20.0;
/// Share of the turns of a period that must show a loss.
const TURNS: f64 = 0.75;
/// By which share the packets vary that a device lets through in each second, since it counts them.
const COUNTED: f64 = 0.002;
/// Share of the time in which a limit on packets drops all.
const LIMITED_SHARE: f64 = 0.1;
/// Shortest silence that is an outage, seconds.
const OUTAGE: f64 = 1.0;

pub(super) fn reordering(direction: Option<Direction>, way: &Way) -> Option<Draft> {
    let (mut reordered, mut arrivals, mut extent) = (0, 0, None);
    for flow in way.reordering.values() {
        reordered += flow.reordered();
        arrivals += flow.arrivals();
        extent = extent.max(flow.extent_max());
    }
    let p = binomial_at_least(reordered, arrivals, BENIGN_REORDERING);
    if p >= FALSE_ALARM {
        return None;
    }
    Some(Draft {
        cause: Cause::Reordering,
        direction,
        probability: 1.0 - p,
        parameters: Parameters {
            packets: Some(reordered),
            number: extent.map(u64::from),
            ..Parameters::default()
        },
        evidence: vec![Evidence {
            says: format!("{reordered} of {arrivals} packets arrived after one that was sent later"),
            test: Some(format!("exact binomial test against {}", percent(BENIGN_REORDERING))),
            p: Some(p),
            ..Evidence::default()
        }],
        rival: None,
    })
}

/// What silences tell: outages, recurrences, floods. Also answers the packets that these account for.
pub(super) fn events(direction: Option<Direction>, way: &Way) -> (Vec<Draft>, u64) {
    // What a limit explains is no silence.
    let limited = |from: f64, last: f64, to: f64| {
        let covers = |l: &Limited| {
            // A sender that overshoots loses a whole window at once, and waits. What it sends after so long a wait finds
            // room in any bucket or queue.
            !matches!(l.limit, Limit::Shallow { .. })
                && from >= l.active.0
                && to <= l.active.1
                && last - from < OUTAGE / 2.0
        };
        way.verdicts.iter().any(|v| v.limited.as_ref().is_some_and(covers))
    };
    let list: Vec<Silence> =
        way.silences.list().iter().copied().filter(|s| !limited(s.from, s.last, s.to)).collect();
    let lost = |list: &[Silence]| list.iter().map(|s| s.lost).sum::<u64>();
    if let Some(draft) = flood(direction, &list) {
        return (vec![draft], lost(&list));
    }
    if let Some(found) = recurring(direction, way, &list, &limited) {
        return found;
    }
    let long: Vec<Silence> =
        list.iter().copied().filter(|s| s.to - s.from >= OUTAGE && s.last - s.from >= OUTAGE / 2.0).collect();
    let goes_on = way.silences.chance_to_go_on(&long).max(0.05);
    let outages: Vec<Silence> = long.into_iter().filter(|s| goes_on.powf(s.lost as f64) < 1e-4).collect();
    let Some(longest) =
        outages.iter().copied().reduce(|a, b| if b.to - b.from > a.to - a.from { b } else { a })
    else {
        return (Vec::new(), 0);
    };
    let each = |s: &Silence| Evidence {
        from_s: Some(round(s.from)),
        to_s: Some(round(s.to)),
        says: format!("all {} packets that were sent in {:.1} s were lost", s.lost, s.to - s.from),
        ..Evidence::default()
    };
    let draft = Draft {
        cause: Cause::Outage,
        direction,
        probability: 0.99,
        parameters: Parameters {
            length_s: Some(round(longest.to - longest.from)),
            number: Some(outages.len() as u64),
            ..Parameters::default()
        },
        evidence: outages.iter().take(8).map(each).collect(),
        rival: None,
    };
    (vec![draft], lost(&outages))
}

/// Whether a limit accounts for what was lost from the first time to the second and ended at the third.
type Excused<'e> = &'e dyn Fn(f64, f64, f64) -> bool;

/// Moments at which everything, or most, was lost, again and again by the clock; with the packets that were lost in them.
fn recurring(
    direction: Option<Direction>,
    way: &Way,
    silences: &[Silence],
    is_limited: Excused<'_>,
) -> Option<(Vec<Draft>, u64)> {
    // A queue that overflows falls silent, too, again and again: those are not what recurs by the clock.
    if way.verdicts.iter().any(|v| v.rest.queue_before_loss || v.all.is_queue_before_loss()) {
        return None;
    }
    // What empties a bucket again and again falls silent by the clock of whoever sends, and not every part tells it.
    let by_bucket: usize = way
        .verdicts
        .iter()
        .filter_map(|v| v.limited.as_ref())
        .filter(|l| matches!(l.limit, Limit::Policer { .. } | Limit::Packets { .. }))
        .map(|l| l.judgement.lost)
        .sum();
    if 2 * by_bucket as u64 > way.lost {
        return None;
    }
    let moments: Vec<Moment> = silences.iter().map(Moment::of).collect();
    let draft = |moments: &[Moment], found: &Period| {
        let lost = moments.iter().map(|m| m.lost).sum();
        Some((vec![periodic(direction, moments, found)], lost))
    };
    let starts = |moments: &[Moment]| moments.iter().map(|m| m.from).collect::<Vec<f64>>();
    if let Some(found) =
        silences::period(&starts(&moments)).filter(|f| f.p < 0.01 && f.concentration > RECURS)
    {
        return draft(&moments, &found);
    }
    let bursts: Vec<&Burst> =
        way.silences.bursts().iter().filter(|b| !is_limited(b.from, b.last, b.to)).collect();
    // Short bursts come by chance, and the more packets they take the more rarely.
    for least in [5, 3, BURST_LOST] {
        let kept: Vec<&Burst> = bursts.iter().copied().filter(|b| b.lost >= least).collect();
        let moments: Vec<Moment> =
            kept.iter().map(|b| Moment { from: b.from, to: b.to, lost: b.lost }).collect();
        let Some(found) = silences::period(&starts(&moments)) else { continue };
        let middle = |of: &dyn Fn(&Burst) -> f64| {
            quantile(&mut kept.iter().map(|b| of(b)).collect::<Vec<f64>>(), 0.5).unwrap_or(f64::INFINITY)
        };
        // A sender that pauses loses the ends or the beginnings of its own bursts by the clock.
        let is_sent_throughout = middle(&|b| b.idle_before.max(b.to - b.last)) < 0.1 * found.period;
        let is_rare =
            middle(&|b| b.passed_before as f64) >= BETWEEN && middle(&|b| b.to - b.from) < 0.5 * found.period;
        let turns = (kept.last()?.from - kept.first()?.from) / found.period + 1.0;
        let is_met = (TURNS..=1.0 / TURNS).contains(&(kept.len() as f64 / turns));
        if found.p < PERIOD_CHANCE && found.concentration > RECURS && is_sent_throughout && is_rare && is_met
        {
            return draft(&moments, &found);
        }
    }
    None
}

/// A moment of loss.
struct Moment {
    from: f64,
    to: f64,
    lost: u64,
}

impl Moment {
    fn of(silence: &Silence) -> Self {
        Self { from: silence.from, to: silence.to, lost: silence.lost }
    }
}

fn periodic(direction: Option<Direction>, moments: &[Moment], found: &Period) -> Draft {
    let mut lengths: Vec<f64> = moments.iter().map(|m| m.to - m.from).collect();
    let length = quantile(&mut lengths, 0.5).unwrap_or(0.0);
    Draft {
        cause: Cause::PeriodicDrop,
        direction,
        probability: 1.0 - found.p,
        parameters: Parameters {
            period_s: Some(round(found.period)),
            length_s: Some(round(length)),
            ..Parameters::default()
        },
        evidence: vec![Evidence {
            from_s: moments.first().map(|m| round(m.from)),
            to_s: moments.last().map(|m| round(m.to)),
            says: format!(
                "{} times packets were lost for about {:.0} ms, each {:.2} s",
                moments.len(),
                length * 1e3,
                found.period
            ),
            test: Some("Rayleigh's test, corrected for the periods tried".to_owned()),
            p: Some(found.p),
            ..Evidence::default()
        }],
        rival: Some(Rival {
            cause: Cause::LossyPath,
            rejected_because: "the losses recur at one period".to_owned(),
        }),
    }
}

/// A limit of packets a second whose breach is answered with silence.
fn flood(direction: Option<Direction>, list: &[Silence]) -> Option<Draft> {
    if list.len() < 4 {
        return None;
    }
    let spread = |values: &mut Vec<f64>| {
        let middle = quantile(values, 0.5).unwrap_or(0.0);
        let low = quantile(values, 0.2).unwrap_or(0.0);
        let high = quantile(values, 0.8).unwrap_or(0.0);
        (middle, (high - low) / middle.max(1e-9))
    };
    // The first silence may follow on a time without load, the last may be cut off by the end.
    let inner = &list[1..list.len() - 1];
    let (passed, passed_spread) = spread(&mut inner.iter().map(|s| s.passed_before as f64).collect());
    let (length, length_spread) = spread(&mut inner.iter().map(|s| s.to - s.from).collect());
    let dead: f64 = inner.iter().map(|s| s.to - s.from).sum();
    let share = dead / (inner.last()?.to - inner.first()?.since).max(1e-9);
    let phases = |edge: f64| {
        let (mut x, mut y) = (0.0, 0.0);
        for s in inner {
            let angle = s.to / edge * std::f64::consts::TAU;
            x += angle.cos() / inner.len() as f64;
            y += angle.sin() / inner.len() as f64;
        }
        f64::hypot(x, y)
    };
    // So many in each second, counted from its edge.
    let rate_before = passed / spread(&mut inner.iter().map(|s| s.from - s.since).collect()).0.max(1e-9);
    // What is lost by the clock leaves about as many packets between, and never just as many; where the sender keeps its
    // intervals so well that it would, only a limit takes so large a share.
    let turn = spread(&mut inner.iter().map(|s| s.to - s.since).collect()).0;
    let is_window = phases(1.0) > 0.98
        && (turn - 1.0).abs() < 0.05
        && passed_spread * passed <= (passed * COUNTED).max(1.0)
        && share >= LIMITED_SHARE
        && passed >= 50.0;
    let whole = length.round().max(1.0);
    let is_hold =
        length_spread < 0.08 && (length / whole - 1.0).abs() < 0.05 && share > 0.25 && rate_before >= 100.0;
    if !is_window && !is_hold {
        return None;
    }
    let (says, packets_per_second, hold) = if is_window && !is_hold {
        (
            format!(
                "in each second {passed:.0} packets pass, and all later ones are lost until the next begins"
            ),
            Some(passed),
            None,
        )
    } else {
        let fitted = line(inner);
        (
            format!(
                "{} times everything was lost for {length:.2} s, after {passed:.0} packets at {rate_before:.0} a second \
                 had passed",
                list.len()
            ),
            fitted,
            Some((length * 100.0).round() / 100.0),
        )
    };
    Some(Draft {
        cause: Cause::UdpFloodProtection,
        direction,
        probability: 0.96,
        parameters: Parameters { packets_per_second, hold_s: hold, ..Parameters::default() },
        evidence: vec![Evidence {
            from_s: list.first().map(|s| round(s.from)),
            to_s: list.last().map(|s| round(s.to)),
            says,
            ..Evidence::default()
        }],
        rival: Some(Rival {
            cause: Cause::PeriodicDrop,
            rejected_because: "the silences follow on a number of packets and end after whole seconds"
                .to_owned(),
        }),
    })
}

/// The rate from the packets that passed before each silence: at another rate of sending, another number passes, by
/// `burst + rate * time`. None where the rates are all alike.
fn line(list: &[Silence]) -> Option<f64> {
    let points: Vec<(f64, f64)> = list.iter().map(|s| (s.from - s.since, s.passed_before as f64)).collect();
    let n = points.len() as f64;
    let (mx, my) = points.iter().fold((0.0, 0.0), |(a, b), (x, y)| (a + x / n, b + y / n));
    let (sxx, sxy) =
        points.iter().fold((0.0, 0.0), |(a, b), (x, y)| (a + (x - mx) * (x - mx), b + (x - mx) * (y - my)));
    let varies = (sxx / n).sqrt() > 0.1 * mx;
    (varies && sxy > 0.0).then(|| (sxy / sxx * 10.0).round() / 10.0)
}

/// Loss that neither a limit nor an event accounts for.
pub(super) fn losses(direction: Option<Direction>, way: &Way, by_events: u64) -> Option<Draft> {
    // A part beside one that a bucket limits may hold the moment at which that began or ended.
    let is_beside = |at: usize| {
        let bucket = |v: Option<&Verdict>| {
            v.and_then(|v| v.limited.as_ref())
                .is_some_and(|l| matches!(l.limit, Limit::Policer { .. } | Limit::Packets { .. }))
        };
        bucket(at.checked_sub(1).and_then(|n| way.verdicts.get(n))) || bucket(way.verdicts.get(at + 1))
    };
    let rest: Vec<&Verdict> = way
        .verdicts
        .iter()
        .enumerate()
        .filter(|(at, v)| v.limited.is_some() || !is_beside(*at))
        .map(|(_, v)| v)
        .collect();
    let total = rest
        .iter()
        .fold((0u64, 0u64, 0usize), |(s, l, b), v| (s + v.rest.sent, l + v.rest.lost, b + v.rest.blocks));
    let (sent, lost, blocks) = (total.0, total.1.saturating_sub(by_events), total.2);
    let p = binomial_at_least(lost, sent, BENIGN_LOSS);
    let queues = rest.iter().any(|v| v.rest.queue_before_loss);
    let fewest = if queues { CONGESTED_BLOCKS } else { LOSSY_BLOCKS };
    if p >= FALSE_ALARM || blocks < fewest {
        return None;
    }
    let of = |pick: &dyn Fn(&Verdict) -> bool| -> u64 {
        rest.iter().filter(|v| pick(v)).map(|v| v.rest.lost).sum()
    };
    let queued = of(&|v| v.rest.queue_before_loss);
    let flat = of(&|v| v.rest.flat);
    let ratio = lost as f64 / sent.max(1) as f64;
    let window = (way.verdicts.first()?.from, way.verdicts.last()?.to);
    let before = way
        .verdicts
        .iter()
        .filter(|v| v.rest.queue_before_loss)
        .filter_map(|v| v.all.before_loss)
        .max_by_key(|b| b.periods);
    let evidence = |says: String, test: Option<String>, p: Option<f64>| Evidence {
        from_s: Some(round(window.0)),
        to_s: Some(round(window.1)),
        says,
        test,
        p,
        ..Evidence::default()
    };
    let loss = evidence(
        format!("{lost} of {sent} packets were lost ({})", percent(ratio)),
        Some(format!("exact binomial test against {}", percent(BENIGN_LOSS))),
        Some(p),
    );
    let parameters = Parameters { loss_ratio: Some((ratio * 1e5).round() / 1e5), ..Parameters::default() };
    // A queue that the trace's own packets explain overflows on their account.
    let shaped = |v: &&Verdict| v.limited.as_ref().is_some_and(|l| matches!(l.limit, Limit::Shaper { .. }));
    let in_shaped: usize = way.verdicts.iter().filter(shaped).map(|v| v.all.sent).sum();
    if 2 * queued > total.1 && in_shaped as f64 >= OWN_QUEUE * way.sent as f64 {
        return None;
    }
    if 2 * queued > total.1 {
        let why = before.map(|b| {
            evidence(
                format!(
                    "packets just before a loss were slower than {} of all others, by {:.1} ms at the median",
                    percent(b.rank),
                    b.median * 1e3
                ),
                Some("sum of ranks".to_owned()),
                Some(b.p_rank.min(b.p_level)),
            )
        });
        let added = before.map(|b| (b.median * 1e4).round() / 10.0);
        return Some(Draft {
            cause: Cause::Congestion,
            direction,
            probability: 0.97,
            parameters: Parameters { added_delay_ms: added, ..parameters },
            evidence: why.into_iter().chain([loss]).collect(),
            rival: Some(Rival {
                cause: Cause::RateLimit,
                rejected_because: "no constant rate explains the losses or the delays".to_owned(),
            }),
        });
    }
    // A bucket that explains so much of chance is none of chance's, though its rate is not known well enough to be one.
    let by_bucket: u64 = rest
        .iter()
        .filter(|v| v.all.bucket.is_some_and(|b| b.explained >= BUCKET_LIKE && b.is_deep()))
        .map(|v| v.rest.lost)
        .sum();
    let is_limit_like = 2 * by_bucket > total.1;
    let even = rest.iter().map(|v| v.rest.gaps).fold(Gaps::default(), Gaps::plus).are_even();
    if 2 * flat > total.1 && !even && !is_limit_like && ratio <= MOST_BY_CHANCE {
        let periods: u64 = way.verdicts.iter().map(|v| v.rest.periods).sum();
        let burst = lost as f64 / periods.max(1) as f64;
        return Some(Draft {
            cause: Cause::LossyPath,
            direction,
            probability: 0.97,
            parameters: Parameters { packets: Some(burst.round() as u64), ..parameters },
            evidence: vec![loss],
            rival: Some(Rival {
                cause: Cause::Congestion,
                rejected_because: "delay does not rise before a loss".to_owned(),
            }),
        });
    }
    let candidates =
        [Cause::Congestion, if even || is_limit_like { Cause::RateLimit } else { Cause::LossyPath }]
            .map(Cause::id);
    let doubt = format!(
        "{lost} of {sent} packets were lost{}; candidates: {}; what would decide: the same path {}",
        if even { ", too evenly for chance" } else { "" },
        candidates.join(", "),
        if even || is_limit_like { "at other rates" } else { "without other traffic" },
    );
    Some(Draft {
        cause: Cause::Unexplained,
        direction,
        probability: CERTAIN / 2.0,
        parameters,
        evidence: vec![evidence(doubt, None, None)],
        rival: None,
    })
}

/// Where the trace holds both directions and one alone loses, that is what is said.
pub(super) fn one_way(ways: &BTreeMap<Option<Direction>, Way>, drafts: &mut Vec<Draft>) {
    let (Some(up), Some(down)) = (ways.get(&Some(Direction::Up)), ways.get(&Some(Direction::Down))) else {
        return;
    };
    let rest =
        |way: &Way| way.verdicts.iter().fold((0u64, 0u64), |(s, l), v| (s + v.rest.sent, l + v.rest.lost));
    let lossy: Vec<Option<Direction>> =
        drafts.iter().filter(|d| d.cause == Cause::LossyPath).map(|d| d.direction).collect();
    if let [Some(one)] = lossy.as_slice() {
        let (worse, better) =
            if *one == Direction::Up { (rest(up), rest(down)) } else { (rest(down), rest(up)) };
        let p = fisher_at_least(worse.1, worse.0, better.1, better.0);
        if better.0 >= 200 && p < FALSE_ALARM {
            for draft in drafts.iter_mut().filter(|d| d.cause == Cause::LossyPath) {
                draft.cause = Cause::OneWayLoss;
                draft.rival = Some(Rival {
                    cause: Cause::LossyPath,
                    rejected_because: format!("the other way lost {} of {}", better.1, better.0),
                });
                draft.evidence.push(Evidence {
                    says: format!("the other way lost {} of {} packets", better.1, better.0),
                    test: Some("Fisher's exact test".to_owned()),
                    p: Some(p),
                    ..Evidence::default()
                });
            }
        }
    } else if lossy.len() == 2 {
        let mut first = true;
        let mut kept: Option<Vec<Evidence>> = None;
        drafts.retain_mut(|d| {
            if d.cause != Cause::LossyPath {
                return true;
            }
            if std::mem::take(&mut first) {
                d.direction = Some(Direction::Both);
                return true;
            }
            kept = Some(std::mem::take(&mut d.evidence));
            false
        });
        if let (Some(more), Some(draft)) = (kept, drafts.iter_mut().find(|d| d.cause == Cause::LossyPath)) {
            draft.evidence.extend(more);
        }
    }
}
