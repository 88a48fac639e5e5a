//! `udp-policer`, `udp-shaper`, `rate-limit`, `udp-flood-protection` and `bufferbloat`, from a staircase of rates.
//!
//! A limit is a plateau: two steps or more that were offered different rates, lost packets, and got the same through.

use probe_protocol::cause::Cause;
use probe_protocol::finding::{Direction, Evidence, Parameters, Side};
use probe_protocol::wire::hello::Carrier;

use super::steps::{self, Step};
use crate::causes::{Case, Claim};
use crate::observation::LoadExperiment;
use crate::rate::quantile;

/// Loss from which a step is above the limit: well above what benign paths lose.
const ABOVE: f64 = 0.03;
/// Plateau: the highest and the lowest of it differ by at most this ratio.
const FLAT: f64 = 1.06;
/// Steps of a plateau must have been offered rates at least this far apart.
const OFFERED: f64 = 1.15;
/// An end's ceiling this near to a plateau is a plateau of the end.
const NEAR_CEILING: f64 = 1.15;
/// TCP must beat a limit by so much not to be bound by it.
const BEATS: f64 = 1.2;
/// Added delay, as time, from which what exceeds a limit is queued, not dropped at once.
const QUEUED: f64 = 0.01;
/// Added delay from which a full line harms everybody.
const BLOAT: f64 = 0.1;

/// A plateau over steps.
struct Plateau<'s> {
    steps: Vec<&'s Step>,
    /// Bits per second, or packets per second.
    rate: f64,
}

/// The lossy steps that got the same through, by `what`.
fn plateau<'s>(steps: &[&'s Step], what: fn(&Step) -> f64) -> Option<Plateau<'s>> {
    let lossy: Vec<&Step> = steps.iter().copied().filter(|s| s.loss >= ABOVE).collect();
    let mut rates: Vec<f64> = lossy.iter().map(|s| what(s)).collect();
    let middle = quantile(&mut rates, 0.5)?;
    let flat: Vec<&Step> =
        lossy.iter().copied().filter(|s| (what(s) / middle).max(middle / what(s)) <= FLAT.sqrt()).collect();
    let offered = flat
        .iter()
        .map(|s| s.sent_bps)
        .fold((f64::INFINITY, 0.0), |(a, b), x| (f64::min(a, x), f64::max(b, x)));
    let enough = flat.len() >= 2 && flat.len() * 3 >= lossy.len() * 2 && offered.1 >= OFFERED * offered.0;
    let mut rates: Vec<f64> = flat.iter().map(|s| what(s)).collect();
    enough.then(|| quantile(&mut rates, 0.5).map(|rate| Plateau { steps: flat, rate })).flatten()
}

/// Added delay of the lossy steps against the quietest moment of the same flows, seconds.
fn added(steps: &[&Step], above: &[&Step]) -> Option<f64> {
    let mut each: Vec<f64> = above
        .iter()
        .filter_map(|s| {
            let least =
                steps.iter().filter(|o| o.flow == s.flow).filter_map(|o| o.least_delay).reduce(f64::min)?;
            Some(s.delay? - least)
        })
        .collect();
    quantile(&mut each, 0.5)
}

pub(in crate::causes) fn detect(case: &Case<'_>) -> Vec<Claim> {
    if case.evidence.loads.is_empty() {
        return Vec::new();
    }
    [Direction::Up, Direction::Down].into_iter().flat_map(|direction| of(case, direction)).collect()
}

fn of(case: &Case<'_>, direction: Direction) -> Vec<Claim> {
    let all = steps::steps(case, direction);
    let stairs: Vec<&Step> = all
        .iter()
        .filter(|s| s.carrier == Carrier::Udp && s.alone && s.experiment == LoadExperiment::Staircase)
        .collect();
    let mut claims: Vec<Claim> = bloat(case, direction, &all).into_iter().collect();
    let sizes: std::collections::BTreeSet<u16> = stairs.iter().map(|s| s.size).collect();
    let by_bits = plateau(&stairs, |s| s.arrived_bps);
    let by_packets = plateau(&stairs, |s| s.arrived_pps);
    let sizes_in =
        |p: &Plateau<'_>| p.steps.iter().map(|s| s.size).collect::<std::collections::BTreeSet<_>>().len();
    // Two sizes tell bytes from packets: the plateau that holds for both is the limit's.
    let packets =
        by_packets.as_ref().filter(|p| sizes_in(p) > 1 && by_bits.as_ref().is_none_or(|b| sizes_in(b) < 2));
    if let Some(found) = packets {
        claims.push(flood(case, direction, found));
        return claims;
    }
    // A limit of packets a second that large packets never reach.
    if sizes.len() > 1
        && let Some(found) = &by_packets
        && let Some(small) = sizes.first()
        && found.steps.iter().all(|s| s.size == *small)
        && stairs.iter().any(|s| {
            s.size > *small && s.loss < 0.01 && s.sent_bps > 1.1 * by_bits.as_ref().map_or(0.0, |b| b.rate)
        })
    {
        claims.push(flood(case, direction, found));
        return claims;
    }
    if let Some(found) = by_bits {
        claims.extend(limit(case, direction, &all, &stairs, &found));
    }
    claims
}

fn flows(case: &Case<'_>, steps: &[&Step]) -> Vec<String> {
    let mut names: Vec<String> = steps.iter().map(|s| case.evidence.name(s.flow)).collect();
    names.dedup();
    names.truncate(8);
    names
}

fn evidence(case: &Case<'_>, steps: &[&Step], says: String) -> Evidence {
    Evidence {
        flows: flows(case, steps),
        from_s: steps.iter().map(|s| s.from_s).reduce(f64::min),
        to_s: steps.iter().map(|s| s.to_s).reduce(f64::max),
        says,
        ..Evidence::default()
    }
}

fn flood(case: &Case<'_>, direction: Direction, found: &Plateau<'_>) -> Claim {
    let says = format!(
        "of UDP at different bit rates {:.0} packets a second got through, and no more, whatever their size",
        found.rate
    );
    Claim::new(Cause::UdpFloodProtection, Side::Path)
        .direction(direction)
        .probability(0.97)
        .parameters(Parameters { packets_per_second: Some(found.rate.round()), ..Parameters::default() })
        .because(evidence(case, &found.steps, says))
        .rather_than(Cause::UdpPolicer, "the same bits in larger packets get through")
}

fn limit(
    case: &Case<'_>,
    direction: Direction,
    all: &[Step],
    stairs: &[&Step],
    found: &Plateau<'_>,
) -> Option<Claim> {
    let near = |carrier, size| {
        steps::ceiling(case, direction, carrier, size).is_some_and(|c| c < NEAR_CEILING * found.rate)
    };
    if found.steps.iter().all(|s| near(Carrier::Udp, s.size)) {
        return None;
    }
    let added = added(stairs, &found.steps).unwrap_or(0.0);
    let is_shaper = added >= QUEUED;
    let mut bursts: Vec<f64> = all
        .iter()
        .filter(|s| s.carrier == Carrier::Udp && s.alone && s.sent_bps > OFFERED * found.rate)
        .filter_map(|s| s.before_loss)
        .map(|(bytes, time)| bytes - found.rate / 8.0 * time)
        .filter(|b| *b > 0.0)
        .collect();
    let burst = (!is_shaper).then(|| quantile(&mut bursts, 0.5)).flatten();
    let says = format!(
        "of UDP offered at {:.1} to {:.1} Mbit/s, {:.2} Mbit/s got through each time; delay {}",
        found.steps.iter().map(|s| s.sent_bps).fold(f64::INFINITY, f64::min) / 1e6,
        found.steps.iter().map(|s| s.sent_bps).fold(0.0, f64::max) / 1e6,
        found.rate / 1e6,
        if is_shaper { format!("rose by {:.0} ms before", added * 1e3) } else { "stayed flat".to_owned() }
    );
    let parameters = Parameters {
        rate_bps: Some(found.rate.round() as u64),
        burst_bytes: burst.map(|b| b.round() as u64),
        ..Parameters::default()
    };
    let kind = if is_shaper { "shaper" } else { "policer" };
    let tcp: Vec<&Step> = all.iter().filter(|s| matches!(s.carrier, Carrier::Tcp | Carrier::Tls)).collect();
    let best = tcp.iter().map(|s| s.arrived_bps).reduce(f64::max);
    let because = evidence(case, &found.steps, says);
    let claim = |cause, probability: f64, parameters| {
        Claim::new(cause, Side::Path)
            .direction(direction)
            .probability(probability)
            .parameters(parameters)
            .because(because.clone())
            .or([Cause::RateLimit, Cause::Congestion], "TCP at the same rate over the same path")
    };
    Some(match best {
        Some(best) if best >= BEATS * found.rate => {
            let cause = if is_shaper { Cause::UdpShaper } else { Cause::UdpPolicer };
            claim(cause, 0.98, parameters)
                .because(evidence(
                    case,
                    &tcp,
                    format!("TCP on the same path reached {:.2} Mbit/s", best / 1e6),
                ))
                .rather_than(Cause::RateLimit, "TCP is not bound by it")
        }
        Some(best) if best >= found.rate / 2.0 => {
            claim(Cause::RateLimit, 0.97, Parameters { kind: Some(kind.to_owned()), ..parameters })
                .because(evidence(
                    case,
                    &tcp,
                    format!("TCP on the same path reached {:.2} Mbit/s, too, and no more", best / 1e6),
                ))
                .rather_than(
                    if is_shaper { Cause::UdpShaper } else { Cause::UdpPolicer },
                    "TCP meets the same rate",
                )
        }
        // TCP that a policer's losses throttle far below it is common; without TCP nothing tells.
        Some(_) | None => {
            claim(Cause::RateLimit, 0.6, Parameters { kind: Some(kind.to_owned()), ..parameters })
        }
    })
}

/// Own load raises the delay far. Of datagrams alone: what a stream waits for in its sender's own buffer, while its
/// window is small, is not the path's queue.
fn bloat(case: &Case<'_>, direction: Direction, all: &[Step]) -> Option<Claim> {
    let (worst, added) = all
        .iter()
        .filter(|s| s.carrier == Carrier::Udp)
        .filter_map(|s| {
            let least =
                all.iter().filter(|o| o.flow == s.flow).filter_map(|o| o.least_delay).reduce(f64::min)?;
            Some((s, s.delay? - least))
        })
        .max_by(|a, b| a.1.total_cmp(&b.1))?;
    (added >= BLOAT).then(|| {
        let says = format!(
            "{:.1} Mbit/s of load raised the delay by {:.0} ms over that of a quiet line",
            worst.arrived_bps / 1e6,
            added * 1e3
        );
        Claim::new(Cause::Bufferbloat, Side::Path)
            .direction(direction)
            .probability(0.97)
            .parameters(Parameters {
                added_delay_ms: Some((added * 1e4).round() / 10.0),
                ..Parameters::default()
            })
            .because(evidence(case, &[worst], says))
            .rather_than(Cause::Congestion, "it rises with the run's own load")
    })
}
