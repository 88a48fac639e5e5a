//! What is kept of loads: all steps, with bins that grow coarser when there are too many.

use std::time::Duration;

use probe_protocol::time::Timestamp;

use crate::observation::{DelayRange, Fate, FlowNo, Load, LoadBin, Probe};

/// Steps kept; further ones are counted as dropped.
const MAX_STEPS: usize = 16_384;
/// Bins kept over all steps, 72 bytes each. A staircase with two sizes, both directions and bursts has about 20,000.
const MAX_BINS: usize = 131_072;

/// Probes beside a load that are kept singly: a check's are a thousand. Of a longer run the first are.
const MAX_BESIDE: usize = 16_384;

/// A probe of a flow that measures latency under load.
#[derive(Clone, Copy, Debug)]
pub struct Beside {
    /// Which flow.
    pub flow: FlowNo,
    /// When it was sent.
    pub sent: Timestamp,
    /// Its round trip; none where it was lost.
    pub took: Option<Duration>,
}

/// Steps of load in the order in which they were told.
#[derive(Clone, Debug, Default)]
pub struct Loads {
    steps: Vec<Load>,
    bins: usize,
    beside: Vec<Beside>,
}

impl Loads {
    /// All steps.
    pub fn steps(&self) -> &[Load] {
        &self.steps
    }

    /// Whether there was any load.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Probes that were sent beside the load.
    pub fn beside(&self) -> &[Beside] {
        &self.beside
    }

    pub(super) fn note_beside(&mut self, probe: &Probe) {
        if self.beside.len() < MAX_BESIDE && !matches!(probe.fate, Fate::Excluded(_) | Fate::LostUnknown) {
            let took = probe.reply.map(|reply| reply.at.since(probe.sent));
            self.beside.push(Beside { flow: probe.flow, sent: probe.sent, took });
        }
    }

    pub(super) fn note(&mut self, step: &Load, dropped: &mut u64) {
        if self.steps.len() >= MAX_STEPS {
            *dropped += 1;
            return;
        }
        self.bins += step.bins.len();
        self.steps.push(step.clone());
        while self.bins > MAX_BINS && self.coarsen() {}
    }

    /// Joins each pair of neighbouring bins of the step with the most bins.
    fn coarsen(&mut self) -> bool {
        let Some(longest) = self.steps.iter_mut().max_by_key(|step| step.bins.len()) else { return false };
        let before = longest.bins.len();
        if before < 2 {
            return false;
        }
        longest.bins = longest.bins.chunks(2).filter_map(|pair| pair.iter().copied().reduce(join)).collect();
        self.bins -= before - longest.bins.len();
        true
    }
}

/// Two bins as one.
fn join(a: LoadBin, b: LoadBin) -> LoadBin {
    let delay = match (a.delay, b.delay) {
        (Some(x), Some(y)) => {
            let (n, m) = (
                i128::from(a.packets - a.lost.min(a.packets)),
                i128::from(b.packets - b.lost.min(b.packets)),
            );
            let sum = i128::from(x.mean) * n + i128::from(y.mean) * m;
            let mean = i64::try_from(sum / (n + m).max(1)).unwrap_or(x.mean);
            Some(DelayRange { min: x.min.min(y.min), mean, max: x.max.max(y.max) })
        }
        (one, other) => one.or(other),
    };
    LoadBin {
        at: a.at,
        packets: a.packets.saturating_add(b.packets),
        bytes: a.bytes.saturating_add(b.bytes),
        lost: a.lost.saturating_add(b.lost),
        lost_bytes: a.lost_bytes.saturating_add(b.lost_bytes),
        delay,
    }
}

#[cfg(test)]
mod tests {
    use probe_protocol::wire::hello::Carrier;

    use super::*;
    use crate::observation::{FlowNo, LoadExperiment};

    fn step(bins: usize) -> Load {
        let bin = |n: usize| LoadBin {
            at: Timestamp(n as u64 * 1_000),
            packets: 2,
            bytes: 200,
            lost: 1,
            lost_bytes: 100,
            delay: Some(DelayRange { min: n as i64, mean: n as i64, max: n as i64 }),
        };
        Load {
            flow: FlowNo(1),
            step: 0,
            experiment: LoadExperiment::Rehearsal,
            up: true,
            carrier: Carrier::Udp,
            size: 100,
            offered_bps: 1_000_000,
            tos: 0,
            from: Timestamp(0),
            to: Timestamp(bins as u64 * 1_000),
            stopped_early: false,
            beside: Vec::new(),
            bins: (0..bins).map(bin).collect(),
        }
    }

    #[test]
    fn memory_is_bounded_and_nothing_is_lost_from_the_counts() {
        let (mut loads, mut dropped) = (Loads::default(), 0);
        for _ in 0..10 {
            loads.note(&step(MAX_BINS / 4 + 1), &mut dropped);
        }
        let bins: usize = loads.steps().iter().map(|s| s.bins.len()).sum();
        assert!(bins <= MAX_BINS && bins > MAX_BINS / 4, "{bins}");
        let bytes: u64 = loads.steps().iter().flat_map(|s| &s.bins).map(|b| b.bytes).sum();
        assert_eq!(bytes, 10 * (MAX_BINS as u64 / 4 + 1) * 200);
        for s in loads.steps() {
            assert_eq!(s.bins.last().and_then(|b| b.delay).map(|d| d.max), Some(MAX_BINS as i64 / 4));
            assert!(s.bins.windows(2).all(|pair| pair[0].at < pair[1].at));
        }
        assert_eq!(dropped, 0);
    }

    #[test]
    fn steps_beyond_the_bound_are_counted() {
        let (mut loads, mut dropped) = (Loads::default(), 0);
        (0..=MAX_STEPS).for_each(|_| loads.note(&step(1), &mut dropped));
        assert_eq!((loads.steps().len(), dropped), (MAX_STEPS, 1));
    }
}
