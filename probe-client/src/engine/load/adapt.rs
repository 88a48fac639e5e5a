//! What steps depend on: the limit that the earlier ones of their direction have shown, and what those left on the path.

use std::time::Duration;

use probe_protocol::bulk::Order;
use probe_protocol::time::Timestamp;
use probe_protocol::wire::hello::Carrier;

use super::watch::{HELD, Limit, Progress, Shown};
use super::{LoadRun, Part, lock};
use crate::plan::load::{Adapt, LoadExperiment, LoadStep, Share, When};

/// What a step leaves on the path is waited for until nothing more arrives for this long.
const DRAINED: Duration = Duration::from_millis(120);
/// But not longer than this.
const DRAIN_WITHIN: Duration = Duration::from_millis(1500);
/// The lowest rate that a limit makes of a step, bits per second.
const LEAST_BPS: u64 = 64_000;
/// Below this rate of the limit, the counts of earlier steps are fetched before the next: they would take part of it.
const COUNTS_DISTURB: f64 = 3e6;

/// What the last step left on the path.
#[derive(Clone, Debug)]
pub(super) struct Draining {
    parts: Vec<Part>,
    arrived: u64,
    grown: Timestamp,
    until: Timestamp,
}

/// A step that only a limit which is none lets through.
fn is_far_above(adapt: &Adapt) -> bool {
    adapt.same_size && matches!(adapt.rates.first(), Some(Share::Bits(150..)))
}

impl LoadRun {
    /// The step with the rates that the limit found so far gives it; none where it is not to be played.
    pub(super) fn adapted(&self, mut step: LoadStep) -> Option<LoadStep> {
        let Some(adapt) = step.adapts.clone() else { return Some(step) };
        let limit = step.parts.first().and_then(|part| self.limits[usize::from(!part.up)]);
        let plays = match adapt.when {
            When::Always => true,
            When::Free => limit.is_none(),
            When::Limited => limit.is_some(),
        };
        if !plays {
            return None;
        }
        if let Some(limit) = limit {
            for (part, share) in step.parts.iter_mut().zip(&adapt.rates) {
                if adapt.same_size {
                    part.size = limit.size;
                }
                let rate = match share {
                    // The first step above a limit stays below the second, however near the limit is to the highest.
                    Share::Bits(percent @ 101..150) => {
                        let middle = f64::midpoint(limit.bps(), part.rate_bps as f64);
                        (limit.bps() * *percent as f64 / 100.0).min(middle)
                    }
                    Share::Bits(percent) => limit.bps() * *percent as f64 / 100.0,
                    Share::Packets(percent) => {
                        limit.packets * *percent as f64 / 100.0 * f64::from(part.size) * 8.0
                    }
                };
                part.rate_bps = (rate as u64).max(LEAST_BPS).min(part.rate_bps);
            }
        }
        Some(step)
    }

    /// Whether counts that are still fetched would take part of what the step measures.
    pub(super) fn waits_for_counts(&self, now: Timestamp, step: &LoadStep) -> bool {
        let measures = step.adapts.as_ref().is_some_and(|a| a.when == When::Limited);
        let limit = step.parts.first().and_then(|part| self.limits[usize::from(!part.up)]);
        let is_slow = limit.is_some_and(|l| l.bps() < COUNTS_DISTURB);
        let recent = self.counting.iter().any(|c| now < c.to + DRAIN_WITHIN);
        measures && is_slow && recent
    }

    /// How far the first part has come.
    pub(super) fn progress(&self, now: Timestamp) -> Option<Progress> {
        let part = self.parts.first()?;
        let transfer = lock(self.transfers.get(&part.flow)?);
        let tally = transfer.tally(part.order.number)?;
        if part.order.up {
            let sack = transfer.acknowledged().filter(|s| s.order == part.order.number)?;
            Some(Progress { sent: tally.packets as f64, received: sack.received, delay: sack.delay })
        } else {
            // What the listener has sent is told by the numbers of what arrived, not by what it was asked for: a listener
            // that is behind is no limit. Behind the last one wait as many as its delay has grown by; and where nothing
            // arrives any more, all that should have.
            let rate = part.order.rate_bps as f64 / (f64::from(part.order.size) * 8.0);
            let told = transfer.receipts().highest().map_or(0, |h| (h + 1).saturating_sub(part.first_seq));
            let delay = transfer.last_delay();
            let silent = now.since(tally.last.unwrap_or(part.begun));
            let held = if silent >= HELD { silent.as_secs_f64() } else { 0.0 };
            let sent = told as f64 + rate * (delay.max(0) as f64 / 1e9 + held);
            Some(Progress { sent, received: tally.packets, delay })
        }
    }

    pub(super) fn look(&mut self, now: Timestamp) {
        let progress = self.watch.is_some().then(|| self.progress(now)).flatten();
        if let Some(watch) = &mut self.watch {
            watch.note(now, progress);
        }
    }

    /// Draws the conclusion of the step that ends. True where what it left on the path is waited for.
    pub(super) fn conclude(&mut self, now: Timestamp, step: &LoadStep) -> bool {
        let Some(adapt) = &step.adapts else { return false };
        let watch = self.watch.take();
        if let (Some(watch), Some(part)) = (&watch, self.parts.first()) {
            let offered = part.order.rate_bps as f64 / (f64::from(part.order.size) * 8.0);
            let way = usize::from(!part.order.up);
            let finds = |a: &Adapt| a.when == When::Free || a.same_size;
            match (watch.shown(), self.limits[way]) {
                (Shown::Limited(packets), _) if finds(adapt) => {
                    self.limits[way] = Some(Limit { packets, size: part.order.size });
                }
                // Far above it everything got through: what was taken for a limit was none, and it is looked for again.
                (Shown::Free, Some(_)) if is_far_above(adapt) && !self.climbed_again[way] => {
                    self.climbed_again[way] = true;
                    if let Some(at) = self.stair_above(&part.order) {
                        self.limits[way] = None;
                        self.next_step = at;
                    }
                }
                // It was taken for lower than it is.
                (Shown::Free, Some(limit)) if adapt.same_size => {
                    self.limits[way] = Some(Limit { packets: limit.packets.max(offered), ..limit });
                }
                (Shown::Free | Shown::Limited(_), _) => {}
            }
        }
        let on_stream = self.parts.iter().any(|p| p.carrier != Carrier::Udp);
        let waits = on_stream || watch.is_some_and(|w| w.is_queued());
        self.draining = waits.then(|| Draining {
            arrived: self.arrived(&self.parts),
            parts: self.parts.clone(),
            grown: now,
            until: now + DRAIN_WITHIN,
        });
        waits
    }

    /// The first step of the stair with the same direction and size whose rate is above that of an order.
    fn stair_above(&self, order: &Order) -> Option<usize> {
        self.plan.steps.iter().position(|step| {
            step.experiment == LoadExperiment::Staircase
                && step.adapts.as_ref().is_some_and(|a| a.when == When::Free)
                && step
                    .parts
                    .first()
                    .is_some_and(|p| p.up == order.up && p.size == order.size && p.rate_bps > order.rate_bps)
        })
    }

    /// Packets of these parts that are known to have arrived.
    pub(super) fn arrived(&self, parts: &[Part]) -> u64 {
        let of = |part: &Part| {
            let transfer = lock(self.transfers.get(&part.flow)?);
            if part.order.up {
                transfer.acknowledged().map(|s| s.received)
            } else {
                transfer.tally(part.order.number).map(|t| t.packets)
            }
        };
        parts.iter().filter_map(of).sum()
    }

    /// Whether packets of the last step still arrive.
    pub(super) fn is_draining(&mut self, now: Timestamp) -> bool {
        let Some(mut draining) = self.draining.take() else { return false };
        let arrived = self.arrived(&draining.parts);
        if arrived > draining.arrived {
            (draining.arrived, draining.grown) = (arrived, now);
        }
        let goes_on = now < draining.until && now.since(draining.grown) < DRAINED;
        if goes_on {
            self.draining = Some(draining);
        }
        goes_on
    }
}
