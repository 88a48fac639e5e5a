//! The queue that explains a pattern of delay: a rate, a burst that passes at once, and where it ends a limit.
//!
//! With rate `r` and burst `B`, the packets that pass fill `q` as in [`super::bucket`]; what exceeds `B` waits, so a packet
//! takes `max(0, q - B) / r` longer than on an idle path. A constant `r` explains the delays of a shaper or of a line of
//! one's own. Traffic of others in the same queue makes the delay wander away from what one's own packets explain.

use super::delay::Delays;
use super::judge::thresholds;
use super::{Estimate, Packet, quantile, slope};

/// Fewest packets that waited, from which a queue is fitted.
pub const MIN_WAITED: usize = 40;

/// A queue and how well it explains a series.
#[derive(Clone, Copy, Debug)]
pub struct Fit {
    /// Bytes per second.
    pub rate: Estimate,
    /// Bytes that pass at once after a pause.
    pub burst: Estimate,
    /// Bytes that wait when packets are dropped; none where too few are.
    pub limit: Option<f64>,
    /// Share of the differences of delay that the queue takes away, 0 to 1.
    pub explained: f64,
    /// What the queue leaves unexplained, over its change from one arrival to the next: below one where it is noise, and
    /// large where a queue that others fill wanders.
    pub wander: f64,
    /// Share of the drops that happen when the queue is about full.
    pub drops_at_limit: f64,
    /// Share of all arrivals that had waited.
    pub waited: f64,
    /// Share of the time in which the queue sent what had waited.
    pub busy: f64,
    /// Excess delay that nineteen of twenty do not reach, seconds.
    pub p95: f64,
}

/// One arrival or loss, prepared.
struct Load<'s> {
    series: &'s [Packet],
    /// Excess delay of each packet; NaN where it was lost.
    excess: Vec<f64>,
    /// What counts as having waited, seconds.
    threshold: f64,
    /// Length of a large packet, bytes.
    grain: f64,
    /// Fill after each packet, bytes.
    fill: Vec<f64>,
}

#[derive(Clone, Copy)]
struct Try {
    rate: f64,
    burst: f64,
    explained: f64,
}

/// Fits a queue. None where too few packets waited, or no rate explains anything.
pub fn fit(series: &[Packet], delays: &Delays) -> Option<Fit> {
    let threshold = (6.0 * delays.noise).max(delays.p95 * 0.2).max(300e-6);
    if delays.p95 < threshold {
        return None;
    }
    let mut lengths: Vec<f64> = series.iter().map(|p| p.bytes).collect();
    let grain = quantile(&mut lengths, 0.95)?;
    let excess = series.iter().map(|p| p.delay.map_or(f64::NAN, |d| delays.base.excess(p.at, d))).collect();
    let mut load = Load { series, excess, threshold, grain, fill: vec![0.0; series.len()] };
    let waited = load.excess.iter().filter(|e| **e > threshold).count();
    let arrived = load.excess.iter().filter(|e| !e.is_nan()).count();
    if waited < MIN_WAITED {
        return None;
    }
    let mut best: Option<Try> = None;
    for rate in load.rates() {
        let found = load.at(rate);
        if best.is_none_or(|b| found.explained > b.explained) {
            best = Some(found);
        }
    }
    let mut best = best.filter(|b| b.explained > 0.2)?;
    let interval = load.polish(&mut best);
    load.at(best.rate);
    let (limit, drops_at_limit) = load.limit(best);
    let mut spread: Vec<f64> = load.bursts(best.rate);
    let low = quantile(&mut spread, 0.25).unwrap_or(best.burst);
    let high = quantile(&mut spread, 0.75).unwrap_or(best.burst);
    Some(Fit {
        rate: Estimate { value: best.rate, low: interval.0, high: interval.1 },
        burst: Estimate { value: best.burst, low: low.max(0.0).min(best.burst), high: high.max(best.burst) },
        limit,
        explained: best.explained,
        wander: load.wander(best),
        drops_at_limit,
        waited: waited as f64 / arrived.max(1) as f64,
        busy: load.busy(best.rate),
        p95: delays.p95,
    })
}

impl Load<'_> {
    fn wander(&self, best: Try) -> f64 {
        let left: Vec<f64> = self
            .excess
            .iter()
            .zip(&self.fill)
            .filter(|(e, _)| !e.is_nan())
            .map(|(excess, fill)| excess - ((fill - best.burst) / best.rate).max(0.0))
            .collect();
        let size = left.iter().map(|l| l.abs()).sum::<f64>() / left.len().max(1) as f64;
        let steps = left.windows(2).map(|w| (w[1] - w[0]).abs()).sum::<f64>() / left.len().max(2) as f64;
        size / steps.max(1e-9)
    }

    fn busy(&self, rate: f64) -> f64 {
        let is_waiting = |(_, e): &(&Packet, &f64)| **e > self.threshold;
        let bytes: f64 = self.series.iter().zip(&self.excess).filter(is_waiting).map(|(p, _)| p.bytes).sum();
        let length = self.series.last().map_or(0.0, |p| p.at) - self.series.first().map_or(0.0, |p| p.at);
        bytes / rate / length.max(1e-9)
    }

    /// Rates that the arrivals held to while packets waited.
    fn rates(&self) -> Vec<f64> {
        let mut arrivals: Vec<(f64, f64, bool)> = self
            .series
            .iter()
            .zip(&self.excess)
            .filter_map(|(p, e)| p.delay.map(|d| (p.at + d, p.bytes, *e > self.threshold)))
            .collect();
        arrivals.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut sum = 0.0;
        let mut points = Vec::with_capacity(arrivals.len());
        for (at, bytes, waited) in arrivals {
            sum += bytes;
            if waited {
                points.push((at, sum));
            }
        }
        slope::candidates(&points, self.grain)
    }

    /// Runs the fill, and judges how well it explains the delays.
    fn at(&mut self, rate: f64) -> Try {
        let start = self.excess.iter().copied().find(|e| !e.is_nan()).filter(|e| *e > self.threshold);
        self.run(rate, start.map_or(0.0, |e| e * rate));
        let burst = quantile(&mut self.bursts(rate), 0.5).unwrap_or(0.0).max(0.0);
        if burst > 0.0
            && let Some(start) = start
        {
            // What waits has used up the burst.
            self.run(rate, start * rate + burst);
        }
        let burst = quantile(&mut self.bursts(rate), 0.5).unwrap_or(0.0).max(0.0);
        let mut seen: Vec<f64> = self.excess.iter().copied().filter(|e| !e.is_nan()).collect();
        let middle = quantile(&mut seen, 0.5).unwrap_or(0.0);
        let (mut left, mut all) = (0.0, 0.0);
        for (excess, fill) in self.excess.iter().zip(&self.fill).filter(|(e, _)| !e.is_nan()) {
            left += (excess - ((fill - burst) / rate).max(0.0)).abs();
            all += (excess - middle).abs();
        }
        Try { rate, burst, explained: if all > 0.0 { 1.0 - left / all } else { 0.0 } }
    }

    fn run(&mut self, rate: f64, start: f64) {
        let (mut q, mut before) = (start, self.series.first().map_or(0.0, |p| p.at));
        for (fill, packet) in self.fill.iter_mut().zip(self.series) {
            q = (q - rate * (packet.at - before).max(0.0)).max(0.0);
            before = before.max(packet.at);
            *fill = q + packet.bytes;
            if packet.delay.is_some() {
                q += packet.bytes;
            }
        }
    }

    /// The burst as each packet that waited tells it.
    fn bursts(&self, rate: f64) -> Vec<f64> {
        self.excess
            .iter()
            .zip(&self.fill)
            .filter(|(e, _)| **e > self.threshold)
            .map(|(e, fill)| fill - rate * e)
            .collect()
    }

    fn polish(&mut self, best: &mut Try) -> (f64, f64) {
        let mut step = 0.01;
        while step > 2e-5 {
            let better = [1.0 + step, 1.0 - step]
                .into_iter()
                .map(|factor| self.at(best.rate * factor))
                .find(|found| found.explained > best.explained + 1e-9);
            match better {
                Some(found) => *best = found,
                None => step /= 3.0,
            }
        }
        let mut edge = |sign: f64| {
            let (mut reach, mut far) = (1e-5, best.rate);
            while reach < 0.3 {
                let found = self.at(best.rate * (1.0 + sign * reach));
                if found.explained < best.explained - 0.03 {
                    return found.rate;
                }
                far = found.rate;
                reach *= 2.0;
            }
            far
        };
        (edge(-1.0), edge(1.0))
    }

    /// Bytes that wait at drops, and the share of drops at which about so many do.
    fn limit(&self, best: Try) -> (Option<f64>, f64) {
        let mut at_drops: Vec<f64> = self
            .series
            .iter()
            .zip(&self.fill)
            .filter(|(p, _)| p.is_lost())
            .map(|(_, fill)| fill - best.burst)
            .collect();
        let n = at_drops.len();
        let Some(middle) = quantile(&mut at_drops, 0.5).filter(|_| n >= 3) else { return (None, 0.0) };
        // Where much more waits at other times and nothing is dropped, it is not the queue that drops.
        let longest =
            quantile(&mut self.excess.iter().copied().filter(|e| !e.is_nan()).collect::<Vec<_>>(), 0.95);
        if longest.is_some_and(|wait| middle < thresholds::NOT_FULL * wait * best.rate) {
            return (Some(middle.max(0.0)), 0.0);
        }
        let near =
            at_drops.iter().filter(|d| (**d - middle).abs() < 0.15 * middle + 2.0 * self.grain).count();
        (Some(middle.max(0.0)), near as f64 / n as f64)
    }
}

/// The series without the waits that the queue explains: what is left is everybody else's.
pub fn without(series: &[Packet], delays: &Delays, fit: &Fit) -> Vec<Packet> {
    let (rate, burst) = (fit.rate.value, fit.burst.value);
    let (mut q, mut before) = (0.0, series.first().map_or(0.0, |p| p.at));
    let first = series.iter().find_map(|p| p.delay.map(|d| delays.base.excess(p.at, d)));
    if let Some(wait) = first.filter(|w| *w > 0.2 * fit.p95) {
        q = wait * rate + burst;
    }
    series
        .iter()
        .map(|packet| {
            q = f64::max(q - rate * (packet.at - before).max(0.0), 0.0);
            before = before.max(packet.at);
            let Some(delay) = packet.delay else { return *packet };
            q += packet.bytes;
            Packet { delay: Some(delay - ((q - burst) / rate).max(0.0)), ..*packet }
        })
        .collect()
}

/// How the delay of what passes goes with the fill of a bucket of the given rate: of a queue it rises by `1 / rate` per
/// byte, of a policer not at all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coupling {
    /// Rise of the delay over the rise that a queue would show: 1 for a queue, 0 for a policer.
    pub slope: f64,
    /// Standard error of that.
    pub error: f64,
    /// Excess delay near the level at which packets are dropped, over that of a queue of that length.
    pub at_level: f64,
}

/// Batches over which the coupling is averaged: each is one sample, whatever the correlation within.
const BATCHES: usize = 24;

/// Measures the coupling. None with too few arrivals, or where the fill never changes.
///
/// Where the bucket was never seen full, the series begins with an empty one.
pub fn coupling(
    series: &[Packet],
    delays: &Delays,
    rate: f64,
    level: f64,
    begins_full: bool,
) -> Option<Coupling> {
    let start = if begins_full { 0.0 } else { 1e3 * level };
    let level = if begins_full { level } else { start };
    let points = fills(series, delays, rate, start);
    let (slope, error) = slope_of(&points, rate)?;
    // Without a moment at which nothing waited, the delay at the level is not known.
    let at_level = if begins_full { risen(&points, level, rate) } else { 1.0 };
    Some(Coupling { slope, error, at_level })
}

/// How much the delay rises from a bucket that is nearly full of tokens to one that is nearly empty, over what a queue of its level
/// would add. What jitters at either is nobody's rise; where hardly any packet met a full bucket, it is counted as one.
fn risen(points: &[(f64, f64)], level: f64, rate: f64) -> f64 {
    let middle = |within: &dyn Fn(f64) -> bool| {
        let (mut fills, mut delays): (Vec<f64>, Vec<f64>) =
            points.iter().filter(|(q, _)| within(*q / level)).copied().unzip();
        let enough = delays.len() >= AT_EITHER;
        quantile(&mut fills, 0.5).zip(quantile(&mut delays, 0.5)).map(|pair| (pair, enough))
    };
    let Some(((near, at_near), _)) = middle(&|q| q > 0.8) else { return 0.0 };
    match middle(&|q| q < 0.3) {
        Some(((low, at_low), true)) if near > low => (at_near - at_low) * rate / (near - low),
        _ => at_near / (level / rate).max(1e-9),
    }
}

/// Packets that must have met a nearly full bucket for their delay to be known.
const AT_EITHER: usize = 20;

/// The fill after each packet that passes, with its excess delay.
fn fills(series: &[Packet], delays: &Delays, rate: f64, start: f64) -> Vec<(f64, f64)> {
    let (mut q, mut before) = (start, series.first().map_or(0.0, |p| p.at));
    let mut points = Vec::with_capacity(series.len());
    for packet in series {
        q = f64::max(q - rate * (packet.at - before).max(0.0), 0.0);
        before = before.max(packet.at);
        if let Some(delay) = packet.delay {
            q += packet.bytes;
            points.push((q, delays.base.excess(packet.at, delay)));
        }
    }
    points
}

/// Rise of the delay over that of the fill in time at the rate, and its standard error.
fn slope_of(points: &[(f64, f64)], rate: f64) -> Option<(f64, f64)> {
    if points.len() < 4 * BATCHES {
        return None;
    }
    let mut slopes: Vec<(f64, f64)> = Vec::with_capacity(BATCHES);
    for batch in points.chunks(points.len().div_ceil(BATCHES)) {
        let n = batch.len() as f64;
        let (mx, my) = batch.iter().fold((0.0, 0.0), |(a, b), (q, y)| (a + q / rate / n, b + y / n));
        let (sxx, sxy) = batch
            .iter()
            .fold((0.0, 0.0), |(a, b), (q, y)| (a + (q / rate - mx).powi(2), b + (q / rate - mx) * (y - my)));
        if sxx > 0.0 {
            slopes.push((sxy / sxx, sxx));
        }
    }
    let weight: f64 = slopes.iter().map(|s| s.1).sum();
    if slopes.len() < BATCHES / 2 || weight <= 0.0 {
        return None;
    }
    let slope = slopes.iter().map(|(s, w)| s * w).sum::<f64>() / weight;
    let variance = slopes.iter().map(|(s, w)| (w * (s - slope)).powi(2)).sum::<f64>() / (weight * weight);
    Some((slope, variance.sqrt()))
}

/// Share of a bucket's depth, at its level, over which a queue behind a deep burst shows.
const TOP: f64 = 0.125;
/// And so many large packets at least.
const TOP_PACKETS: f64 = 12.0;

/// The queue that fills once a burst far larger than itself is used up: of the whole bucket only the top delays, and
/// there as a queue does. None where it does not.
///
/// A line of one's own in front adds less than the ratio of both rates to the slope, so that half is no accident.
pub fn behind_burst(series: &[Packet], delays: &Delays, bucket: &super::bucket::Fit) -> Option<Fit> {
    let (rate, level) = (bucket.rate.value, bucket.depth.value);
    // What jitters by a millisecond is no queue that packets are lost on.
    if !bucket.is_depth_known || delays.p95 < thresholds::STANDS {
        return None;
    }
    let mut points = fills(series, delays, rate, 0.0);
    points.retain(|(q, _)| *q >= level - (TOP * level).max(TOP_PACKETS * bucket.grain));
    let (slope, error) = slope_of(&points, rate)?;
    if slope - 3.0 * error < thresholds::COUPLED_TOP {
        return None;
    }
    let mut bursts: Vec<f64> = points.iter().map(|(q, excess)| (q - rate * excess).max(0.0)).collect();
    let burst = Estimate {
        value: quantile(&mut bursts, 0.5)?,
        low: quantile(&mut bursts, 0.25)?,
        high: quantile(&mut bursts, 0.75)?,
    };
    let arrived = series.iter().filter(|p| !p.is_lost()).count();
    let length = series.last()?.at - series.first()?.at;
    let bytes: f64 = series.iter().filter(|p| !p.is_lost()).map(|p| p.bytes).sum();
    Some(Fit {
        rate: bucket.rate,
        burst,
        limit: Some((level - burst.value).max(0.0)),
        explained: bucket.explained,
        wander: 0.0,
        drops_at_limit: bucket.drops_at_level,
        waited: points.len() as f64 / arrived.max(1) as f64,
        busy: bytes / rate / length.max(1e-9),
        p95: delays.p95,
    })
}

/// The queue as it filled for the first time: once it is full its length no longer varies, and what varies then is
/// somebody else's. None where it does not hold the bucket's rate.
pub fn at_first(series: &[Packet], bucket: &super::bucket::Fit) -> Option<Fit> {
    let first = series.iter().position(Packet::is_lost)?;
    let head = &series[..first];
    let found = fit(head, &Delays::of(head)?)?;
    let agrees = (found.rate.value / bucket.rate.value - 1.0).abs() < 0.05;
    if !agrees || found.explained < thresholds::QUEUED {
        return None;
    }
    let delays = Delays::of(series)?;
    let limit = (bucket.depth.value - found.burst.value).max(0.0);
    // Full it stays, and that long.
    let full = delays.median * bucket.rate.value;
    let stays = full > 0.5 * limit && full < 2.0 * limit;
    stays.then_some(Fit {
        rate: bucket.rate,
        limit: Some(limit),
        drops_at_limit: bucket.drops_at_level,
        waited: 1.0,
        busy: 1.0,
        p95: delays.p95,
        ..found
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shaper written down plainly: tokens for the burst, then a line of packets that leave at the rate.
    fn shaped(rate: f64, burst: f64, limit: f64, packets: impl Iterator<Item = (f64, f64)>) -> Vec<Packet> {
        let mut free_at = f64::NEG_INFINITY;
        packets
            .map(|(at, bytes)| {
                // A bucket that is full at once when it has been quiet for burst / rate.
                free_at = free_at.max(at - burst / rate) + bytes / rate;
                let wait = (free_at - at).max(0.0);
                if wait * rate > limit {
                    free_at -= bytes / rate;
                    Packet { at, bytes, delay: None }
                } else {
                    Packet { at, bytes, delay: Some(0.03 + wait) }
                }
            })
            .collect()
    }

    #[test]
    fn rate_burst_and_limit_of_a_shaper() {
        let series = shaped(1e6, 50_000.0, 120_000.0, (0..20_000).map(|n| (f64::from(n) * 0.0008, 1000.0)));
        let delays = Delays::of(&series).unwrap();
        let fit = fit(&series, &delays).unwrap();
        assert!((fit.rate.value / 1e6 - 1.0).abs() < 0.01, "{fit:?}");
        assert!((fit.burst.value / 50_000.0 - 1.0).abs() < 0.06, "{fit:?}");
        assert!((fit.limit.unwrap() / 120_000.0 - 1.0).abs() < 0.06, "{fit:?}");
        assert!(fit.explained > 0.9, "{fit:?}");
    }

    #[test]
    fn a_queue_couples_and_a_policer_does_not() {
        let packets = || (0..9_000).map(|n| (f64::from(n) * 0.0011 + f64::from(n / 300) * 0.1, 1000.0));
        let queue = shaped(8e5, 0.0, 60_000.0, packets());
        let found = coupling(&queue, &Delays::of(&queue).unwrap(), 8e5, 30_000.0, true).unwrap();
        assert!((found.slope - 1.0).abs() < 0.1 && found.at_level > 0.8, "{found:?}");
        let mut policer = queue;
        for (n, packet) in policer.iter_mut().enumerate() {
            packet.delay = packet.delay.map(|_| 0.03 + (n * 7919 % 13) as f64 * 1e-4);
        }
        let found = coupling(&policer, &Delays::of(&policer).unwrap(), 8e5, 30_000.0, true).unwrap();
        assert!(found.slope.abs() < 0.05 && found.at_level < 0.1, "{found:?}");
    }
}
