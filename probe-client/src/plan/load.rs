//! Loads as data: which rates are offered on which flows, one step after the other.

use std::time::Duration;

pub use probe_analysis::observation::LoadExperiment;

/// The load of a run. Its flows are those of the plan with [`Purpose::Bulk`](super::Purpose::Bulk), found by name; a
/// step whose flows are not open is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadPlan {
    /// When it begins, since the start of the run.
    pub first: Duration,
    /// When it is over at the latest, since the start of the run: steps that would not end before are left out.
    pub until: Duration,
    /// The steps, in this order.
    pub steps: Vec<LoadStep>,
    /// Time between two steps, in which queues drain and buckets fill.
    pub gap: Duration,
    /// How often progress is looked at.
    pub tick: Duration,
}

/// One step: some flows, at the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadStep {
    /// What it is for.
    pub experiment: LoadExperiment,
    /// What is sent.
    pub parts: Vec<LoadPart>,
    /// How long.
    pub length: Duration,
    /// Length of the bins that are told; zero for one bin per packet.
    pub bin: Duration,
    /// It ends as soon as loss or delay says enough.
    pub stops_early: bool,
    /// A long step is told in slices of this length while it goes on.
    pub slice: Option<Duration>,
    /// Where a slice arrives with a fifth of it missing, a fresh flow sends the same for so long beside the old one.
    pub fresh: Option<Duration>,
    /// Steps of one stair, the rates of which ascend, have the same number: after two that ended early, the others are
    /// left out.
    pub stair: u16,
    /// How it depends on what the earlier steps of its direction have shown; none where it does not.
    pub adapts: Option<Adapt>,
}

/// How a step depends on the limit that the earlier steps of its direction have shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adapt {
    /// When it is played.
    pub when: When,
    /// The rates of its parts; those of the parts themselves are then the highest that they may have. Parts without one
    /// send as they say.
    pub rates: Vec<Share>,
    /// In datagrams of the length with which the limit was found.
    pub same_size: bool,
    /// It ends after this time where nothing is lost or held up, and else as soon as the limit is known. None: it takes
    /// its whole length.
    pub quiet: Option<Duration>,
}

/// When a step is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Always.
    Always,
    /// As long as its direction has shown no limit.
    Free,
    /// Once it has shown one.
    Limited,
}

/// A rate by the limit that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// Percent of its bits per second.
    Bits(u64),
    /// Percent of its packets per second, whatever the length of these.
    Packets(u64),
}

/// What one flow sends in a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadPart {
    /// Name of the flow.
    pub flow: String,
    /// On the way up (client to listener) or down.
    pub up: bool,
    /// Bits per second.
    pub rate_bps: u64,
    /// Length of a block, bytes.
    pub size: u16,
    /// Blocks that leave at once at the start.
    pub burst: u32,
    /// TOS or traffic class byte.
    pub tos: u8,
}

impl LoadPlan {
    /// How long the steps take, pauses included, on a path without trouble or on one with limits, whichever is longer.
    pub fn duration(&self) -> Duration {
        let takes = |skips| self.without(skips).map(|step| step.usual() + self.gap).sum();
        Duration::max(takes(When::Limited), takes(When::Free)).min(self.until.saturating_sub(self.first))
    }

    /// Bytes that all steps move at most.
    pub fn bytes(&self) -> u64 {
        let moves = |skips| self.without(skips).map(LoadStep::bytes).sum();
        u64::max(moves(When::Limited), moves(When::Free))
    }

    /// All but these. The stair that finds the limit is played in any case.
    fn without(&self, skips: When) -> impl Iterator<Item = &LoadStep> {
        let is_stair = |step: &LoadStep| step.experiment == LoadExperiment::Staircase;
        self.steps.iter().filter(move |step| {
            let when = step.adapts.as_ref().map_or(When::Always, |a| a.when);
            when != skips || (when == When::Free && is_stair(step))
        })
    }

    /// The highest rate of any step, one direction, bits per second.
    pub fn peak_bps(&self) -> u64 {
        let peak = |step: &LoadStep| {
            let way = |up: bool| step.parts.iter().filter(|p| p.up == up).map(|p| p.rate_bps).sum::<u64>();
            way(true).max(way(false))
        };
        self.steps.iter().map(peak).max().unwrap_or(0)
    }

    /// The shortest time between two blocks of one flow.
    pub fn shortest_interval(&self) -> Option<Duration> {
        let parts = self.steps.iter().flat_map(|s| &s.parts);
        parts.filter(|p| p.rate_bps > 0).map(LoadPart::interval).min()
    }
}

impl LoadStep {
    /// How long it takes where nothing is wrong.
    pub fn usual(&self) -> Duration {
        self.adapts.as_ref().and_then(|a| a.quiet).map_or(self.length, |quiet| quiet.min(self.length))
    }

    fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes(self.usual())).sum()
    }
}

impl LoadPart {
    /// Time between two blocks.
    pub fn interval(&self) -> Duration {
        Duration::from_nanos(u64::from(self.size) * 8_000_000_000 / self.rate_bps.max(1))
    }

    fn bytes(&self, length: Duration) -> u64 {
        let paced = u128::from(self.rate_bps) * length.as_micros() / 8_000_000;
        u64::try_from(paced).unwrap_or(u64::MAX).saturating_add(u64::from(self.burst) * u64::from(self.size))
    }
}
