//! What steps depend on: the limit that the earlier ones of their direction have shown, and what those left on the path.

use std::time::Duration;

use probe_protocol::time::Timestamp;
use probe_protocol::wire::hello::Carrier;

use super::watch::{Limit, Progress, Shown};
use super::{LoadRun, Part, lock};
use crate::plan::load::{Adapt, LoadStep, Share, When};

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
            let rate = part.order.rate_bps as f64 / (f64::from(part.order.size) * 8.0);
            let sent = rate * now.since(part.begun).as_secs_f64().min(part.order.length().as_secs_f64());
            Some(Progress { sent, received: tally.packets, delay: transfer.last_delay() })
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
            let known = &mut self.limits[usize::from(!part.order.up)];
            let finds = |a: &Adapt| a.when == When::Free || a.same_size;
            match (watch.shown(), *known) {
                (Shown::Limited(packets), _) if finds(adapt) => {
                    *known = Some(Limit { packets, size: part.order.size });
                }
                // It was taken for lower than it is.
                (Shown::Free, Some(limit)) if adapt.same_size => {
                    *known = Some(Limit { packets: limit.packets.max(offered), ..limit });
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
