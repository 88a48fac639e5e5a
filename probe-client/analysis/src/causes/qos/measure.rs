//! The limit that steps of datagrams of one size show: its rate, its depth, and whether it queues.

use super::series::{Stretch, Through};
use crate::rate::bucket::{self, Unit};
use crate::rate::judge::{self, Limit};
use crate::rate::{Packet, quantile};

/// Loss from which a step is above a limit: well above what benign paths lose.
const ABOVE: f64 = 0.03;
/// Steps above a limit get the same through, up to this ratio.
const FLAT: f64 = 1.06;
/// They must have been offered rates at least this far apart.
const APART: f64 = 1.15;
/// A bucket's rate and what got through the steps above it agree up to this ratio.
const AGREE: f64 = 1.04;
/// A plateau this flat, over rates this far apart, is a limit whatever the grain of the losses.
const TIGHT: (f64, f64) = (1.02, 1.2);
/// Three such steps or more may have been offered rates that are only so far apart.
const NEARER: f64 = 1.1;
/// A bucket or a queue that explains this much needs no plateau.
const EXPLAINS_ALL: f64 = 0.85;
/// Delay at the limit over that of a queue of the bucket's depth: above, what exceeds the limit is queued.
const QUEUED: f64 = 0.5;
/// Delay that no queue of a line is so short as to make, seconds.
const FLAT_DELAY: f64 = 0.002;
/// Delay that a queue of others adds before it overflows, seconds.
const QUEUE: f64 = 0.005;
/// A bucket this much deeper than the grain of a large packet is known from large ones well enough.
const COARSE: f64 = 40.0;

/// What becomes of the excess.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It is dropped at once.
    Policer,
    /// It waits first.
    Shaper,
}

/// A limit.
#[derive(Clone, Debug)]
pub(super) struct Measured<'s> {
    pub(super) kind: Kind,
    /// IP bytes per second.
    pub(super) rate: f64,
    /// Packets per second of this size.
    pub(super) packets_per_second: f64,
    /// Depth of the bucket, IP bytes.
    pub(super) burst: Option<f64>,
    /// Delay that nineteen of twenty packets above the limit do not exceed, seconds.
    pub(super) added: f64,
    /// What half of the packets above the limit waited for at least, seconds.
    pub(super) waited: f64,
    /// Packets lost in all.
    pub(super) lost: usize,
    /// The steps above it.
    pub(super) above: Vec<&'s Stretch>,
    /// Two steps or more hold the same rate, and it is the bucket's or the queue's.
    pub(super) is_sure: bool,
}

impl<'s> Measured<'s> {
    /// With the depth that small packets show, where large ones are too coarse for it.
    pub(super) fn with_burst_of(mut self, small: &[&'s Stretch]) -> Self {
        let grain = self.above.first().map_or(1228.0, |s| s.wire);
        if self.kind == Kind::Policer
            && self.burst.is_some_and(|b| b < COARSE * grain)
            && let Some(fine) = bucket::fit(&packets_of(small), Unit::Bytes)
            && judge::is_bucket(&fine)
            && (fine.rate.value / self.rate - 1.0).abs() < 0.1
            && fine.is_depth_known
        {
            self.burst = Some(fine.depth.value);
        }
        self
    }
}

fn packets_of(steps: &[&Stretch]) -> Vec<Packet> {
    steps.iter().flat_map(|s| s.packets.iter().copied()).collect()
}

/// Packets per second, from steps of all sizes.
pub(super) fn packets_per_second(all: &[Stretch], found: &Measured<'_>) -> Option<f64> {
    let every: Vec<&Stretch> = all.iter().collect();
    let fit = bucket::fit(&packets_of(&every), Unit::Packets)?;
    let near = (fit.rate.value / found.packets_per_second - 1.0).abs() < 0.1;
    (judge::is_bucket(&fit) && near).then_some(fit.rate.value)
}

/// Steps above a limit that got the same through.
struct Plateau<'s> {
    steps: Vec<&'s Stretch>,
    /// What that was over all of them, bytes per second.
    rate: f64,
    is_tight: bool,
}

fn plateau<'s>(steps: &[&'s Stretch]) -> Option<Plateau<'s>> {
    let lossy: Vec<(&'s Stretch, Through)> = above(steps);
    let middle = quantile(&mut lossy.iter().map(|(_, t)| t.arrived).collect::<Vec<_>>(), 0.5)?;
    // A rate is told no better than by a packet of those that arrived.
    let flat = |ratio: f64, apart: f64, packet: f64| {
        let is_flat = |t: &Through| {
            let off = (t.arrived / middle).max(middle / t.arrived);
            off <= ratio.sqrt() + packet / (t.packets - t.lost).max(1) as f64
        };
        let flat: Vec<&(&'s Stretch, Through)> = lossy.iter().filter(|(_, t)| is_flat(t)).collect();
        let offered = flat.iter().map(|(_, t)| t.sent);
        let (low, high) = offered.fold((f64::INFINITY, 0.0), |(a, b), x| (f64::min(a, x), f64::max(b, x)));
        let (bytes, time) = flat.iter().map(|(_, t)| t).fold((0.0, 0.0), |(bytes, time), t| {
            let took = t.packets as f64 / t.sent_packets;
            (bytes + t.arrived * took, time + took)
        });
        let steps: Vec<&'s Stretch> = flat.iter().map(|(s, _)| *s).collect();
        (flat.len() >= 2 && high >= apart * low).then(|| (steps, bytes / time))
    };
    // Three steps by accident are less likely than two.
    let near = || flat(TIGHT.0, NEARER, 1.0).filter(|(steps, _)| steps.len() >= 3);
    let tight = flat(TIGHT.0, TIGHT.1, 1.0).or_else(near);
    let is_tight = tight.is_some();
    let (steps, rate) = tight.or_else(|| flat(FLAT, APART, 1.0))?;
    Some(Plateau { steps, rate, is_tight })
}

/// The steps that lose more than benign paths do.
fn above<'s>(steps: &[&'s Stretch]) -> Vec<(&'s Stretch, Through)> {
    let all = steps.iter().filter_map(|s| Some((*s, s.through(false)?)));
    all.filter(|(_, t)| t.loss() >= ABOVE).collect()
}

/// Depth of the bucket of a known rate: its fill where losses set in, at the median. None where none do.
fn depth(series: &[Packet], rate: f64) -> Option<f64> {
    let (mut fill, mut before, mut passing) = (0.0f64, series.first()?.at, 0u32);
    let mut levels = Vec::new();
    for packet in series {
        fill = (fill - rate * (packet.at - before).max(0.0)).max(0.0);
        before = packet.at;
        if packet.is_lost() {
            if passing >= 3 {
                levels.push(fill + packet.bytes / 2.0);
            }
            passing = 0;
        } else {
            fill += packet.bytes;
            passing += 1;
        }
    }
    quantile(&mut levels, 0.5)
}

/// Delay that nineteen of twenty arrivals of these steps do not exceed.
fn late(steps: &[&Stretch]) -> f64 {
    waits(steps, 0.95)
}

/// Delay that a share of the arrivals of these steps does not exceed.
fn waits(steps: &[&Stretch], share: f64) -> f64 {
    let mut delays: Vec<f64> = steps.iter().flat_map(|s| s.packets.iter().filter_map(|p| p.delay)).collect();
    quantile(&mut delays, share).unwrap_or(0.0)
}

/// The limit that these steps, all of one size, show; none where they show none.
pub(super) fn measure<'s>(steps: &[&'s Stretch]) -> Option<Measured<'s>> {
    let series = packets_of(steps);
    let wire = steps.first()?.wire;
    let judged = judge::judge(&series);
    let flat = plateau(steps);
    let lossy: Vec<&'s Stretch> = above(steps).into_iter().map(|(s, _)| s).collect();
    let (kind, rate, burst, explains) = match judged.limit {
        Some(Limit::Policer { rate, burst, fit, .. }) => {
            (Kind::Policer, rate.value, Some(burst.value), fit.explained)
        }
        Some(Limit::Shaper { rate, fit, .. }) => (Kind::Shaper, rate.value, None, fit.explained),
        Some(Limit::Shallow { rate, burst, fit }) => {
            // A short queue, or none: what a queue of that depth would delay at its end tells.
            let whole = burst.value / rate.value;
            let seen = late(&lossy);
            let is_queue = seen > FLAT_DELAY && seen > QUEUED * whole;
            let is_clear = is_queue || seen <= FLAT_DELAY || seen < 0.2 * whole;
            let kind = if is_queue { Kind::Shaper } else { Kind::Policer };
            (
                kind,
                rate.value,
                Some(burst.value).filter(|_| !is_queue),
                if is_clear { fit.explained } else { 0.0 },
            )
        }
        Some(Limit::Packets { .. }) | None => {
            let rate = flat.as_ref()?.rate;
            // What is dropped at once delays nothing more than what gets through untouched.
            let quiet: Vec<&Stretch> =
                steps.iter().copied().filter(|s| s.through(true).is_some_and(|t| t.lost == 0)).collect();
            let is_queue = late(&lossy) > late(&quiet) + FLAT_DELAY;
            let kind = if is_queue { Kind::Shaper } else { Kind::Policer };
            (kind, rate, if is_queue { None } else { depth(&series, rate) }, 0.0)
        }
    };
    let near = |x: f64| (x / rate).max(rate / x) <= AGREE;
    let is_tight = flat.as_ref().is_some_and(|f| f.is_tight && near(f.rate));
    // Near the highest rate there is no room for two rates far apart: what got through agrees with the bucket's rate.
    let last: Vec<f64> = above(steps).iter().rev().take(2).map(|(_, t)| t.arrived).collect();
    let agrees = explains > 0.0 && last.len() == 2 && last.iter().all(|x| near(*x));
    let is_sure = is_tight || agrees || explains >= EXPLAINS_ALL;
    let above = match flat {
        Some(flat) => flat.steps,
        None if lossy.is_empty() => {
            steps.iter().copied().filter(|s| s.through(false).is_some_and(|t| t.sent > rate)).collect()
        }
        None => lossy,
    };
    let added = late(&above);
    Some(Measured {
        kind,
        rate,
        packets_per_second: rate / wire,
        burst,
        added,
        waited: waits(&above, 0.5),
        lost: judged.lost,
        above,
        is_sure,
    })
}

/// A line that others fill.
pub(super) struct Shared<'s> {
    pub(super) steps: Vec<&'s Stretch>,
    pub(super) added: f64,
    pub(super) loss: f64,
}

/// Loss with more delay than where nothing is lost, and no rate that holds.
pub(super) fn shared<'s>(steps: &[&'s Stretch]) -> Option<Shared<'s>> {
    let lossy = above(steps);
    let slowest = lossy.iter().min_by(|a, b| a.1.sent.total_cmp(&b.1.sent))?;
    let fastest = lossy.iter().max_by(|a, b| a.1.sent.total_cmp(&b.1.sent))?;
    let offered = fastest.1.sent / slowest.1.sent;
    let got = fastest.1.arrived / slowest.1.arrived;
    let quiet: Vec<&Stretch> =
        steps.iter().copied().filter(|s| s.through(true).is_some_and(|t| t.lost == 0)).collect();
    let loaded: Vec<&Stretch> = lossy.iter().map(|(s, _)| *s).collect();
    let added = late(&loaded) - late(&quiet);
    let grows = offered >= APART && got.ln() >= 0.5 * offered.ln();
    (!quiet.is_empty() && grows && added > QUEUE).then(|| Shared {
        loss: lossy.iter().map(|(_, t)| t.loss()).fold(0.0, f64::max),
        steps: lossy.iter().map(|(s, _)| *s).collect(),
        added,
    })
}
