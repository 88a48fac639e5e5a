//! Delay over a series: its base without the drift of the clocks, its noise, and what load and loss have to do with it.

use super::{Packet, quantile};
use crate::stats::hypothesis::binomial_at_least;

/// Clocks drift apart by less than this; a steeper rise is delay.
const MAX_DRIFT: f64 = 300e-6;
/// Points of the lower envelope: the lowest delay of each of so many stretches.
const STRETCHES: usize = 512;

/// The delay of a path without load, over time: a line under all delays.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Base {
    /// Delay at the time zero of the series, seconds.
    pub at_zero: f64,
    /// Drift of the receiver's clock against the sender's, seconds per second.
    pub drift: f64,
}

impl Base {
    /// The line under all delays that lies closest to them (the edge of the convex hull below the middle of the series;
    /// Moon, Skelly and Towsley, INFOCOM 1999). None without arrivals.
    pub fn of(series: &[Packet]) -> Option<Self> {
        let (first, last) = (series.first()?.at, series.last()?.at);
        let width = ((last - first) / STRETCHES as f64).max(1e-9);
        let mut lowest: Vec<Option<(f64, f64)>> = vec![None; STRETCHES + 1];
        for packet in series {
            if let Some(delay) = packet.delay {
                let place = &mut lowest[(((packet.at - first) / width) as usize).min(STRETCHES)];
                if place.is_none_or(|(_, d)| delay < d) {
                    *place = Some((packet.at, delay));
                }
            }
        }
        let points: Vec<(f64, f64)> = lowest.into_iter().flatten().collect();
        let floor = points.iter().map(|p| p.1).reduce(f64::min)?;
        let hull = lower_hull(&points);
        let middle = (first + last) / 2.0;
        let edge = hull.windows(2).find(|e| e[0].0 <= middle && middle <= e[1].0);
        // Less than ten seconds show no drift that matters.
        let drift = edge.map_or(0.0, |e| (e[1].1 - e[0].1) / (e[1].0 - e[0].0));
        if last - first < 10.0 || drift.abs() > MAX_DRIFT {
            return Some(Self { at_zero: floor, drift: 0.0 });
        }
        let at_zero = points.iter().map(|(t, d)| d - drift * t).reduce(f64::min)?;
        Some(Self { at_zero, drift })
    }

    /// What a delay exceeds the base by, seconds.
    pub fn excess(&self, at: f64, delay: f64) -> f64 {
        delay - self.at_zero - self.drift * at
    }
}

fn lower_hull(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut hull: Vec<(f64, f64)> = Vec::new();
    for p in points {
        while let [.., a, b] = hull.as_slice()
            && (b.0 - a.0) * (p.1 - a.1) <= (p.0 - a.0) * (b.1 - a.1)
        {
            hull.pop();
        }
        hull.push(*p);
    }
    hull
}

/// What delay does over a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Delays {
    /// The base.
    pub base: Base,
    /// Excess delay that half of all packets do not reach, seconds.
    pub median: f64,
    /// Excess delay that nineteen of twenty do not reach, seconds.
    pub p95: f64,
    /// Change of delay between neighbours, half of the time less than this, seconds: noise, not queueing.
    pub noise: f64,
    /// Resolution of the stamps as the delays show it, seconds: what nine of ten changes are no smaller than.
    pub resolution: f64,
}

impl Delays {
    /// Of a series; none without arrivals.
    pub fn of(series: &[Packet]) -> Option<Self> {
        let base = Base::of(series)?;
        let mut excess: Vec<f64> =
            series.iter().filter_map(|p| p.delay.map(|d| base.excess(p.at, d))).collect();
        let mut steps: Vec<f64> = excess.windows(2).map(|pair| (pair[1] - pair[0]).abs()).collect();
        let noise = quantile(&mut steps, 0.5).unwrap_or(0.0);
        // By the delays as they are: the base's drift would hide the lattice.
        let plain: Vec<f64> = series.iter().filter_map(|p| p.delay).collect();
        let mut changes: Vec<f64> =
            plain.windows(2).map(|pair| (pair[1] - pair[0]).abs()).filter(|c| *c > 1e-7).collect();
        let resolution = quantile(&mut changes, 0.1).unwrap_or(0.0);
        let median = quantile(&mut excess, 0.5)?;
        let p95 = quantile(&mut excess, 0.95)?;
        Some(Self { base, median, p95, noise, resolution })
    }
}

/// What loss has to do with the delay of the packets around it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BeforeLoss {
    /// Loss periods.
    pub periods: usize,
    /// Median excess delay just before them, seconds.
    pub median: f64,
    /// Median share of all delays that are lower than the one before a loss: 0.5 where loss and delay have nothing to do
    /// with one another, nearly 1 where a queue overflows now and then.
    pub rank: f64,
    /// Their mean.
    pub mean_rank: f64,
    /// Probability of ranks so high without any such connexion.
    pub p_rank: f64,
    /// Share of the arrivals with high delay.
    pub high_share: f64,
    /// Loss periods among the packets with high delay, over those among packets with low delay, per packet.
    pub ratio: f64,
    /// Probability of so many periods at high delay by chance. A path that is full all of the time shows it here, where
    /// the ranks do not.
    pub p_level: f64,
}

impl BeforeLoss {
    /// Losses within this time of one another are one period, seconds; less in a short series, so that it can have up to
    /// so many periods.
    const APART: (f64, f64) = (0.05, 400.0);
    /// An arrival counts as just before a loss if it was sent within this time, seconds.
    const RECENT: f64 = 0.1;

    /// Of a series; none with fewer than five loss periods.
    pub fn of(series: &[Packet], delays: &Delays) -> Option<Self> {
        let base = &delays.base;
        let mut sorted: Vec<f64> =
            series.iter().filter_map(|p| p.delay.map(|d| base.excess(p.at, d))).collect();
        sorted.sort_by(f64::total_cmp);
        let (mut before, mut last_period) = (Vec::new(), f64::NEG_INFINITY);
        let length = series.last()?.at - series.first()?.at;
        let apart = (length / Self::APART.1).min(Self::APART.0);
        let mut recent: Option<(f64, f64)> = None;
        for packet in series {
            match packet.delay {
                Some(delay) => recent = Some((packet.at, base.excess(packet.at, delay))),
                None => {
                    if packet.at - last_period > apart
                        && let Some((at, excess)) = recent
                        && packet.at - at <= Self::RECENT
                    {
                        before.push(excess);
                        last_period = packet.at;
                    }
                }
            }
        }
        if before.len() < 5 {
            return None;
        }
        let rank = |d: f64| {
            let below = sorted.partition_point(|s| *s < d);
            let upto = sorted.partition_point(|s| *s <= d);
            (below + upto) as f64 / 2.0 / sorted.len() as f64
        };
        let mut ranks: Vec<f64> = before.iter().map(|d| rank(*d)).collect();
        // The sum of uniform ranks is nearly normal from a dozen on; fewer make a weaker test, not a wrong one.
        let n = ranks.len() as f64;
        let z = (ranks.iter().sum::<f64>() / n - 0.5) * (12.0 * n).sqrt();
        // Half of the high delay parts high from low.
        let middle = delays.p95 / 2.0;
        let low = sorted.partition_point(|s| *s < middle) as u64;
        let all = sorted.len() as u64;
        let high_periods = before.iter().filter(|d| **d >= middle).count() as u64;
        let share = (all - low) as f64 / all.max(1) as f64;
        let per = |periods: f64, packets: u64| (periods + 0.5) / (packets as f64 + 1.0);
        Some(Self {
            periods: before.len(),
            median: quantile(&mut before, 0.5)?,
            mean_rank: ranks.iter().sum::<f64>() / n,
            rank: quantile(&mut ranks, 0.5)?,
            p_rank: normal_above(z),
            high_share: share,
            ratio: per(high_periods as f64, all - low) / per(n - high_periods as f64, low),
            p_level: binomial_at_least(high_periods, n as u64, share),
        })
    }
}

/// Probability that a standard normal variable exceeds `z` (Abramowitz and Stegun 7.1.26, error below 1.5e-7; beyond 5
/// the tail's first term).
pub fn normal_above(z: f64) -> f64 {
    if z > 5.0 {
        return (-z * z / 2.0).exp() / (z * (2.0 * std::f64::consts::PI).sqrt());
    }
    if z < 0.0 {
        return 1.0 - normal_above(-z);
    }
    let x = z / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * x);
    let poly = t
        * (0.254_829_592
            + t * (-0.284_496_736 + t * (1.421_413_741 + t * (-1.453_152_027 + t * 1.061_405_429))));
    poly * (-x * x).exp() / 2.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(n: u32, delay: f64) -> Packet {
        Packet { at: f64::from(n) * 0.01, bytes: 1000.0, delay: Some(delay) }
    }

    #[test]
    fn drift_is_taken_out_and_a_queue_is_not() {
        let series: Vec<_> =
            (0..6000).map(|n| at(n, 5.0 + 50e-6 * f64::from(n) * 0.01 + f64::from(n % 7) * 0.001)).collect();
        let base = Base::of(&series).unwrap();
        assert!((base.drift - 50e-6).abs() < 5e-6, "{base:?}");
        let filling: Vec<_> = (0..6000).map(|n| at(n, 0.02 + f64::from(n) * 1e-4)).collect();
        assert_eq!(Base::of(&filling).unwrap().drift, 0.0);
    }

    #[test]
    fn tails_of_the_normal_distribution() {
        for (z, p) in [(0.0, 0.5), (1.96, 0.024_998), (-1.0, 0.841_345), (6.0, 1.0e-9)] {
            assert!((normal_above(z) - p).abs() < 0.05 * p, "{z}");
        }
    }

    #[test]
    fn losses_after_high_delay_are_seen_and_others_are_not() {
        // Delay rises and falls; what is lost is lost at the top, or anywhere.
        let series = |lost: &dyn Fn(u32) -> bool| -> Vec<Packet> {
            (0..5000)
                .map(|n| Packet {
                    delay: (!lost(n)).then_some(0.02 + f64::from(n % 100) * 1e-3),
                    ..at(n, 0.0)
                })
                .collect()
        };
        let test = |series: &[Packet]| BeforeLoss::of(series, &Delays::of(series).unwrap()).unwrap();
        let full = test(&series(&|n| n % 100 == 99));
        assert!(full.p_rank < 1e-9 && full.rank > 0.95, "{full:?}");
        let chance = test(&series(&|n| n % 37 == 5));
        assert!(chance.p_rank > 1e-3 && chance.p_level > 1e-3, "{chance:?}");
    }
}
