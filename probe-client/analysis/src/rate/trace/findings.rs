//! From the judgements of all segments to findings.

use std::collections::BTreeMap;

use probe_protocol::DEFAULT_PORT;
use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Evidence, Finding, Parameters, Rival, Side};

use super::segment::{Class, Limited, Verdict};
use super::silences::{self, Silence};
use super::{Transport, Way};
use crate::causes::thresholds::{BENIGN_LOSS, BENIGN_REORDERING, CERTAIN, FALSE_ALARM, LOSSY_BLOCKS};
use crate::rate::judge::Limit;
use crate::rate::quantile;
use crate::stats::hypothesis::{binomial_at_least, fisher_at_least};
use crate::words;

/// Rates of two parts that differ by less are the same limit.
const SAME_RATE: f64 = 0.08;
/// Share of all packets (of a queue) or of all losses (of a bucket) that a limit must account for.
const PART: f64 = 0.2;
/// Share of all arrivals that must have waited before a line's own rate is worth saying.
const WAITED: f64 = 0.5;
/// And in which share of the time it was busy.
const BUSY: f64 = 0.3;
/// And how long, seconds.
const WAITED_LONG: f64 = 0.003;
/// Added delay from which a queue is too long, seconds: a call becomes hard to hold.
const BLOAT: f64 = 0.1;
/// TCP beside a shaped class must beat it by so much.
const TCP_BEATS: f64 = 1.2;
/// TCP beside a policed class must have offered at least this share of its rate.
const TCP_TRIES: f64 = 0.5;
/// Blocks with loss from which congestion is no accident: each of its loss periods follows on a full queue.
const CONGESTED_BLOCKS: usize = 3;
/// Shortest silence that is an outage, seconds.
const OUTAGE: f64 = 1.0;

type Names<'n> = &'n dyn Fn(u32) -> String;

/// A finding before its words.
struct Draft {
    cause: Cause,
    direction: Option<Direction>,
    probability: f64,
    parameters: Parameters,
    evidence: Vec<Evidence>,
    rival: Option<Rival>,
}

impl Draft {
    fn finding(self) -> Finding {
        let fill =
            words::Fill { parameters: &self.parameters, direction: self.direction, port: DEFAULT_PORT };
        let fix = words::fix(self.cause, &fill);
        Finding {
            cause: self.cause,
            severity: words::severity(self.cause),
            side: Side::Path,
            direction: self.direction,
            probability: (self.probability.min(0.99) * 1000.0).round() / 1000.0,
            parameters: self.parameters,
            evidence: self.evidence,
            rival: self.rival,
            fix,
            commands: Vec::new(),
        }
    }
}

pub(super) fn findings(ways: &BTreeMap<Option<Direction>, Way>, names: Names<'_>) -> Vec<Finding> {
    let mut drafts: Vec<Draft> = Vec::new();
    for (direction, way) in ways {
        let (events, explained) = events(*direction, way);
        drafts.extend(limits(*direction, way, names));
        drafts.extend(bufferbloat(*direction, way));
        drafts.extend(reordering(*direction, way));
        drafts.extend(losses(*direction, way, explained));
        drafts.extend(events);
    }
    one_way(ways, &mut drafts);
    let mut findings: Vec<Finding> = drafts.into_iter().map(Draft::finding).collect();
    findings.sort_by_key(|f| std::cmp::Reverse(f.severity));
    findings
}

fn bits(rate: f64) -> u64 {
    (rate * 8.0).round() as u64
}

/// Parts with one limit.
struct Group<'v> {
    parts: Vec<(&'v Verdict, &'v Limited)>,
    rate: f64,
    shape: Shape,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Policer,
    Shaper,
    Packets,
    Shallow,
}

fn shape_of(limit: &Limit) -> (Shape, f64) {
    match limit {
        Limit::Policer { rate, .. } => (Shape::Policer, rate.value),
        Limit::Shaper { rate, .. } => (Shape::Shaper, rate.value),
        Limit::Packets { rate, .. } => (Shape::Packets, rate.value),
        Limit::Shallow { rate, .. } => (Shape::Shallow, rate.value),
    }
}

fn groups(way: &Way) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for verdict in &way.verdicts {
        let Some(limited) = &verdict.limited else { continue };
        let (shape, rate) = shape_of(&limited.limit);
        let same = |g: &&mut Group<'_>| g.shape == shape && (g.rate / rate - 1.0).abs() < SAME_RATE;
        match groups.iter_mut().find(same) {
            Some(group) => group.parts.push((verdict, limited)),
            None => groups.push(Group { parts: vec![(verdict, limited)], rate, shape }),
        }
    }
    groups
}

/// How much a part tells of its limit.
fn weight(limited: &Limited) -> f64 {
    match &limited.limit {
        Limit::Policer { fit, .. } | Limit::Packets { fit, .. } | Limit::Shallow { fit, .. } => {
            fit.drops as f64
        }
        Limit::Shaper { .. } => limited.judgement.sent as f64,
    }
}

fn limits(direction: Option<Direction>, way: &Way, names: Names<'_>) -> Vec<Draft> {
    let mut drafts: Vec<(f64, Draft)> = Vec::new();
    for group in groups(way) {
        if let Some(draft) = limit(direction, &group, names) {
            let weight: f64 = group.parts.iter().map(|p| weight(p.1)).sum();
            let all = if group.shape == Shape::Shaper { way.sent } else { way.lost } as f64;
            // What holds in a small part alone may be an accident of one of many parts.
            if weight < PART * all && draft.cause != Cause::Unexplained {
                continue;
            }
            drafts.push((weight, draft));
        }
    }
    drafts.sort_by(|a, b| b.0.total_cmp(&a.0));
    // One finding a cause and kind: the limit that bound most, the others as further evidence.
    let mut out: Vec<Draft> = Vec::new();
    for (_, draft) in drafts {
        let same = |d: &&mut Draft| d.cause == draft.cause && d.parameters.kind == draft.parameters.kind;
        match out.iter_mut().find(same) {
            Some(first) => first.evidence.extend(draft.evidence),
            None => out.push(draft),
        }
    }
    out
}

fn limit(direction: Option<Direction>, group: &Group<'_>, names: Names<'_>) -> Option<Draft> {
    let best = group.parts.iter().max_by(|a, b| weight(a.1).total_cmp(&weight(b.1)))?;
    let (from, to) = group
        .parts
        .iter()
        .fold((f64::INFINITY, 0.0), |(a, b), (_, l)| (f64::min(a, l.active.0), f64::max(b, l.active.1)));
    let flows: Vec<String> = best.1.flows.iter().map(|f| names(*f)).collect();
    let evidence = |says: String| Evidence {
        flows: flows.clone(),
        from_s: Some(round(from)),
        to_s: Some(round(to)),
        says,
        test: None,
        p: None,
    };
    // The burst is what the part that saw most of it says: a part that begins in the middle of a load sees less.
    let burst = group
        .parts
        .iter()
        .map(|(_, l)| match &l.limit {
            Limit::Policer { burst, fit, .. }
            | Limit::Shallow { burst, fit, .. }
            | Limit::Packets { burst, fit, .. } => (fit.is_depth_known, *burst),
            Limit::Shaper { burst, .. } => (true, *burst),
        })
        .max_by(|a, b| a.0.cmp(&b.0).then(a.1.value.total_cmp(&b.1.value)))?
        .1;
    let is_burst_known = group.parts.iter().any(|(_, l)| match &l.limit {
        Limit::Policer { fit, .. } | Limit::Packets { fit, .. } | Limit::Shallow { fit, .. } => {
            fit.is_depth_known
        }
        Limit::Shaper { .. } => true,
    });
    let parameters = |rate: f64| Parameters {
        rate_bps: Some(bits(rate)),
        burst_bytes: is_burst_known.then(|| burst.value.round() as u64),
        ..Parameters::default()
    };
    match &best.1.limit {
        Limit::Policer { rate, fit, coupling, .. } => {
            let says = format!(
                "a bucket of {:.0} bytes (between {:.0} and {:.0}) that fills at {} (between {} and {}) explains {} of \
                 which packets are lost: {} of {} losses happened when it was empty",
                burst.value,
                burst.low,
                burst.high,
                mbit(rate.value),
                mbit(rate.low),
                mbit(rate.high),
                percent(fit.explained),
                (fit.drops_at_level * fit.drops as f64).round(),
                fit.drops
            );
            let delay = coupling.map(|c| {
                evidence(format!(
                    "delay does not follow the load: where a queue would add 1 ms, {:.2} ms were added",
                    c.slope.max(0.0)
                ))
            });
            let mut list = vec![evidence(says)];
            list.extend(delay);
            let tcp_spared = spared(best.1, rate.value, false);
            list.extend(tcp_spared.clone());
            let rival = Rival {
                cause: Cause::Congestion,
                rejected_because:
                    "packets are dropped at one level of one bucket, and delay does not rise before that"
                        .to_owned(),
            };
            let cause = if tcp_spared.is_some() { Cause::UdpPolicer } else { Cause::RateLimit };
            let kind = (cause == Cause::RateLimit).then(|| "policer".to_owned());
            Some(Draft {
                cause,
                direction,
                probability: 0.98,
                parameters: Parameters { kind, ..parameters(rate.value) },
                evidence: list,
                rival: Some(rival),
            })
        }
        Limit::Shaper { rate, fit, .. } => {
            let is_worth = (fit.waited >= WAITED && fit.busy >= BUSY && fit.p95 >= WAITED_LONG)
                || (fit.drops_at_limit >= 0.5 && best.1.judgement.lost >= 5);
            if !is_worth {
                return None;
            }
            let says = format!(
                "a queue that is served at {} (between {} and {}) after a burst of {:.0} bytes explains {} of the \
                 differences of delay; {} of the packets waited, up to {:.0} ms{}",
                mbit(rate.value),
                mbit(rate.low),
                mbit(rate.high),
                burst.value,
                percent(fit.explained),
                percent(fit.waited),
                fit.p95 * 1e3,
                fit.limit.map_or_else(String::new, |l| format!(
                    ", and {l:.0} bytes waited when packets were lost"
                ))
            );
            let mut list = vec![evidence(says)];
            let tcp_spared = spared(best.1, rate.value, true);
            list.extend(tcp_spared.clone());
            let rival = Rival {
                cause: Cause::Congestion,
                rejected_because:
                    "the rate at which packets left did not vary, as it would with others in the queue"
                        .to_owned(),
            };
            let cause = if tcp_spared.is_some() { Cause::UdpShaper } else { Cause::RateLimit };
            let kind = (cause == Cause::RateLimit).then(|| "shaper".to_owned());
            Some(Draft {
                cause,
                direction,
                probability: 0.97,
                parameters: Parameters { kind, ..parameters(rate.value) },
                evidence: list,
                rival: Some(rival),
            })
        }
        Limit::Packets { rate, fit, .. } => {
            let says = format!(
                "a limit of {:.0} packets a second (between {:.0} and {:.0}), {:.0} at once, explains {} of which \
                 packets are lost, whatever their length",
                rate.value,
                rate.low,
                rate.high,
                burst.value,
                percent(fit.explained)
            );
            let is_udp = best.1.transport != Some(Transport::Tcp);
            Some(Draft {
                cause: if is_udp { Cause::UdpFloodProtection } else { Cause::RateLimit },
                direction,
                probability: 0.97,
                parameters: Parameters {
                    packets_per_second: Some((rate.value * 10.0).round() / 10.0),
                    number: Some(burst.value.round() as u64),
                    kind: (!is_udp).then(|| "policer".to_owned()),
                    ..Parameters::default()
                },
                evidence: vec![evidence(says)],
                rival: Some(Rival {
                    cause: Cause::RateLimit,
                    rejected_because: "bytes explain the losses less well than packets do".to_owned(),
                }),
            })
        }
        Limit::Shallow { rate, .. } => {
            let lost = best.1.judgement.lost as u64;
            let sent = best.1.judgement.sent as u64;
            if binomial_at_least(lost, sent, BENIGN_LOSS) > FALSE_ALARM {
                return None;
            }
            let says = format!(
                "packets above {} are dropped, and the clocks are too coarse to tell a policer from a short queue; \
                 candidates: rate-limit, congestion; what would decide: timestamps within {:.1} ms at both ends",
                mbit(rate.value),
                burst.value / rate.value * 300.0
            );
            Some(Draft {
                cause: Cause::Unexplained,
                direction,
                probability: 0.6,
                parameters: parameters(rate.value),
                evidence: vec![evidence(says)],
                rival: None,
            })
        }
    }
}

/// Evidence that TCP beside a limited UDP class is not bound by its limit; none without.
fn spared(limited: &Limited, rate: f64, by_delay: bool) -> Option<Evidence> {
    if limited.class == Class::All {
        return None;
    }
    let control = limited.control.as_ref()?;
    let (is_spared, says) = if by_delay {
        let is = control.peak >= TCP_BEATS * rate && control.delay < 0.5 * control.limited_delay;
        let says = format!(
            "TCP beside it reached {} and waited {:.1} ms where UDP waited {:.1} ms",
            mbit(control.peak),
            control.delay * 1e3,
            control.limited_delay * 1e3
        );
        (is, says)
    } else {
        let (sent, lost) = (limited.judgement.sent as f64, limited.judgement.lost as f64);
        let ratio = control.lost as f64 / control.sent.max(1) as f64;
        let is = control.p < FALSE_ALARM && ratio < 0.3 * lost / sent && control.peak >= TCP_TRIES * rate;
        let says = format!(
            "TCP beside it lost {} of {} packets in the same time, at up to {}",
            control.lost,
            control.sent,
            mbit(control.peak)
        );
        (is, says)
    };
    is_spared.then(|| Evidence {
        says,
        test: (!by_delay).then(|| "Fisher's exact test".to_owned()),
        p: (!by_delay).then_some(control.p),
        ..Evidence::default()
    })
}

fn bufferbloat(direction: Option<Direction>, way: &Way) -> Option<Draft> {
    let worst = way
        .verdicts
        .iter()
        .filter_map(|v| {
            let own = v.all.queue.filter(|q| q.explained >= 0.5 && q.waited >= 0.2).map(|q| q.p95);
            own.filter(|p95| *p95 >= BLOAT).map(|p95| (v, p95))
        })
        .max_by(|a, b| a.1.total_cmp(&b.1))?;
    let (verdict, added) = worst;
    Some(Draft {
        cause: Cause::Bufferbloat,
        direction,
        probability: 0.97,
        parameters: Parameters {
            added_delay_ms: Some((added * 1e4).round() / 10.0),
            ..Parameters::default()
        },
        evidence: vec![Evidence {
            from_s: Some(round(verdict.from)),
            to_s: Some(round(verdict.to)),
            says: format!(
                "the trace's own load raised the delay by {:.0} ms; without it nothing waited",
                added * 1e3
            ),
            ..Evidence::default()
        }],
        rival: Some(Rival {
            cause: Cause::Congestion,
            rejected_because: "the trace's own packets explain the queue".to_owned(),
        }),
    })
}

fn reordering(direction: Option<Direction>, way: &Way) -> Option<Draft> {
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
fn events(direction: Option<Direction>, way: &Way) -> (Vec<Draft>, u64) {
    // What a limit explains is no silence.
    let is_limited = |s: &Silence| {
        let covers = |l: &Limited| {
            // A TCP sender that overshoots loses a whole window at once, and waits for a round trip.
            let most = if l.transport != Some(Transport::Udp) && s.lost > 30 { 3.0 * OUTAGE } else { OUTAGE };
            !matches!(l.limit, Limit::Shallow { .. })
                && s.from >= l.active.0
                && s.to <= l.active.1
                && s.to - s.from < most
        };
        way.verdicts.iter().any(|v| v.limited.as_ref().is_some_and(covers))
    };
    let list: Vec<Silence> = way.silences.list().iter().copied().filter(|s| !is_limited(s)).collect();
    let lost = |list: &[Silence]| list.iter().map(|s| s.lost).sum::<u64>();
    if let Some(draft) = flood(direction, &list) {
        return (vec![draft], lost(&list));
    }
    // A queue that overflows falls silent, too, again and again: those are not what recurs by the clock.
    let starts: Vec<f64> = list.iter().map(|s| s.from).collect();
    let queues = way.verdicts.iter().any(|v| v.rest.queue_before_loss || v.all.is_queue_before_loss());
    if let Some(found) = silences::period(&starts).filter(|f| !queues && f.p < 0.01 && f.concentration > 0.93)
    {
        let mut lengths: Vec<f64> = list.iter().map(|s| s.to - s.from).collect();
        let length = quantile(&mut lengths, 0.5).unwrap_or(0.0);
        let draft = Draft {
            cause: Cause::PeriodicDrop,
            direction,
            probability: 1.0 - found.p,
            parameters: Parameters {
                period_s: Some((found.period * 1e3).round() / 1e3),
                length_s: Some((length * 1e3).round() / 1e3),
                ..Parameters::default()
            },
            evidence: vec![Evidence {
                from_s: starts.first().map(|t| round(*t)),
                to_s: starts.last().map(|t| round(*t)),
                says: format!(
                    "{} times everything was lost for about {:.0} ms, each {:.2} s",
                    list.len(),
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
        };
        return (vec![draft], lost(&list));
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
    let is_window = phases(1.0) > 0.98 && passed_spread < 0.05 && passed >= 50.0;
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
fn losses(direction: Option<Direction>, way: &Way, by_events: u64) -> Option<Draft> {
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
    if 2 * flat > total.1 {
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
    let doubt = format!(
        "{lost} of {sent} packets were lost; candidates: {}, {}; what would decide: the same path without other traffic",
        Cause::Congestion.id(),
        Cause::LossyPath.id()
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
fn one_way(ways: &BTreeMap<Option<Direction>, Way>, drafts: &mut Vec<Draft>) {
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

fn round(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}

fn percent(ratio: f64) -> String {
    format!("{:.1} %", ratio * 100.0)
}

fn mbit(rate: f64) -> String {
    format!("{:.3} Mbit/s", rate * 8.0 / 1e6)
}
