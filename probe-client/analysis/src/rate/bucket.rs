//! The token bucket that explains a pattern of loss.
//!
//! With rate `r` and depth `B`, let `q` be what the passed packets have taken out of the bucket and `r` has not yet put
//! back: `q` falls at `r`, never below zero, and grows by each packet that passes. A packet of `s` passes if `q + s <= B`.
//! What is lost takes nothing. So for a given `r` all `q + s` follow from the series alone, and `B` is the level that
//! parts passes from drops.

use super::{Estimate, Packet, quantile, slope};

/// What a series is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Packets.
    Packets,
}

impl Unit {
    fn of(self, packet: &Packet) -> f64 {
        match self {
            Self::Bytes => packet.bytes,
            Self::Packets => 1.0,
        }
    }
}

/// Fewest drops from which a bucket is fitted.
pub const MIN_DROPS: usize = 12;
/// Classes of fill level, each a sixteenth of a large packet wide, around the level at which packets are dropped.
const CLASSES: usize = 2048;

/// A bucket that is empty at first and never full is run from a fill of so many large packets.
const EMPTY: f64 = 1e5;

/// A token bucket and how well it explains a series.
#[derive(Clone, Copy, Debug)]
pub struct Fit {
    /// Units per second.
    pub rate: Estimate,
    /// Units.
    pub depth: Estimate,
    /// Share of the uncertainty about which packets are lost that the fill of the bucket takes away, 0 to 1.
    pub explained: f64,
    /// Share of the drops that happen at the level or above.
    pub drops_at_level: f64,
    /// Packets that pass clearly above the level, over all drops.
    pub passes_above: f64,
    /// Drops.
    pub drops: usize,
    /// How many times narrower the fills at drops lie than those of as many loss periods by chance would.
    pub tightness: f64,
    /// Runs of packets near the level that the sender came back to after the bucket had been refilled by a quarter.
    pub visits: usize,
    /// Length of the largest packet, in the unit.
    pub grain: f64,
    /// The bucket was seen full; else the series begins with an empty one that never fills again, and the depth is only
    /// known to be no less than what was seen.
    pub is_depth_known: bool,
}

impl Fit {
    /// Whether it holds several packets.
    pub fn is_deep(&self) -> bool {
        !self.is_depth_known || self.depth.value >= 4.0 * self.grain
    }
}

/// The fills of a bucket over a series.
struct Fills<'s> {
    series: &'s [Packet],
    unit: Unit,
    grain: f64,
    /// `q + s` of each packet.
    levels: Vec<f64>,
}

impl<'s> Fills<'s> {
    fn new(series: &'s [Packet], unit: Unit) -> Self {
        let mut lengths: Vec<f64> = series.iter().map(|p| unit.of(p)).collect();
        let grain = quantile(&mut lengths, 0.95).unwrap_or(1.0).max(1e-9);
        Self { series, unit, grain, levels: vec![0.0; series.len()] }
    }

    fn run(&mut self, rate: f64, start: f64) {
        let (mut q, mut before) = (start, self.series.first().map_or(0.0, |p| p.at));
        for (level, packet) in self.levels.iter_mut().zip(self.series) {
            let size = self.unit.of(packet);
            q = (q - rate * (packet.at - before).max(0.0)).max(0.0);
            before = before.max(packet.at);
            *level = q + size;
            if packet.delay.is_some() {
                q += size;
            }
        }
    }

    /// Share of the uncertainty explained, by the best monotone chance of loss over the level, and the level where that
    /// chance passes one half of its highest.
    fn explained(&self, scratch: &mut Scratch) -> (f64, f64) {
        scratch.drops.clear();
        scratch
            .drops
            .extend(self.levels.iter().zip(self.series).filter(|(_, p)| p.is_lost()).map(|(l, _)| *l));
        let drops = scratch.drops.len();
        let Some(middle) = quantile(&mut scratch.drops, 0.5) else { return (0.0, 0.0) };
        let width = self.grain / 16.0;
        let low = middle - width * (CLASSES / 2) as f64;
        scratch.classes.clear();
        scratch.classes.resize(CLASSES, (0, 0));
        for (level, packet) in self.levels.iter().zip(self.series) {
            let class = ((level - low) / width).clamp(0.0, (CLASSES - 1) as f64) as usize;
            scratch.classes[class].0 += 1;
            scratch.classes[class].1 += u32::from(packet.is_lost());
        }
        let blocks = isotonic(&scratch.classes);
        let entropy = |lost: f64, n: f64| {
            let part = |k: f64| if k <= 0.0 { 0.0 } else { k * (k / n).ln() };
            part(lost) + part(n - lost)
        };
        let all = entropy(drops as f64, self.series.len() as f64);
        let given: f64 = blocks.iter().map(|b| entropy(b.lost, b.n)).sum();
        let half = blocks.last().map_or(0.5, |b| b.lost / b.n) / 2.0;
        let level =
            blocks.iter().find(|b| b.lost / b.n >= half).map_or(middle, |b| low + width * b.from as f64);
        let explained = if all < 0.0 { 1.0 - given / all } else { 0.0 };
        (explained, level)
    }
}

#[derive(Default)]
struct Scratch {
    drops: Vec<f64>,
    classes: Vec<(u32, u32)>,
}

struct Block {
    from: usize,
    n: f64,
    lost: f64,
}

/// The best chances of loss that never fall with the level (pool adjacent violators).
fn isotonic(classes: &[(u32, u32)]) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    for (from, (n, lost)) in classes.iter().enumerate().filter(|(_, (n, _))| *n > 0) {
        let mut block = Block { from, n: f64::from(*n), lost: f64::from(*lost) };
        while let Some(last) = blocks.last()
            && last.lost * block.n >= block.lost * last.n
        {
            block = Block { from: last.from, n: last.n + block.n, lost: last.lost + block.lost };
            blocks.pop();
        }
        blocks.push(block);
    }
    blocks
}

/// Fits a bucket. None where too little is lost, or no rate explains anything.
///
/// Packets meet the bucket somewhere on the way. Jitter before it is seen in the times of arrival, jitter behind it is
/// not in the times of sending: both clocks are tried where the first does not explain nearly all.
pub fn fit(series: &[Packet], unit: Unit) -> Option<Fit> {
    let by_sending = fit_as_timed(series, unit);
    if by_sending.is_some_and(|f| f.explained > 0.9) {
        return by_sending;
    }
    let by_arrival = fit_as_timed(&arrivals(series)?, unit);
    match (by_sending, by_arrival) {
        (Some(a), Some(b)) if b.explained > a.explained + 0.05 && b.is_deep() => Some(b),
        // A line's own spacing of arrivals looks like a bucket of one packet.
        (None, Some(b)) if b.is_deep() => Some(b),
        (a, _) => a,
    }
}

/// The series timed by arrival. What was lost is put where its neighbours were. None without arrivals.
fn arrivals(series: &[Packet]) -> Option<Vec<Packet>> {
    let least = series.iter().filter_map(|p| p.delay).reduce(f64::min)?;
    let mut before: Vec<Option<(f64, f64)>> = Vec::with_capacity(series.len());
    let mut last = None;
    for packet in series {
        last = packet.delay.map(|d| (packet.at, d)).or(last);
        before.push(last);
    }
    let mut after = None;
    let mut out = series.to_vec();
    for (packet, before) in out.iter_mut().zip(&before).rev() {
        after = packet.delay.map(|d| (packet.at, d)).or(after);
        let delay = match (*before, after) {
            (Some((t1, d1)), Some((t2, d2))) if t2 > t1 => d1 + (d2 - d1) * (packet.at - t1) / (t2 - t1),
            (Some((_, d)), _) | (None, Some((_, d))) => d,
            (None, None) => least,
        };
        packet.at += delay - least;
    }
    out.sort_by(|a, b| a.at.total_cmp(&b.at));
    Some(out)
}

fn fit_as_timed(series: &[Packet], unit: Unit) -> Option<Fit> {
    let drops = series.iter().filter(|p| p.is_lost()).count();
    if drops < MIN_DROPS || drops == series.len() {
        return None;
    }
    let scratch = &mut Scratch::default();
    let begins = beginning(series);
    let mut best = fit_beginning(&series[..begins], unit, scratch)?;
    // A rate that is off by one part in as many packets as have passed moves the fill by a packet: over a long series
    // the right rate is a needle in a haystack, unless it is closed in upon.
    let mut fills = Fills::new(&series[..begins], unit);
    let mut upto = begins;
    while upto < series.len() {
        upto = (upto * 2).min(series.len());
        fills = Fills::new(&series[..upto], unit);
        best = closer(&mut fills, scratch, best);
    }
    let interval = plateau(&mut fills, scratch, &mut best);
    fills.run(best.rate, best.start);
    Some(describe(&fills, &best, interval, drops))
}

/// Packets from which the rate is first found: enough of them, and enough drops.
fn beginning(series: &[Packet]) -> usize {
    const FEWEST: usize = 8192;
    const DROPS: usize = 256;
    let mut upto = FEWEST;
    while upto < series.len() {
        if series[..upto].iter().filter(|p| p.is_lost()).count() >= DROPS {
            return upto;
        }
        upto *= 2;
    }
    series.len()
}

fn fit_beginning(series: &[Packet], unit: Unit, scratch: &mut Scratch) -> Option<Try> {
    let mut fills = Fills::new(series, unit);
    let mut found = search(&mut fills, scratch, 0.0);
    if found.is_none_or(|f| f.explained < 0.9) {
        // Where the series begins in the middle of a full load, the bucket is empty at first, and may stay so.
        if let Some(full) = found {
            fills.run(full.rate, full.level);
            let (explained, level) = fills.explained(scratch);
            if explained > full.explained + 0.01 {
                found = Some(climb(&mut fills, scratch, Try { explained, level, start: full.level, ..full }));
            }
        }
        let never_full = EMPTY * fills.grain;
        let empty = search(&mut fills, scratch, never_full);
        let margin = found.map_or(0.0, |f| f.explained + 0.03);
        found = empty.filter(|e| e.explained > margin).or(found);
    }
    found
}

/// The best rate over twice as many packets as before.
fn closer(fills: &mut Fills<'_>, scratch: &mut Scratch, from: Try) -> Try {
    let passed: f64 = fills.series.iter().filter(|p| !p.is_lost()).map(|p| fills.unit.of(p)).sum();
    let packet = fills.grain / passed.max(fills.grain);
    fills.run(from.rate, from.start);
    let (explained, level) = fills.explained(scratch);
    let mut best = Try { explained, level, ..from };
    for step in [2.0, 0.7, 0.25] {
        let middle = best.rate;
        for n in [-3.0, -2.0, -1.0, 1.0, 2.0, 3.0] {
            let rate = middle * (1.0 + packet * step * n);
            fills.run(rate, best.start);
            let (explained, level) = fills.explained(scratch);
            if explained > best.explained + 1e-9 {
                best = Try { rate, explained, level, ..best };
            }
        }
    }
    best
}

#[derive(Clone, Copy)]
struct Try {
    rate: f64,
    explained: f64,
    level: f64,
    start: f64,
}

/// The best of the rates that the drops suggest and of a coarse scale of others.
fn search(fills: &mut Fills<'_>, scratch: &mut Scratch, start: f64) -> Option<Try> {
    let (first, last) = (fills.series.first()?, fills.series.last()?);
    let length = last.at - first.at;
    let mut passed = 0.0;
    let mut points = Vec::new();
    for packet in fills.series {
        if packet.is_lost() {
            points.push((packet.at, passed));
        } else {
            passed += fills.unit.of(packet);
        }
    }
    if length <= 0.0 || passed <= 0.0 {
        return None;
    }
    let mean = passed / length;
    let mut rates = slope::candidates(&points, fills.grain);
    rates.extend((0..14).map(|n| mean * 0.6 * 1.22f64.powi(n)));
    let mut tries: Vec<Try> = Vec::with_capacity(rates.len());
    for rate in rates {
        fills.run(rate, start);
        let (explained, level) = fills.explained(scratch);
        tries.push(Try { rate, explained, level, start });
    }
    tries.sort_by(|a, b| b.explained.total_cmp(&a.explained));
    tries.truncate(3);
    tries
        .into_iter()
        .filter(|t| t.explained > 0.05)
        .map(|t| climb(fills, scratch, t))
        .max_by(|a, b| a.explained.total_cmp(&b.explained))
}

/// Climbs to the best rate nearby, from wide steps to narrow ones.
fn climb(fills: &mut Fills<'_>, scratch: &mut Scratch, from: Try) -> Try {
    let mut best = from;
    for step in [1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5] {
        let middle = best.rate;
        for n in [-3.0, -2.0, -1.0, 1.0, 2.0, 3.0] {
            let rate = middle * (1.0 + step * n);
            fills.run(rate, best.start);
            let (explained, level) = fills.explained(scratch);
            if explained > best.explained + 1e-9 {
                best = Try { rate, explained, level, ..best };
            }
        }
    }
    best
}

/// The rates around the best between which it explains about as much; moves it to their middle where that is as good.
fn plateau(fills: &mut Fills<'_>, scratch: &mut Scratch, best: &mut Try) -> (f64, f64) {
    let mut at = |rate: f64, start: f64| {
        fills.run(rate, start);
        fills.explained(scratch)
    };
    // What explains as well within the noise of a few packets is as good.
    let slack = 0.02;
    let mut edge = |sign: f64| {
        let mut reach = 1e-5;
        let mut far = best.rate;
        while reach < 0.5 {
            let rate = best.rate * (1.0 + sign * reach);
            let (explained, _) = at(rate, best.start);
            if explained < best.explained - slack {
                return rate;
            }
            far = rate;
            reach *= 1.8;
        }
        far
    };
    let interval = (edge(-1.0), edge(1.0));
    // The middle of a plateau is a better guess than the first of its points.
    let middle = (interval.0 + interval.1) / 2.0;
    let (explained, level) = at(middle, best.start);
    if explained >= best.explained - slack / 10.0 && (middle / best.rate - 1.0).abs() > 1e-4 {
        *best = Try { rate: middle, explained, level, ..*best };
    }
    interval
}

fn describe(fills: &Fills<'_>, best: &Try, interval: (f64, f64), drops: usize) -> Fit {
    let grain = fills.grain;
    let near = best.level - 1.5 * grain;
    let over = best.level + 1.5 * grain;
    let (mut at_level, mut above, mut visits, mut is_away) = (0usize, 0usize, 0usize, true);
    let (mut highest_pass, mut lowest_drop): (Vec<f64>, Vec<f64>) = (Vec::new(), Vec::new());
    for (level, packet) in fills.levels.iter().zip(fills.series) {
        if *level < best.level * 0.75 {
            is_away = true;
        }
        if packet.is_lost() {
            lowest_drop.push(*level);
            if *level >= near {
                at_level += 1;
                visits += usize::from(std::mem::take(&mut is_away));
            }
        } else if *level > near {
            highest_pass.push(*level);
        }
        above += usize::from(*level > over && !packet.is_lost());
    }
    // The depth lies between the highest passes and the lowest drops, a few strays apart.
    let low = quantile(&mut lowest_drop, 0.1).unwrap_or(best.level);
    let high = quantile(&mut highest_pass, 0.99).unwrap_or(best.level - grain);
    let is_depth_known = best.start < EMPTY * grain;
    // Of a bucket that was never seen full, what is known is how much it gave at once.
    let lowest = fills.levels.iter().copied().fold(f64::INFINITY, f64::min);
    let depth = if is_depth_known { best.level } else { (best.level - lowest).max(grain) };
    let (low, high) = if is_depth_known { (low, high) } else { (depth, depth) };
    Fit {
        rate: Estimate { value: best.rate, low: interval.0, high: interval.1 },
        depth: Estimate { value: depth, low: depth.min(high).min(low), high: depth.max(high).max(low) },
        explained: best.explained,
        tightness: tightness(fills, &mut lowest_drop),
        drops_at_level: at_level as f64 / drops.max(1) as f64,
        passes_above: above as f64 / drops.max(1) as f64,
        drops,
        visits,
        grain,
        is_depth_known,
    }
}

/// By chance, the passes between two loss periods vary by about their mean, and the fill walks at random: over `n` periods
/// by `sqrt(n)` times that.
fn tightness(fills: &Fills<'_>, at_drops: &mut [f64]) -> f64 {
    let (mut periods, mut passed, mut was_lost) = (0u32, 0.0, false);
    for packet in fills.series {
        periods += u32::from(packet.is_lost() && !was_lost);
        was_lost = packet.is_lost();
        passed += if was_lost { 0.0 } else { fills.unit.of(packet) };
    }
    let n = f64::from(periods.max(1));
    let by_chance = passed / n * n.sqrt();
    let spread = quantile(at_drops, 0.9).unwrap_or(0.0) - quantile(at_drops, 0.1).unwrap_or(0.0);
    by_chance / spread.max(fills.grain)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bucket written down plainly: tokens in a float, added before each packet.
    fn policed(rate: f64, depth: f64, packets: impl Iterator<Item = (f64, f64)>) -> Vec<Packet> {
        let (mut tokens, mut before) = (depth, 0.0);
        packets
            .map(|(at, bytes)| {
                tokens = f64::min(depth, tokens + rate * (at - before));
                before = at;
                let passes = tokens >= bytes;
                tokens -= if passes { bytes } else { 0.0 };
                Packet { at, bytes, delay: passes.then_some(0.02) }
            })
            .collect()
    }

    #[test]
    fn a_constant_rate_above_the_bucket_s() {
        let series = policed(1_500_000.0, 64_000.0, (0..20_000).map(|n| (f64::from(n) * 0.0005, 1200.0)));
        let fit = fit(&series, Unit::Bytes).unwrap();
        assert!((fit.rate.value / 1_500_000.0 - 1.0).abs() < 0.002, "{fit:?}");
        assert!((fit.depth.value / 64_000.0 - 1.0).abs() < 0.03, "{fit:?}");
        assert!(fit.explained > 0.95, "{fit:?}");
        assert!(fit.rate.low <= 1_500_000.0 && 1_500_000.0 <= fit.rate.high, "{fit:?}");
    }

    #[test]
    fn a_long_series_that_is_never_below_the_rate() {
        // The bucket is full once, at the start; the times jitter by a fifth of the gap, so that no pattern repeats.
        let jitter = |n: u32| f64::from(n.wrapping_mul(2_654_435_761) >> 20) / 4096.0 * 150e-6;
        let packets = (0..120_000).map(|n| (f64::from(n) * 750e-6 + jitter(n), 1200.0));
        let series = policed(1_250_000.0, 60_000.0, packets);
        let fit = fit(&series, Unit::Bytes).unwrap();
        assert!((fit.rate.value / 1_250_000.0 - 1.0).abs() < 1e-3, "{fit:?}");
        assert!((fit.depth.value / 60_000.0 - 1.0).abs() < 0.05 && fit.is_depth_known, "{fit:?}");
        assert!(fit.explained > 0.9, "{fit:?}");
    }

    #[test]
    fn loss_by_chance_is_not_explained() {
        let lost = |n: u32| (n.wrapping_mul(2_654_435_761) >> 16).is_multiple_of(10);
        let series: Vec<_> = (0..20_000u32)
            .map(|n| Packet { at: f64::from(n) * 0.0005, bytes: 1200.0, delay: (!lost(n)).then_some(0.02) })
            .collect();
        let fit = fit(&series, Unit::Bytes);
        assert!(fit.is_none_or(|f| f.explained < 0.2), "{fit:?}");
    }

    #[test]
    fn the_monotone_chance_pools_what_falls() {
        let blocks = isotonic(&[(10, 0), (10, 5), (10, 3), (0, 0), (10, 10)]);
        let chances: Vec<_> = blocks.iter().map(|b| (b.from, b.lost / b.n)).collect();
        assert_eq!(chances, [(0, 0.0), (1, 0.4), (4, 1.0)]);
    }
}
