//! One stretch of one class of packets: what limits it, if anything does.

use super::bucket::{self, Unit};
use super::delay::{BeforeLoss, Delays};
use super::queue::{self, Coupling};
use super::{Estimate, Packet};

/// Every threshold of this module, with what it is for. They were set on simulated paths whose parameters the tests then
/// leave behind on both sides.
pub mod thresholds {
    /// Share of the uncertainty about losses that a bucket must explain. Loss that merely follows load (TCP probing, on
    /// and off sources) is explained to less than a third.
    pub const EXPLAINED: f64 = 0.55;
    /// The same where the fills at drops lie in a band that chance would leave: the rest is the noise of the clocks.
    pub const EXPLAINED_TIGHT: f64 = 0.22;
    /// The same with many drops.
    pub const EXPLAINED_MANY: f64 = 0.1;
    /// How many times narrower than by chance that band must be.
    pub const TIGHT: f64 = 8.0;
    /// Width of the interval of the rate, as a ratio.
    pub const SHARP: f64 = 0.15;
    /// The same where the bucket was emptied five times or more.
    pub const SHARP_MANY: f64 = 0.45;
    /// Share of drops that must happen at the bucket's level.
    pub const AT_LEVEL: f64 = 0.8;
    /// Most packets above the level that may pass.
    pub const PASSES_ABOVE: f64 = 0.15;
    /// Share of the differences of delay that a queue must explain.
    pub const QUEUED: f64 = 0.85;
    /// The same where a bucket of the same rate explains the losses.
    pub const QUEUED_TOO: f64 = 0.3;
    /// Coupling from which delays are a queue's, and up to which they are not.
    pub const COUPLED: f64 = 0.7;
    /// Coupling at the top of a bucket, from which a queue follows on its burst.
    pub const COUPLED_TOP: f64 = 0.5;
    /// See [`COUPLED`].
    pub const UNCOUPLED: f64 = 0.35;
    /// A policer beside a line of one's own has at most this share of its rate: else they are the same thing.
    pub const BELOW_LINE: f64 = 0.9;
    /// And it explains so much of the losses, since delay says nothing against it.
    pub const EXPLAINED_BESIDE: f64 = 0.7;
    /// And when packets are lost, the line's queue holds at most this share of what it holds at its longest.
    pub const NOT_FULL: f64 = 0.7;
    /// Probability below which delay before losses is no accident.
    pub const BEFORE_LOSS: f64 = 1e-4;
    /// The same before a queue that stands: ranks are all there is to see.
    pub const BEFORE_LOSS_STANDING: f64 = 1e-3;
    /// And how long it is at least, seconds.
    pub const STANDS: f64 = 5e-3;
    /// Mean rank of the delays before the losses of a queue that comes and goes.
    pub const QUEUE_RANK: f64 = 0.8;
    /// Losses expected at low delay, from which their absence would have been seen: by chance, none comes of ten once in
    /// twenty thousand times.
    pub const MET_LOW: f64 = 10.0;
    /// Delay that is none, seconds: no queue of a line that packets are lost on is so short.
    pub const NO_DELAY: f64 = 1e-3;
    /// Rank among all delays that those before losses must have, at the median.
    pub const BEFORE_LOSS_RANK: f64 = 0.75;
    /// Or how many times more often packets must be lost at high delay than at low.
    pub const BEFORE_LOSS_RATIO: f64 = 3.0;
}

/// What limits a stretch.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    /// A token bucket whose excess is dropped.
    Policer {
        /// Bytes per second.
        rate: Estimate,
        /// Bytes.
        burst: Estimate,
        /// How well it fits.
        fit: bucket::Fit,
        /// That delay does not follow its fill.
        coupling: Option<Coupling>,
    },
    /// A queue that is served at a constant rate.
    Shaper {
        /// Bytes per second.
        rate: Estimate,
        /// Bytes that pass at once.
        burst: Estimate,
        /// How well it fits.
        fit: queue::Fit,
    },
    /// A bucket that counts packets.
    Packets {
        /// Packets per second.
        rate: Estimate,
        /// Packets.
        burst: Estimate,
        /// How well it fits.
        fit: bucket::Fit,
    },
    /// A policer or a queue so short that the clocks do not tell.
    Shallow {
        /// Bytes per second.
        rate: Estimate,
        /// Bytes.
        burst: Estimate,
        /// How well it fits.
        fit: bucket::Fit,
    },
}

/// What a stretch shows.
#[derive(Clone, Copy, Debug)]
pub struct Judgement {
    /// Packets sent.
    pub sent: usize,
    /// Packets lost.
    pub lost: usize,
    /// Delay.
    pub delays: Option<Delays>,
    /// Delay before losses.
    pub before_loss: Option<BeforeLoss>,
    /// The queue that explains the delays best, if any explains anything.
    pub queue: Option<queue::Fit>,
    /// The bucket that explains the losses best, if any explains anything.
    pub bucket: Option<bucket::Fit>,
    /// What limits it.
    pub limit: Option<Limit>,
}

impl Judgement {
    /// Losses follow on a queue that fills.
    pub fn is_queue_before_loss(&self) -> bool {
        let Some((before, delays)) = self.before_loss.zip(self.delays) else { return false };
        let by_rank = before.p_rank < thresholds::BEFORE_LOSS && before.rank >= thresholds::BEFORE_LOSS_RANK;
        let by_level =
            before.p_level < thresholds::BEFORE_LOSS && before.ratio >= thresholds::BEFORE_LOSS_RATIO;
        // A queue that is full nearly all the time leaves little to rank: the ranks of its own small changes.
        let stands = delays.median > 0.5 * delays.p95 && delays.median > thresholds::STANDS;
        let by_standing = stands && before.p_rank < thresholds::BEFORE_LOSS_STANDING;
        (by_rank || by_level || by_standing)
            && before.median > (3.0 * delays.noise.max(delays.resolution)).max(500e-6)
    }

    /// Losses have nothing to do with delay: there is no delay to speak of, or they come as often at low delay as at high,
    /// with enough of both seen.
    pub fn is_flat_before_loss(&self) -> bool {
        let Some(delays) = self.delays else { return false };
        if delays.p95 <= thresholds::NO_DELAY {
            return true;
        }
        let Some(b) = self.before_loss.filter(|b| b.periods >= 8) else { return false };
        // Where the queue hardly ever empties, low delay is hardly seen; unless it is so short that it is none, and so many
        // losses would have met it.
        let at_low = (1.0 - b.high_share) * b.periods as f64;
        let is_jitter = delays.p95 <= thresholds::STANDS && at_low >= thresholds::MET_LOW;
        let both = b.high_share >= 0.04 && (b.high_share <= 0.9 || is_jitter);
        // Few periods prove nothing: with so many, a queue's ranks would have shown. The mean of uniform ranks has the
        // standard deviation `1 / sqrt(12 n)`, and 2.33 of them are one in a hundred.
        let could_be = b.mean_rank + 2.33 / (12.0 * b.periods as f64).sqrt();
        let is_seen = could_be < thresholds::QUEUE_RANK;
        b.p_rank > 0.003 && is_seen && both && (b.p_level > 0.003 || b.ratio < 1.5)
    }
}

/// Judges a series, in sending order.
pub fn judge(series: &[Packet]) -> Judgement {
    let lost = series.iter().filter(|p| p.is_lost()).count();
    let delays = Delays::of(series);
    let before_loss = delays.as_ref().and_then(|d| BeforeLoss::of(series, d));
    let queue = delays.as_ref().and_then(|d| queue::fit(series, d));
    let bucket = bucket::fit(series, Unit::Bytes);
    let mut found = Judgement { sent: series.len(), lost, delays, before_loss, queue, bucket, limit: None };
    found.limit = limit(series, &found);
    found
}

/// Whether a bucket explains the losses.
pub fn is_bucket(fit: &bucket::Fit) -> bool {
    let explains = fit.explained >= thresholds::EXPLAINED
        || (fit.explained >= thresholds::EXPLAINED_TIGHT
            && fit.tightness >= thresholds::TIGHT
            && fit.drops >= 30)
        || (fit.explained >= thresholds::EXPLAINED_MANY
            && fit.tightness >= thresholds::TIGHT
            && fit.drops >= 150);
    explains
        && (!fit.is_depth_known || fit.depth.value >= 2.0 * fit.grain)
        && is_sharp(fit)
        && fit.drops_at_level >= thresholds::AT_LEVEL
        && fit.passes_above <= thresholds::PASSES_ABOVE
}

/// Whether the rate is known well enough to be one: sharply, or less so where many visits agree. A stretch of loss after a
/// stretch without looks like one visit to a bucket of almost any rate.
fn is_sharp(fit: &bucket::Fit) -> bool {
    let width = (fit.rate.high - fit.rate.low) / fit.rate.value;
    width < thresholds::SHARP || (fit.visits >= 5 && width < thresholds::SHARP_MANY)
}

/// Whether a queue explains the delays.
pub fn is_queue(fit: &queue::Fit) -> bool {
    fit.explained >= thresholds::QUEUED
}

fn limit(series: &[Packet], found: &Judgement) -> Option<Limit> {
    if let Some(policer) = policer_beside_line(series, found) {
        return Some(policer);
    }
    let shaper =
        found.queue.filter(is_queue).map(|fit| Limit::Shaper { rate: fit.rate, burst: fit.burst, fit });
    let bytes = found.bucket.map_or(0.0, |b| b.explained);
    let packets = (found.lost >= bucket::MIN_DROPS && sizes_differ(series))
        .then(|| bucket::fit(series, Unit::Packets))
        .flatten()
        .filter(|p| is_bucket(p) && p.explained > bytes + 0.08);
    if let Some(fit) = packets
        && shaper.is_none()
    {
        return Some(Limit::Packets { rate: fit.rate, burst: fit.depth, fit });
    }
    let Some(fit) = found.bucket.filter(is_bucket) else { return shaper };
    let same_rate = |q: &queue::Fit| (q.rate.value / fit.rate.value - 1.0).abs() < 0.05;
    let shaper = shaper.or_else(|| {
        found
            .queue
            .filter(|q| q.explained >= thresholds::QUEUED_TOO && same_rate(q))
            .map(|fit| Limit::Shaper { rate: fit.rate, burst: fit.burst, fit })
    });
    let top = found.delays.as_ref().and_then(|d| queue::behind_burst(series, d, &fit));
    if let Some(queue) = top
        && shaper.is_none()
    {
        return Some(Limit::Shaper { rate: queue.rate, burst: queue.burst, fit: queue });
    }
    let coupling = found
        .delays
        .as_ref()
        .and_then(|d| queue::coupling(series, d, fit.rate.value, fit.depth.value, fit.is_depth_known));
    let shallow = Limit::Shallow { rate: fit.rate, burst: fit.depth, fit };
    let Some(c) = coupling else { return Some(shaper.unwrap_or(shallow)) };
    let (low, high) = (c.slope - 3.0 * c.error, c.slope + 3.0 * c.error);
    let is_flat = high < thresholds::UNCOUPLED
        || (c.slope < thresholds::COUPLED && c.at_level < thresholds::UNCOUPLED && high < 1.0);
    if is_flat && found.queue.is_none_or(|q| q.explained < thresholds::QUEUED) {
        return Some(Limit::Policer { rate: fit.rate, burst: fit.depth, fit, coupling });
    }
    if shaper.is_some() {
        return shaper;
    }
    if let Some(queue) = queue::at_first(series, &fit) {
        return Some(Limit::Shaper { rate: queue.rate, burst: queue.burst, fit: queue });
    }
    if low > thresholds::UNCOUPLED && fit.explained < thresholds::EXPLAINED {
        // A queue that others share: some of its losses fit, its delays do not.
        return None;
    }
    Some(shallow)
}

/// A policer of less than the rate of a line of one's own, before or behind it: the line's queue explains the delays, and
/// not the losses, which come when it is not full.
fn policer_beside_line(series: &[Packet], found: &Judgement) -> Option<Limit> {
    let fit = found.bucket.filter(is_bucket)?;
    let (queue, delays) = (found.queue.filter(is_queue)?, found.delays.as_ref()?);
    let is_slower = fit.rate.value < thresholds::BELOW_LINE * queue.rate.value;
    let longest = queue.p95 * queue.rate.value;
    let is_full = queue.limit.is_some_and(|l| l > thresholds::NOT_FULL * longest);
    if !is_slower || is_full || fit.explained < thresholds::EXPLAINED_BESIDE || !fit.is_deep() {
        return None;
    }
    let rest = queue::without(series, delays, &queue);
    let delays = Delays::of(&rest)?;
    if let Some(fit) = queue::behind_burst(&rest, &delays, &fit) {
        return Some(Limit::Shaper { rate: fit.rate, burst: fit.burst, fit });
    }
    let begins_full = fit.is_depth_known;
    let coupling = queue::coupling(&rest, &delays, fit.rate.value, fit.depth.value, begins_full)?;
    let is_flat = coupling.slope + 3.0 * coupling.error < thresholds::UNCOUPLED;
    is_flat.then_some(Limit::Policer { rate: fit.rate, burst: fit.depth, fit, coupling: Some(coupling) })
}

fn sizes_differ(series: &[Packet]) -> bool {
    let mut sizes: Vec<f64> = series.iter().map(|p| p.bytes).collect();
    let low = super::quantile(&mut sizes, 0.1).unwrap_or(0.0);
    let high = super::quantile(&mut sizes, 0.9).unwrap_or(0.0);
    high > 1.3 * low
}
