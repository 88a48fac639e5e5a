//! Findings of limits: policers, shapers, packet rates, and a queue of the trace's own.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Evidence, Parameters, Rival};

use super::findings::{Draft, Names, bits, mbit, percent, round};
use super::segment::{Class, Limited, SAME_LIMIT, Verdict};
use super::{Transport, Way};
use crate::causes::thresholds::{BENIGN_LOSS, FALSE_ALARM};
use crate::rate::bucket;
use crate::rate::judge::Limit;
use crate::stats::hypothesis::binomial_at_least;

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

pub(super) fn limits(direction: Option<Direction>, way: &Way, names: Names<'_>) -> Vec<Draft> {
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
    // A queue of a rate does not vanish: a bucket of the same rate in another part is its burst.
    let queues: Vec<Option<u64>> = drafts
        .iter()
        .filter(|(_, d)| d.parameters.kind.as_deref() == Some("shaper") || d.cause == Cause::UdpShaper)
        .map(|(_, d)| d.parameters.rate_bps)
        .collect();
    let is_same = |a: u64, b: u64| (a as f64 / b.max(1) as f64 - 1.0).abs() < SAME_LIMIT;
    drafts.retain(|(_, d)| {
        let is_bucket = d.parameters.kind.as_deref() == Some("policer") || d.cause == Cause::UdpPolicer;
        let twin = d.parameters.rate_bps.is_some_and(|r| queues.iter().flatten().any(|q| is_same(r, *q)));
        !(is_bucket && twin)
    });
    // And what was told in one part needs no second word for the parts that show less of it.
    let told: Vec<u64> = drafts
        .iter()
        .filter(|(_, d)| d.cause != Cause::Unexplained)
        .filter_map(|(_, d)| d.parameters.rate_bps)
        .collect();
    drafts.retain(|(_, d)| {
        let is_told = d.parameters.rate_bps.is_some_and(|r| told.iter().any(|t| is_same(r, *t)));
        !(d.cause == Cause::Unexplained && is_told)
    });
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
    // The part that tells most, of those in which it was told.
    let tells = |l: &Limited| (!l.goes_on, weight(l));
    let best = group
        .parts
        .iter()
        .max_by(|a, b| tells(a.1).0.cmp(&tells(b.1).0).then(tells(a.1).1.total_cmp(&tells(b.1).1)))?;
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
    // The burst is known where the series begins with a bucket that was idle: in the middle of a load none is full.
    let knows = |v: &Verdict, fit: &bucket::Fit| fit.is_depth_known && v.is_first;
    let burst = group
        .parts
        .iter()
        .map(|(v, l)| match &l.limit {
            Limit::Policer { burst, fit, .. }
            | Limit::Shallow { burst, fit, .. }
            | Limit::Packets { burst, fit, .. } => (knows(v, fit), *burst),
            Limit::Shaper { burst, .. } => (true, *burst),
        })
        .max_by(|a, b| a.0.cmp(&b.0).then(a.1.value.total_cmp(&b.1.value)))?
        .1;
    let is_burst_known = group.parts.iter().any(|(v, l)| match &l.limit {
        Limit::Policer { fit, .. } | Limit::Packets { fit, .. } | Limit::Shallow { fit, .. } => knows(v, fit),
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

pub(super) fn bufferbloat(direction: Option<Direction>, way: &Way) -> Option<Draft> {
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
