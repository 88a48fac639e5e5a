//! `udp-policer`, `udp-shaper`, `rate-limit`, `udp-flood-protection` and `bufferbloat`, from a staircase of rates.
//!
//! What limits is told by [`measure`]: a bucket or a queue that explains which packets were lost or late, and steps above
//! it that got the same through. Small packets at more of its packets a second and less of its bits tell which of the two
//! it counts. TCP far above it tells whom it is for.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Evidence, Parameters, Side};
use probe_protocol::wire::hello::Carrier;

use super::measure::{self, Kind, Measured};
use super::series::{self, Stream, Stretch};
use super::{deprioritized, hold, steps, throttled};
use crate::causes::thresholds::{BENIGN_LOSS, CERTAIN, FALSE_ALARM};
use crate::causes::{Case, Claim};
use crate::observation::{HostFault, LoadExperiment};
use crate::stats::hypothesis::{binomial_at_least, fisher_at_least};

/// TCP must beat a limit by so much not to be bound by it.
const BEATS: f64 = 1.2;
/// And by so much where what exceeds the limit is dropped at once, and TCP got all that it asked for: no scheduler does
/// that.
const PASSES: (f64, f64) = (1.07, 0.97);
/// Up to this ratio TCP meets the same limit.
const MEETS: f64 = 1.1;
/// TCP that gets less than this share of it is held down by something else, as far as we know.
const HELD_DOWN: f64 = 0.3;
/// TCP that loses as well may be slowed to this share of a limit by a small bucket: it is cut to nothing again and again, and
/// waits for its timer.
const SLOWED: f64 = 0.02;
/// So many segments that had to be sent again are no chance on a path that loses nothing else.
const SENT_AGAIN: u64 = 12;
/// TCP must have been offered so much more than the limit.
const OFFERED: f64 = 1.25;
/// Added delay from which a full line harms everybody, seconds.
const BLOAT: f64 = 0.1;
/// Small packets at so many of the limit's packets a second, and at most so many of its bits, tell which it counts.
const CROSS: (f64, f64) = (1.2, 0.9);
/// Packets a second that get through, whatever their size, over those of the limit.
const HOLDS: (f64, f64) = (0.75, 1.3);
/// Loss of those from which the limit is of packets, and up to which it is of bytes.
const CROSSED: (f64, f64) = (0.05, 0.01);

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    if case.evidence.loads.is_empty() {
        return Vec::new();
    }
    let told = |direction| {
        let claims = of(case, direction);
        // A line on which UDP leaves last is full at its rate: that this rate is not told for certain is no riddle.
        let is_riddle =
            |claim: &Claim| claim.probability < CERTAIN && claim.cause != Cause::UdpFloodProtection;
        let settled = claims.iter().any(is_riddle) && deprioritized::of(case, direction).is_some();
        claims.into_iter().filter(move |claim| !(settled && is_riddle(claim)))
    };
    [Direction::Up, Direction::Down].into_iter().flat_map(told).collect()
}

fn of(case: &Case<'_>, direction: Direction) -> Vec<Claim> {
    let (fresh, all): (Vec<Stretch>, Vec<Stretch>) =
        series::stretches(case, direction).into_iter().partition(|s| s.experiment == LoadExperiment::Fresh);
    if let Some(found) = hold::of(case, &all) {
        return vec![held(case, direction, &all, &found)];
    }
    let mut sizes: Vec<u16> = all.iter().map(|s| s.size).collect();
    sizes.sort_unstable();
    let (Some(small), Some(large)) = (sizes.first().copied(), sizes.last().copied()) else {
        return Vec::new();
    };
    let of_size = |size| all.iter().filter(move |s| s.size == size).collect::<Vec<&Stretch>>();
    let (few, many) = (of_size(large), of_size(small));
    if let Some(found) = measure::measure(&few) {
        if small < large {
            match crossed(&found, &many) {
                Some(true) => return flood(case, direction, &found, &all),
                Some(false) => {}
                None if found.lost > 0 => return vec![undecided(case, direction, &found)],
                None => {}
            }
        }
        if let Some(claim) = throttled::in_a_check(case, direction, &found, &few, &fresh) {
            return vec![claim];
        }
        return limit(case, direction, &found.with_burst_of(&many));
    }
    // A limit of packets a second that large packets never reach.
    if small < large
        && let Some(found) = measure::measure(&many)
    {
        let passes =
            |s: &&Stretch| s.through(true).is_some_and(|t| t.loss() < CROSSED.1 && t.sent > 1.1 * found.rate);
        if found.kind == Kind::Policer && few.iter().any(passes) {
            return flood(case, direction, &found, &all);
        }
    }
    congested(case, direction, &few).into_iter().collect()
}

/// Whether the limit counts packets; none where nothing tells.
fn crossed(found: &Measured<'_>, small: &[&Stretch]) -> Option<bool> {
    let tells = small
        .iter()
        .filter_map(|s| s.through(true))
        .filter(|t| t.sent_packets >= CROSS.0 * found.packets_per_second && t.sent <= CROSS.1 * found.rate);
    let losses: Vec<f64> = tells.map(|t| t.loss()).collect();
    let most = losses.iter().copied().reduce(f64::max)?;
    if most >= CROSSED.0 {
        Some(true)
    } else if most < CROSSED.1 {
        Some(false)
    } else {
        None
    }
}

fn evidence(case: &Case<'_>, steps: &[&Stretch], says: String) -> Evidence {
    let mut flows: Vec<String> = steps.iter().map(|s| case.evidence.name(s.flow)).collect();
    flows.dedup();
    flows.truncate(8);
    Evidence {
        flows,
        from_s: steps.iter().map(|s| s.from_s).reduce(f64::min),
        to_s: steps.iter().map(|s| s.to_s).reduce(f64::max),
        says,
        ..Evidence::default()
    }
}

fn held(case: &Case<'_>, direction: Direction, all: &[Stretch], found: &hold::Hold) -> Claim {
    let says = format!(
        "above {:.0} packets a second UDP was cut off for a time, {} times, at different rates and sizes",
        found.packets_per_second, found.times
    );
    let steps: Vec<&Stretch> = all.iter().collect();
    let because =
        Evidence { from_s: Some(found.from_s), to_s: Some(found.to_s), ..evidence(case, &steps, says) };
    let parameters = Parameters {
        packets_per_second: Some(found.packets_per_second.round()),
        hold_s: found.hold_s.map(|s| (s * 100.0).round() / 100.0),
        ..Parameters::default()
    };
    Claim::new(Cause::UdpFloodProtection, Side::Path)
        .direction(direction)
        .probability(0.97)
        .parameters(parameters)
        .because(because)
        .rather_than(Cause::UdpPolicer, "packets of other sizes trigger it at the same number a second")
}

fn flood(case: &Case<'_>, direction: Direction, found: &Measured<'_>, all: &[Stretch]) -> Vec<Claim> {
    let beside = series::background(case)[0].1;
    let rate = measure::packets_per_second(all, found).map_or(found.packets_per_second, |fit| fit);
    let sent = found.above.first().and_then(|s| s.through(false)).map_or(1.0, |t| t.sent_packets);
    let rate = rate * (1.0 + beside / sent.max(1.0));
    // As many packets a second of every size, or something counts, and what it counts is not told.
    let holds = |t: &series::Through| {
        let arrived = t.sent_packets * (1.0 - t.loss());
        t.loss() < CROSSED.0 || (HOLDS.0..=HOLDS.1).contains(&(arrived / rate))
    };
    let mut told = all.iter().filter_map(|s| s.through(false)).filter(|t| t.sent_packets > CROSS.0 * rate);
    // And fewer of any size get through.
    let mut fewer = all.iter().filter_map(|s| s.through(true)).filter(|t| t.sent_packets < HOLDS.0 * rate);
    let is_other = fewer.any(|t| t.loss() >= CROSSED.0);
    if rate.is_nan() || rate < 1.0 || is_other || !told.all(|t| holds(&t)) {
        return vec![undecided(case, direction, found)];
    }
    let says = format!(
        "of UDP at different bit rates {rate:.0} packets a second got through, and no more, whatever their size"
    );
    vec![
        Claim::new(Cause::UdpFloodProtection, Side::Path)
            .direction(direction)
            .probability(0.97)
            .parameters(Parameters { packets_per_second: Some(rate.round()), ..Parameters::default() })
            .because(evidence(case, &found.above, says))
            .rather_than(Cause::UdpPolicer, "the same bits in larger packets get through"),
    ]
}

fn undecided(case: &Case<'_>, direction: Direction, found: &Measured<'_>) -> Claim {
    let says = format!("of UDP no more than {:.2} Mbit/s got through", found.rate * 8.0 / 1e6);
    Claim::new(Cause::UdpPolicer, Side::Path)
        .direction(direction)
        .probability(0.5)
        .because(evidence(case, &found.above, says))
        .or(
            [Cause::RateLimit, Cause::UdpFloodProtection],
            "small packets at the same number a second, and TCP at the same rate",
        )
}

/// The client's own socket had no room for what arrived: what is missing was not lost on the path.
fn is_the_receiver_s(case: &Case<'_>, direction: Direction, found: &Measured<'_>) -> bool {
    let overlaps = |from: f64, to: f64| found.above.iter().any(|s| from <= s.to_s + 0.5 && to >= s.from_s);
    let full = case.evidence.host.iter().filter(|e| matches!(e.what, HostFault::ReceiveOverflow(_)));
    direction == Direction::Down
        && full.into_iter().any(|e| overlaps(case.evidence.seconds(e.from), case.evidence.seconds(e.to)))
}

fn limit(case: &Case<'_>, direction: Direction, found: &Measured<'_>) -> Vec<Claim> {
    let near = |size| {
        steps::ceiling(case, direction, Carrier::Udp, size)
            .is_some_and(|c| c < steps::NEAR_CEILING * found.rate * 8.0)
    };
    if found.above.iter().all(|s| near(s.size)) {
        return Vec::new();
    }
    if is_the_receiver_s(case, direction, found) {
        return Vec::new();
    }
    let is_shaper = found.kind == Kind::Shaper;
    let kind = if is_shaper { "shaper" } else { "policer" };
    let offered = found.above.iter().filter_map(|s| s.through(false)).map(|t| t.sent * 8.0 / 1e6);
    let (low, high) = offered.fold((f64::INFINITY, 0.0), |(a, b), x| (f64::min(a, x), f64::max(b, x)));
    let says = format!(
        "of UDP offered at {low:.1} to {high:.1} Mbit/s, {:.2} Mbit/s got through each time; delay {}",
        found.rate * 8.0 / 1e6,
        if is_shaper { format!("rose by {:.0} ms", found.added * 1e3) } else { "stayed flat".to_owned() }
    );
    let because = evidence(case, &found.above, says);
    let parameters = |rate: f64| Parameters {
        rate_bps: Some((rate * 8.0).round() as u64),
        burst_bytes: found.burst.map(|b| b.round() as u64),
        ..Parameters::default()
    };
    let alone = series::streams(case, direction, LoadExperiment::Staircase);
    let least = if is_shaper { OFFERED } else { PASSES.0 };
    let tells = |s: &&Stream| s.offered >= least * found.rate;
    let best = alone.iter().filter(tells).max_by(|a, b| a.sustained.total_cmp(&b.sustained));
    let claim = |cause, probability: f64, parameters| {
        Claim::new(cause, Side::Path)
            .direction(direction)
            .probability(if found.is_sure { probability } else { 0.6 })
            .parameters(parameters)
            .because(because.clone())
            .or([Cause::RateLimit, Cause::Congestion], "TCP at the same rate over the same path")
    };
    let own = if is_shaper { Cause::UdpShaper } else { Cause::UdpPolicer };
    // TCP that was too slow to tell still tells by what it waits for.
    let shares = if is_shaper { deprioritized::one_queue(case, &found.above, found.waited) } else { None };
    let by_queue = |wait: f64| {
        let rate = found.rate;
        let says = format!(
            "small probes over TCP waited {:.0} ms in the same queue while UDP alone filled it",
            wait * 1e3
        );
        let limited =
            claim(Cause::RateLimit, 0.97, Parameters { kind: Some(kind.to_owned()), ..parameters(rate) })
                .because(Evidence { says, ..Evidence::default() })
                .rather_than(own, "TCP waits in the same queue");
        let mut claims = vec![limited];
        claims.extend((found.added >= BLOAT).then(|| bloat(case, direction, found)));
        claims
    };
    let Some(tcp) = best else {
        return match shares.filter(|_| found.is_sure) {
            Some(wait) => by_queue(wait),
            None => vec![claim(own, 0.6, parameters(found.rate))],
        };
    };
    let reached = |more: &str| Evidence {
        flows: vec![case.evidence.name(tcp.flow)],
        from_s: Some(tcp.from_s),
        to_s: Some(tcp.to_s),
        says: format!("TCP on the same path reached {:.2} Mbit/s{more}", tcp.sustained * 8.0 / 1e6),
        ..Evidence::default()
    };
    let passes = tcp.sustained >= PASSES.0 * found.rate && tcp.sustained >= PASSES.1 * tcp.offered;
    if tcp.unheld >= BEATS * found.rate || (passes && !is_shaper && found.lost > 0) {
        return vec![
            claim(own, 0.98, parameters(found.rate))
                .because(reached(""))
                .rather_than(Cause::RateLimit, "TCP is not bound by it"),
        ];
    }
    // What all share, the flows on streams share too.
    let [datagrams, every] = series::background(case);
    let sent = found.above.first().and_then(|s| s.through(false)).map_or(f64::INFINITY, |t| t.sent);
    let rate = found.rate * (1.0 + (every.0 - datagrams.0) / sent);
    let meets = tcp.unheld <= MEETS * rate && tcp.sustained >= HELD_DOWN * rate;
    // It tried to be faster, and something held it: a stream that only starts slowly meets no limit.
    let tried = tcp.peak >= 0.9 * rate;
    // Or TCP takes from the same bucket: UDP that passes alone loses beside it.
    let taken = tcp.unheld <= MEETS * rate && found.is_sure;
    let taken = taken.then(|| takes_from_the_same(case, direction)).flatten();
    let taken = taken.or_else(|| {
        let is_slower = tcp.unheld <= MEETS * rate && tcp.sustained >= SLOWED * rate && found.is_sure;
        is_slower.then(|| loses_too(case, direction, tcp)).flatten()
    });
    let probability = if (meets && tried) || taken.is_some() { 0.97 } else { 0.6 };
    if let Some(wait) = shares.filter(|_| probability < CERTAIN && found.is_sure) {
        return by_queue(wait);
    }
    let mut limited =
        claim(Cause::RateLimit, probability, Parameters { kind: Some(kind.to_owned()), ..parameters(rate) })
            .because(reached(", and no more"))
            .rather_than(own, "TCP meets the same limit");
    if let Some(because) = taken {
        limited = limited.because(because);
    }
    let mut claims = vec![limited];
    if is_shaper && found.added >= BLOAT && meets {
        claims.push(bloat(case, direction, found));
    }
    claims
}

/// TCP loses too once it is fast, alone and beside UDP, on a path that loses nothing at a lower rate. A small bucket slows
/// TCP far below the rate that it enforces, so that its own rate may not tell.
fn loses_too(case: &Case<'_>, direction: Direction, tcp: &Stream) -> Option<Evidence> {
    let view = case.evidence.flows.get(&tcp.flow)?.tcp?;
    let sender = if direction == Direction::Up { view.client } else { view.listener };
    let again = u64::from(sender?.retransmits);
    // Segments that are overtaken are sent again as well.
    let (mut overtaken, mut lost, mut sent) = (0, 0, 0);
    for (_, traffic) in case.steady_udp() {
        overtaken += traffic.reordered;
        lost += traffic.counts.lost();
        sent += traffic.counts.sent;
    }
    let is_quiet = binomial_at_least(lost + overtaken, sent, BENIGN_LOSS) > FALSE_ALARM;
    (is_quiet && again >= SENT_AGAIN).then(|| Evidence {
        flows: vec![case.evidence.name(tcp.flow)],
        says: format!(
            "TCP under load had to send {again} segments again, while at a slow rate {lost} of {sent} packets were lost"
        ),
        ..Evidence::default()
    })
}

/// UDP at a rate that passes alone, which loses beside TCP.
fn takes_from_the_same(case: &Case<'_>, direction: Direction) -> Option<Evidence> {
    let up = direction == Direction::Up;
    let alone = series::stretches(case, direction);
    let (mut lost, mut sent, mut fine) = ((0u64, 0u64), 0.0f64, (0u64, 0u64));
    let mut flows = Vec::new();
    for load in
        case.evidence.loads.steps().iter().filter(|l| {
            l.up == up && l.carrier == Carrier::Udp && l.experiment == LoadExperiment::Interleaved
        })
    {
        lost.0 += load.bins.iter().map(|b| u64::from(b.lost)).sum::<u64>();
        lost.1 += load.bins.iter().map(|b| u64::from(b.packets)).sum::<u64>();
        sent = sent.max(load.offered_bps as f64 / 8.0);
        flows.push(case.evidence.name(load.flow));
    }
    for through in alone.iter().filter_map(|s| s.through(true)).filter(|t| t.loss() < CROSSED.1) {
        fine = (fine.0 + through.lost, fine.1 + through.packets);
    }
    let passes_alone =
        alone.iter().filter_map(|s| s.through(true)).any(|t| t.loss() < CROSSED.1 && t.sent >= 0.9 * sent);
    let p = fisher_at_least(lost.0, lost.1, fine.0, fine.1);
    flows.dedup();
    (passes_alone && p < FALSE_ALARM).then(|| Evidence {
        flows,
        says: format!(
            "beside TCP, UDP lost {} of {} packets at a rate at which it lost {} of {} alone: both take from one bucket",
            lost.0, lost.1, fine.0, fine.1
        ),
        test: Some("Fisher's exact test".to_owned()),
        p: Some(p),
        ..Evidence::default()
    })
}

/// The run's own load raises the delay far: of datagrams, since what a stream waits for in its sender's own buffer is not
/// the path's queue.
fn bloat(case: &Case<'_>, direction: Direction, found: &Measured<'_>) -> Claim {
    let says = format!(
        "load above {:.1} Mbit/s raised the delay by {:.0} ms over that of a quiet line, and TCP shares that queue",
        found.rate * 8.0 / 1e6,
        found.added * 1e3
    );
    Claim::new(Cause::Bufferbloat, Side::Path)
        .direction(direction)
        .probability(0.97)
        .parameters(Parameters {
            added_delay_ms: Some((found.added * 1e4).round() / 10.0),
            ..Parameters::default()
        })
        .because(evidence(case, &found.above, says))
        .rather_than(Cause::Congestion, "it rises with the run's own load, as one queue of one rate explains")
}

/// Others fill the line: delay rises before loss, and what gets through grows with what is offered.
fn congested(case: &Case<'_>, direction: Direction, steps: &[&Stretch]) -> Option<Claim> {
    let found = measure::shared(steps)?;
    let alone = series::streams(case, direction, LoadExperiment::Staircase);
    let suffers = alone.iter().any(|s| s.sustained < 0.9 * s.offered);
    let says = format!(
        "delay rose by {:.0} ms before packets were lost ({:.1} %), and more got through the more was offered: others share \
         the line",
        found.added * 1e3,
        found.loss * 100.0
    );
    suffers.then(|| {
        Claim::new(Cause::Congestion, Side::Path)
            .direction(direction)
            .probability(0.96)
            .because(evidence(case, &found.steps, says))
            .rather_than(Cause::RateLimit, "no rate holds: what gets through grows with what is offered")
    })
}
