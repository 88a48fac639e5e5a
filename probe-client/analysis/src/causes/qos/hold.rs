//! A flow that is held for a time after it was too fast: flood protection with a penalty.
//!
//! Behind a hold no rate is seen, only how long each step took to trigger it. A bucket of depth `B` that refills at `r`
//! passes `N = B + r T` packets in the time `T` until then: over steps of different rates, `N` against `T` is a line, and
//! its slope the rate.

use super::series::{self, Stretch};
use crate::causes::Case;
use crate::rate::quantile;

/// A hold: everything is lost for so long, seconds, and so many packets.
const HELD: (f64, usize) = (0.1, 15);
/// Loss before it that is chance.
const BEFORE: f64 = 0.01;
/// Steps that were held, and how far apart their rates must be for a line.
const STEPS: usize = 2;
/// The times to the trigger must differ by so many packets' worth: each is known to one packet.
const APART: f64 = 40.0;

/// What is known of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hold {
    /// Packets per second from which on it is held.
    pub(super) packets_per_second: f64,
    /// For how long, seconds; none where no hold was seen to its end.
    pub(super) hold_s: Option<f64>,
    /// Steps that it was seen in.
    pub(super) steps: usize,
    pub(super) from_s: f64,
    pub(super) to_s: f64,
}

struct Trigger {
    size: u16,
    /// Packets that passed before, and the time that took.
    passed: f64,
    time: f64,
    /// Packets per second that were offered.
    offered: f64,
    held: Option<f64>,
}

fn trigger(stretch: &Stretch) -> Option<Trigger> {
    let packets = &stretch.packets;
    let start = packets.first()?.at;
    let mut from = 0;
    while let Some(begin) = packets.iter().skip(from).position(|p| p.is_lost()).map(|n| n + from) {
        let run = packets.iter().skip(begin).take_while(|p| p.is_lost()).count();
        let end = packets.get(begin + run);
        let last = end.or(packets.last())?.at;
        let first = packets.get(begin)?.at;
        if run >= HELD.1 && last - first >= HELD.0 {
            let lost = packets.iter().take(begin).filter(|p| p.is_lost()).count();
            if begin < 5 || lost as f64 > BEFORE * begin as f64 {
                return None;
            }
            return Some(Trigger {
                size: stretch.size,
                passed: begin as f64,
                time: first - start,
                offered: begin as f64 / (first - start).max(1e-6),
                held: end.map(|_| last - first),
            });
        }
        from = begin + run;
    }
    None
}

/// Slope of the line through the points, and the sum of squares that it leaves.
fn line(points: &[(f64, f64)]) -> Option<(f64, f64)> {
    let n = points.len() as f64;
    let (mx, my) = points.iter().fold((0.0, 0.0), |(a, b), (x, y)| (a + x / n, b + y / n));
    let (sxx, sxy) =
        points.iter().fold((0.0, 0.0), |(a, b), (x, y)| (a + (x - mx) * (x - mx), b + (x - mx) * (y - my)));
    if sxx <= 0.0 {
        return None;
    }
    let slope = sxy / sxx;
    let left = points.iter().map(|(x, y)| (y - my - slope * (x - mx)).powi(2)).sum();
    Some((slope, left))
}

/// The hold that the steps show; none where they show none.
pub(super) fn of(case: &Case<'_>, stretches: &[Stretch]) -> Option<Hold> {
    let seen: Vec<(&Stretch, Trigger)> = stretches.iter().filter_map(|s| Some((s, trigger(s)?))).collect();
    if seen.len() < STEPS {
        return None;
    }
    let beside = series::background(case)[0].1;
    let points: Vec<(f64, f64)> = seen.iter().map(|(_, t)| (t.time, t.passed + beside * t.time)).collect();
    let (rate, left) = line(&points)?;
    let span = |of: fn(&Trigger) -> f64| {
        let (low, high) =
            seen.iter().map(|(_, t)| of(t)).fold((f64::INFINITY, 0.0f64), |(a, b), x| (a.min(x), b.max(x)));
        (low, high)
    };
    let (least, most) = span(|t| t.time);
    let (slowest, _) = span(|t| t.offered);
    // What passed without a hold bounds it from below, what was held from above.
    let free = stretches
        .iter()
        .filter(|s| s.packets.iter().all(|p| !p.is_lost()))
        .filter_map(|s| s.through(true))
        .map(|t| t.sent_packets)
        .fold(0.0, f64::max);
    if (most - least) * rate < APART || rate > slowest * 1.02 || rate < 0.0 {
        return None;
    }
    // Packets and bytes are told apart by the sizes: in bytes the points of small ones must leave the line, or large
    // packets of as many bits must have passed.
    let bytes: Vec<(f64, f64)> =
        seen.iter().map(|(s, t)| (t.time, t.passed * s.wire + beside * s.wire * t.time)).collect();
    let sizes_differ = seen.iter().any(|(_, t)| t.size != seen[0].1.size);
    let is_packets = if sizes_differ {
        let (_, left_bytes) = line(&bytes)?;
        let grain = seen.iter().map(|(s, _)| s.wire).fold(0.0, f64::max);
        left.max(1.0) * 4.0 < left_bytes / (grain * grain)
    } else {
        let bits = seen.iter().map(|(s, _)| rate * s.wire).fold(0.0, f64::max);
        stretches.iter().any(|s| {
            s.size > seen[0].1.size && s.through(true).is_some_and(|t| t.lost == 0 && t.sent > 1.1 * bits)
        })
    };
    let is_line = left.sqrt() <= 0.03 * points.iter().map(|p| p.1).fold(0.0, f64::max) + 3.0;
    if !is_packets || !is_line || free > rate * 1.1 + beside {
        return None;
    }
    let mut holds: Vec<f64> = seen.iter().filter_map(|(_, t)| t.held).collect();
    Some(Hold {
        packets_per_second: rate,
        hold_s: quantile(&mut holds, 0.5),
        steps: seen.len(),
        from_s: seen.iter().map(|(s, _)| s.from_s).fold(f64::INFINITY, f64::min),
        to_s: seen.iter().map(|(s, _)| s.to_s).fold(0.0, f64::max),
    })
}
